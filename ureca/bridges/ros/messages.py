"""The ROS 2 messages of the bridge, as plain dataclasses with the fields of the `.msg`
files, in their order (common_interfaces and vision_msgs 4, Humble to Rolling).

A field's annotation has its ROS type; `ros_name` is the ROS name of the class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

I32 = Annotated[int, "int32"]
U32 = Annotated[int, "uint32"]
U16 = Annotated[int, "uint16"]
U8 = Annotated[int, "uint8"]
F32 = Annotated[float, "float32"]
F64 = Annotated[float, "float64"]
Bytes = Annotated[bytes, "uint8[]"]
Matrix36 = Annotated[tuple[float, ...], "float64[36]"]


class Message:
    """Base of all messages."""

    ros_name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class Time(Message):
    """Seconds and nanoseconds of the Unix epoch."""

    ros_name = "builtin_interfaces/msg/Time"
    sec: I32 = 0
    nanosec: U32 = 0


@dataclass(frozen=True)
class Header(Message):
    """When a picture was captured, and in which coordinate frame."""

    ros_name = "std_msgs/msg/Header"
    stamp: Time = Time()
    frame_id: str = ""


@dataclass(frozen=True)
class String(Message):
    """A text."""

    ros_name = "std_msgs/msg/String"
    data: str = ""


@dataclass(frozen=True)
class Image(Message):
    """Raw pixels: `step` bytes a row."""

    ros_name = "sensor_msgs/msg/Image"
    header: Header = Header()
    height: U32 = 0
    width: U32 = 0
    encoding: str = ""
    is_bigendian: U8 = 0
    step: U32 = 0
    data: Bytes = b""


@dataclass(frozen=True)
class CompressedImage(Message):
    """A JPEG or PNG file."""

    ros_name = "sensor_msgs/msg/CompressedImage"
    header: Header = Header()
    format: str = ""
    data: Bytes = b""


@dataclass(frozen=True)
class Point(Message):
    """A place in space, unused."""

    ros_name = "geometry_msgs/msg/Point"
    x: F64 = 0.0
    y: F64 = 0.0
    z: F64 = 0.0


@dataclass(frozen=True)
class Quaternion(Message):
    """A direction in space, unused."""

    ros_name = "geometry_msgs/msg/Quaternion"
    x: F64 = 0.0
    y: F64 = 0.0
    z: F64 = 0.0
    w: F64 = 1.0


@dataclass(frozen=True)
class Pose(Message):
    """A place and a direction in space, unused."""

    ros_name = "geometry_msgs/msg/Pose"
    position: Point = Point()
    orientation: Quaternion = Quaternion()


@dataclass(frozen=True)
class PoseWithCovariance(Message):
    """A pose, unused: an image has none."""

    ros_name = "geometry_msgs/msg/PoseWithCovariance"
    pose: Pose = Pose()
    covariance: Matrix36 = (0.0,) * 36


@dataclass(frozen=True)
class Point2D(Message):
    """A place in the picture, px."""

    ros_name = "vision_msgs/msg/Point2D"
    x: F64 = 0.0
    y: F64 = 0.0


@dataclass(frozen=True)
class Pose2D(Message):
    """A place and a direction in the picture."""

    ros_name = "vision_msgs/msg/Pose2D"
    position: Point2D = Point2D()
    theta: F64 = 0.0


@dataclass(frozen=True)
class BoundingBox2D(Message):
    """A box by its middle and its size, px."""

    ros_name = "vision_msgs/msg/BoundingBox2D"
    center: Pose2D = Pose2D()
    size_x: F64 = 0.0
    size_y: F64 = 0.0


@dataclass(frozen=True)
class ObjectHypothesis(Message):
    """What something may be."""

    ros_name = "vision_msgs/msg/ObjectHypothesis"
    class_id: str = ""
    score: F64 = 0.0


@dataclass(frozen=True)
class ObjectHypothesisWithPose(Message):
    """The same, with a pose that stays empty."""

    ros_name = "vision_msgs/msg/ObjectHypothesisWithPose"
    hypothesis: ObjectHypothesis = ObjectHypothesis()
    pose: PoseWithCovariance = PoseWithCovariance()


@dataclass(frozen=True)
class Detection2D(Message):
    """One region."""

    ros_name = "vision_msgs/msg/Detection2D"
    header: Header = Header()
    results: tuple[ObjectHypothesisWithPose, ...] = ()
    bbox: BoundingBox2D = BoundingBox2D()
    id: str = ""


@dataclass(frozen=True)
class Detection2DArray(Message):
    """All regions of one frame."""

    ros_name = "vision_msgs/msg/Detection2DArray"
    header: Header = Header()
    detections: tuple[Detection2D, ...] = ()


@dataclass(frozen=True)
class VisionClass(Message):
    """A pixel value of a mask image and its name."""

    ros_name = "vision_msgs/msg/VisionClass"
    class_id: U16 = 0
    class_name: str = ""


@dataclass(frozen=True)
class LabelInfo(Message):
    """The names of a mask image's pixel values."""

    ros_name = "vision_msgs/msg/LabelInfo"
    header: Header = Header()
    class_map: tuple[VisionClass, ...] = field(default=())
    threshold: F32 = 0.0
