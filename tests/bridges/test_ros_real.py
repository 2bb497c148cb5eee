"""Both bridges against a process of real `rclpy` (ROS 2 Kilted and Jazzy, from PyPI).

`URECA_ROS_KILTED` and `URECA_ROS_JAZZY` name interpreters of environments that have it, with what
`ureca` needs; without them they are made. These packages have no vision_msgs: detections and labels
are not looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bridges.conftest import Processes
from tests.bridges.test_ros_processes import until
from ureca.bridges.ros.matching import FASTDDS_PROFILE
from ureca.datatypes import RegionSeed

pytest.importorskip("cyclonedds", reason="the bridge over DDS was not proven: pip install '.[ros]'")

ROBOT = Path(__file__).parent / "rclpy_robot.py"
ROS = {
    "KILTED": ("ros-rclpy==9.1.2", "ros-rmw-fastrtps-cpp", "ros-sensor-msgs"),
    "JAZZY": ("ros-jazzy-rclpy==7.1.6", "ros-jazzy-rmw-fastrtps-cpp", "ros-jazzy-sensor-msgs"),
}
NEEDED = ("pyzmq", "msgspec", "msgpack", "pyyaml", "numpy", "argcomplete")
LOCAL = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@pytest.fixture(scope="module", params=ROS)
def ros(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ros_python(ros: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    given = os.environ.get(f"URECA_ROS_{ros}")
    if given:
        return given
    folder = tmp_path_factory.mktemp("ros") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", *ROS[ros], *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT PROVEN with real ROS: {ROS[ros][0]} cannot be had: {done.stderr[-200:]}")
    return python


def start(processes: Processes, python: str, *command: object, **env: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [python, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROBOT.parents[2],
        env={**os.environ, "PYTHONPATH": str(ROBOT.parents[2]), **LOCAL, **env},
    )
    processes._all.append(child)
    return child


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["--rclpy", "profile", "plain"])
def test_a_robot_of_real_ros(
    processes: Processes, ros: str, ros_python: str, tmp_path: Path, way: str
) -> None:
    frames, domain = f"ipc://{tmp_path}/frames", str(100 + os.getpid() % 100)
    (tmp_path / "profile.xml").write_text(FASTDDS_PROFILE)
    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(tmp_path / "profile.xml")}
    env = {"ROS_DOMAIN_ID": domain, **(profile if way == "profile" else {})}
    processes.node("--source", f"zmq+{frames}")
    where = ("--events", processes.events, "--requests", processes.requests)
    bridge = start(
        processes,
        ros_python if way == "--rclpy" else sys.executable,
        *("-m", "ureca", "ros", *where, "--image", "/camera/image_raw=cam0"),
        *("--frames", frames, "--masks", "mono16", *([way] if way == "--rclpy" else [])),
        ROS_DOMAIN_ID=domain,
    )
    is_deaf = (ros, way) == ("KILTED", "plain")
    robot = start(processes, ros_python, ROBOT, 25 if is_deaf else 120, **env)
    if not is_deaf:
        with processes.client() as client:
            seed = RegionSeed(rid="square", box_xyxy_px=(40, 30, 100, 80), label="a red square")
            until(lambda: client.add_region("cam0", seed), timeout_s=90)
    out, err = robot.communicate(timeout=150)
    heard = json.loads(out) if out else pytest.fail(err)
    _, _, said = processes.interrupt(bridge)
    assert "Traceback" not in said, said
    if is_deaf:
        assert heard["masks"] == []
        assert "/camera/image_raw is seen, but it does not match" in said
        assert "ureca ros --fastdds-profile" in said
        return
    assert len(heard["masks"]) >= 5, said
    assert set(heard["masks"]) <= set(heard["sent"]), "a stamp changed on its way"
    side = json.loads(heard["captions"][-1])
    assert side["regions"][0]["id"] == "square"
    if way == "--rclpy":
        assert "detections is not published" in said
