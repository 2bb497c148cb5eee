"""A node, the bridge and a robot in three processes. The robot's types are written anew from the
ROS message definitions (`ros_robot.py`): nothing of ours helps it to understand us.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ureca.client.client import Client
from ureca.datatypes import RegionSeed
from ureca.errors import RequestError
from ureca.protocol.events import CaptionFinal

pytest.importorskip("cyclonedds", reason="the bridge over DDS was not proven: pip install '.[ros]'")

ROBOT = Path(__file__).parent / "ros_robot.py"
LOCAL = """<CycloneDDS><Domain Id="any"><General><Interfaces><NetworkInterface name="lo"/>
</Interfaces><AllowMulticast>false</AllowMulticast></General><Discovery>
<ParticipantIndex>auto</ParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""
BOX = (40.0, 30.0, 100.0, 80.0)
ROBOT_S = 100
"""At most; it ends when it has heard enough."""


def until(found: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if result := found():
                return result
        except RequestError as error:
            if error.code != "NO_STREAM":
                raise
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def caption(client: Client) -> CaptionFinal:
    return next(e for e in client.events({"caption.final"}, 60) if isinstance(e, CaptionFinal))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_process_reads_detections_whose_stamps_are_the_frames(processes, tmp_path):
    frames = f"ipc://{tmp_path}/frames"
    domain = 100 + os.getpid() % 100
    node = processes.node("--source", f"zmq+{frames}")
    bridge = processes.ureca(
        *("ros", "--image", "/camera/image_raw=cam0", "--frames", frames),
        *("--masks", "mono16", "--domain", domain),
    )
    robot = processes.start(ROBOT, domain, ROBOT_S, CYCLONEDDS_URI=LOCAL)
    with processes.client() as client:
        seed = RegionSeed(rid="square", box_xyxy_px=BOX, label="a red square")
        until(lambda: client.add_region("cam0", seed))
        # The robot's picture came through DDS and the bridge, and the node said what it is.
        final = caption(client)
    assert final.text == "a red thing"
    heard = json.loads(robot.communicate(timeout=120)[0])
    code, _, err = processes.interrupt(bridge)
    assert code == 0, err
    assert "detections" in err
    code, out, err = processes.interrupt(node)
    assert code == 0, err
    assert "every frame and caption is accounted for" in out

    sent = set(heard["sent"])
    stamps = [stamp for stamp, _, _ in heard["detections"]]
    assert len(stamps) > 5
    assert set(stamps) <= sent, "a stamp changed on its way"
    assert stamps == sorted(set(stamps)), "a frame came twice, or late"
    assert {frame_id for _, frame_id, _ in heard["detections"]} == {"camera_optical_frame"}

    rows = [(stamp, row) for stamp, _, found in heard["detections"] for row in found]
    assert rows
    assert all(row["stamp"] == stamp and row["id"] == "square" for stamp, row in rows)
    captioned = [row for _, row in rows if row["results"]]
    assert captioned
    assert captioned[-1]["results"] == [["a red thing", pytest.approx(0.5)]]
    assert captioned[-1]["middle"] == pytest.approx([70, 55], abs=3)
    assert captioned[-1]["size"] == pytest.approx([60, 50], abs=3)

    by_stamp = {s["stamp"]["sec"] * 10**9 + s["stamp"]["nanosec"]: s for s in heard["captions"]}
    assert len(set(stamps) & by_stamp.keys()) > 5
    side = by_stamp[max(set(stamps) & by_stamp.keys())]
    region = side["regions"][0]
    assert (region["caption"], region["holds"], region["mask_value"]) == ("a red thing", True, 1)
    about = region["about"]["sec"] * 10**9 + region["about"]["nanosec"]
    assert min(sent) <= about <= max(stamps)

    assert len(heard["masks"]) > 5
    assert {stamp for stamp, *_ in heard["masks"]} <= sent
    _, encoding, size, middle, corner = heard["masks"][-1]
    assert (encoding, size, middle, corner) == ("mono16", [160, 120, 2 * 160 * 120], 1, 0)
    named = dict(map(tuple, ((s, tuple(n.items())) for s, n in heard["labels"])))
    assert named[heard["masks"][-1][0]] == (("1", "a red thing"),)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_process_reads_maps_of_segments_and_their_names(processes, tmp_path):
    frames = f"ipc://{tmp_path}/frames"
    domain = 100 + os.getpid() % 100
    whole = ("--panoptic", "--set", "segmenter.model=scripted", "--set", "segmenter.every_frames=3")
    node = processes.node("--source", f"zmq+{frames}", *whole)
    bridge = processes.ureca(
        *("ros", "--image", "/camera/image_raw=cam0", "--frames", frames),
        *("--panoptic", "--domain", domain),
    )
    robot = processes.start(ROBOT, domain, ROBOT_S, "panoptic", CYCLONEDDS_URI=LOCAL)
    heard = json.loads(robot.communicate(timeout=120)[0])
    code, _, err = processes.interrupt(bridge)
    assert code == 0, err
    assert "panoptic_labels" in err
    processes.interrupt(node)

    sent, named = set(heard["sent"]), dict(heard["map_labels"])
    assert {stamp for stamp, *_ in heard["maps"]} <= sent, "a stamp changed on its way"
    assert set(named) <= sent
    assert {(encoding, *size) for _, encoding, size, *_ in heard["maps"]} == {
        ("mono16", 160, 120, 2 * 160 * 120)
    }
    captioned = [
        row for row in heard["maps"] if "thing" in named.get(row[0], {}).get(str(row[3]), "")
    ]
    assert len(captioned) >= 5
    assert {named[row[0]][str(row[3])] for row in captioned} == {"a red thing"}
    assert {row[3] for row in captioned} == {captioned[0][3]}, "its value stays"
    assert all(row[4] != row[3] for row in captioned), "the ground is another segment"
    assert not heard["masks"], "masks were not asked for"
