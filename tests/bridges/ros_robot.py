"""A robot of its own: ROS 2 types written from the `.msg` files, nothing imported from ureca.

    ros_robot.py DOMAIN SECONDS [panoptic]

Publishes a camera (a red square on grey, one image in three compressed elsewhere) with stamps that
no clock would give by chance, listens to what the bridge says until that is enough, at most for so
many seconds, and prints all of it as one JSON. With `panoptic` enough is some named maps of
segments.
"""

import json
import sys
import time
from dataclasses import dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float32, float64, int32, sequence, uint8, uint16, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

WIDTH, HEIGHT = 160, 120
ENOUGH = 20


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs::msg::dds_::CompressedImage_"):
    header: Header
    format: str
    data: sequence[uint8]


@dataclass
class Point2D(IdlStruct, typename="vision_msgs::msg::dds_::Point2D_"):
    x: float64
    y: float64


@dataclass
class Pose2D(IdlStruct, typename="vision_msgs::msg::dds_::Pose2D_"):
    position: Point2D
    theta: float64


@dataclass
class BoundingBox2D(IdlStruct, typename="vision_msgs::msg::dds_::BoundingBox2D_"):
    center: Pose2D
    size_x: float64
    size_y: float64


@dataclass
class ObjectHypothesis(IdlStruct, typename="vision_msgs::msg::dds_::ObjectHypothesis_"):
    class_id: str
    score: float64


@dataclass
class Point(IdlStruct, typename="geometry_msgs::msg::dds_::Point_"):
    x: float64
    y: float64
    z: float64


@dataclass
class Quaternion(IdlStruct, typename="geometry_msgs::msg::dds_::Quaternion_"):
    x: float64
    y: float64
    z: float64
    w: float64


@dataclass
class Pose(IdlStruct, typename="geometry_msgs::msg::dds_::Pose_"):
    position: Point
    orientation: Quaternion


@dataclass
class PoseWithCovariance(IdlStruct, typename="geometry_msgs::msg::dds_::PoseWithCovariance_"):
    pose: Pose
    covariance: array[float64, 36]


@dataclass
class ObjectHypothesisWithPose(
    IdlStruct, typename="vision_msgs::msg::dds_::ObjectHypothesisWithPose_"
):
    hypothesis: ObjectHypothesis
    pose: PoseWithCovariance


@dataclass
class Detection2D(IdlStruct, typename="vision_msgs::msg::dds_::Detection2D_"):
    header: Header
    results: sequence[ObjectHypothesisWithPose]
    bbox: BoundingBox2D
    id: str


@dataclass
class Detection2DArray(IdlStruct, typename="vision_msgs::msg::dds_::Detection2DArray_"):
    header: Header
    detections: sequence[Detection2D]


@dataclass
class String(IdlStruct, typename="std_msgs::msg::dds_::String_"):
    data: str


@dataclass
class VisionClass(IdlStruct, typename="vision_msgs::msg::dds_::VisionClass_"):
    class_id: uint16
    class_name: str


@dataclass
class LabelInfo(IdlStruct, typename="vision_msgs::msg::dds_::LabelInfo_"):
    header: Header
    class_map: sequence[VisionClass]
    threshold: float32


RELIABLE = Qos(
    Policy.Reliability.Reliable(duration(seconds=1)),
    Policy.Durability.Volatile,
    Policy.History.KeepLast(10),
)
SENSOR = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(5))


def picture() -> bytes:
    rows = [[(96, 100, 104)] * WIDTH for _ in range(HEIGHT)]
    for y in range(30, 80):
        for x in range(40, 100):
            rows[y][x] = (200, 30, 30)
    return bytes(value for row in rows for pixel in row for value in pixel)


def ns(header: Header) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def value(image: Image, x: int, y: int) -> int:
    """A pixel of a mono16 image."""
    at = y * image.step + 2 * x
    return image.data[at] + 256 * image.data[at + 1]


def main(domain: int, seconds: float, heard_enough) -> None:
    participant = DomainParticipant(domain)

    def reader(name, kind, qos):
        return DataReader(participant, Topic(participant, f"rt/ureca/cam0/{name}", kind), qos=qos)

    camera = DataWriter(participant, Topic(participant, "rt/camera/image_raw", Image), qos=SENSOR)
    boxes = reader("detections", Detection2DArray, RELIABLE)
    words = reader("captions", String, RELIABLE)
    masks = reader("masks", Image, SENSOR)
    names = reader("labels", LabelInfo, RELIABLE)
    maps = reader("panoptic", Image, SENSOR)
    map_names = reader("panoptic_labels", LabelInfo, RELIABLE)
    pixels, found = picture(), {"sent": [], "detections": [], "captions": [], "masks": []}
    found |= {"labels": [], "maps": [], "map_labels": []}
    start_ns, end, count = time.monotonic_ns(), time.monotonic() + seconds, 0
    while time.monotonic() < end and not heard_enough(found):
        # A spot that moves, as noise would: a picture that stays the same is a camera that hangs.
        noisy = bytearray(pixels)
        noisy[3 * (count % WIDTH)] = 255
        passed_ns = 1_700_000_000_987_654_321 + time.monotonic_ns() - start_ns
        stamp = Time(passed_ns // 1_000_000_000, passed_ns % 1_000_000_000)
        header = Header(stamp, "camera_optical_frame")
        camera.write(Image(header, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, bytes(noisy)))
        found["sent"].append(ns(header))
        count += 1
        time.sleep(0.1)
        for sample in boxes.take(N=100):
            found["detections"].append([ns(sample.header), sample.header.frame_id, rows(sample)])
        found["captions"] += [json.loads(sample.data) for sample in words.take(N=100)]
        for sample in masks.take(N=100):
            found["masks"].append(looked_at(sample))
        found["maps"] += [looked_at(sample) for sample in maps.take(N=100)]
        for key, reader_of_names in (("labels", names), ("map_labels", map_names)):
            for sample in reader_of_names.take(N=100):
                named = {entry.class_id: entry.class_name for entry in sample.class_map}
                found[key].append([ns(sample.header), named])
    sys.stdout.write(json.dumps(found))


def looked_at(image: Image) -> list:
    """Stamp, encoding, sizes, and the values in the middle of the square and at the corner."""
    size = [image.width, image.height, len(image.data)]
    return [ns(image.header), image.encoding, size, value(image, 70, 55), value(image, 0, 0)]


def heard_maps(found: dict[str, list]) -> bool:
    """Some maps whose square has a caption."""
    named = dict(map(tuple, found["map_labels"]))
    return sum("thing" in named.get(row[0], {}).get(row[3], "") for row in found["maps"]) >= 5


def heard_captions(found: dict[str, list]) -> bool:
    """Captioned detections, and as many of everything else, so that there is something to check."""
    captioned = [1 for *_, rows in found["detections"] if any(row["results"] for row in rows)]
    return min(len(captioned), len(found["captions"]), len(found["masks"])) >= ENOUGH


def rows(sample: Detection2DArray) -> list:
    return [
        {
            "stamp": ns(one.header),
            "id": one.id,
            "results": [[r.hypothesis.class_id, r.hypothesis.score] for r in one.results],
            "middle": [one.bbox.center.position.x, one.bbox.center.position.y],
            "size": [one.bbox.size_x, one.bbox.size_y],
        }
        for one in sample.detections
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), heard_maps if sys.argv[3:] else heard_captions)
