"""Every command of the documents: run here as it stands there, run by another test, or not run for
a reason that is given. A command that is new in a document must be put into one of the three.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time

import cv2
import pytest

from tests.docs.test_docs import PAGES, ROOT, commands

NODE = "run --source clip.mp4 --prompts prompts.json"
RUN = [
    "--version",
    "doctor",
    "completion bash",
    "completion zsh",
    "completion fish",
    "keys new node -o keys",
    "keys new robot -o keys",
    "keys new camera -o keys",
    "keys allow keys/robot.key --role request -o keys",
    "keys allow keys/node.key --role observe -o keys",
    "weights list",
    "describe photo.jpg --box 40,30,200,180",
    "describe photo.jpg --box 40,30,200,180 --point 320,200 --render out.png",
    f"{NODE} --render out.mp4",
    f"{NODE} --record run.mcap",
    "replay run.mcap --runs 2",
    "run --panoptic --source clip.mp4 --render out.mp4",
]
"""In this order, each in the same folder."""
BESIDE = ["health", "watch", "watch --duration 5", "rerun --save run.rrd --duration 60"]
"""Beside a node that runs `NODE`; what has no end is ended after some seconds."""
ELSEWHERE = {
    r"run( --view)?|view": "tests/viewer/test_server.py",
    r"(run|describe) .*--bundle configs/server/.*": "tests/system/test_server_captioner.py",
    r"run --source clip.mp4 .*": "tests/system/test_node_process.py",
    r"run --panoptic .* --record .*": "tests/node/test_record_segments.py",
    r"run --auto .*": "tests/node/test_auto_command.py",
    r"run --config .*segmenter.yaml .*": "tests/node/test_segmenter.py",
    r"run --source (zmq|credit)\+.*": "tests/node/test_inputs_camera_command.py",
    r"camera clip.mp4 --loop --shm .*": "tests/node/test_inputs_camera_command.py",
    r"camera clip.mp4 --loop --bind tcp.*|run --source zmq\+tcp://10.*|watch --events tcp://10.*|"
    r"view robot.local.*": "tests/system/test_two_hosts.py",
    r"ros.*": "tests/bridges/test_ros_processes.py",
    r"bench node .*": "tests/system/test_bench_node.py",
    r"bench engine .*": "tests/parity/test_bench.py",
    r"bench report .*": "tests/models/test_bench_report.py",
    r"describe picture.jpg --bundle bundle .*": "tests/mllm/test_graphs.py",
    r"bench track .*": "tests/node/test_bench_track.py",
    r"weights get .*": "tests/contract/test_weights.py",
    r"(export|verify) .*": "tests/parity/test_verify.py",
    r"(find|describe .* --text) .*": "tests/node/test_find_command.py",
    r"describe .* --(attributes|style dense).*": "tests/node/test_describe_command.py",
    r"eval dlc .*": "tests/models/test_eval_dlc.py",
    r"eval vip .*": "tests/models/test_eval_vip.py",
    r"eval res .*": "tests/models/test_eval_res.py",
    r"eval panoptic --video .*": "tests/models/test_eval_panoptic_videos.py",
    r"eval panoptic .*": "tests/models/test_eval_panoptic.py",
    r"run --source pan/pan.mp4 .*": "tests/node/test_panoptic_maps.py",
    r"panoptic --coco .*": "tests/node/test_panoptic_maps.py",
    r"panoptic .*": "tests/node/test_panoptic_command.py",
    r"eval .*": "tests/models/test_eval_command.py",
    r"caption .*": "tests/models/test_runtime_caption_command.py",
    r"data check .*": "tests/models/test_data_check.py",
    r"data import webdataset .*|data shards .*": "tests/readers/test_shards.py",
    r"data import coco .*": "tests/readers/test_coco.py",
    r"data import refcoco .*": "tests/readers/test_refcoco.py",
    r"data import grefcoco .*": "tests/readers/test_grefcoco.py",
    r"data import refcocom .*": "tests/readers/test_refcocom.py",
    r"data import flickr30k .*": "tests/readers/test_flickr30k.py",
    r"data import vg .*": "tests/readers/test_visual_genome.py",
    r"data import pix2cap .*": "tests/readers/test_pix2cap.py",
    r"data import compositioncap .*": "tests/readers/test_compositioncap.py",
    r"data import ureca .*": "tests/readers/test_sa1b.py",
    r"worlds res .*": "tests/worlds/test_worlds_queries.py",
    r"worlds pan .*": "tests/worlds/test_worlds_pan.py",
    r"worlds .*": "tests/worlds/test_worlds_make.py",
    r"curate panoptic .*": "tests/curation/test_panoptic.py",
    r"curate .*": "tests/curation/test_run.py",
    r"mllm pix2cap .*|(panoptic|run) .*--bundle runs/pix2cap.*": "tests/mllm/test_pix2cap.py",
    r"mllm unires .*|(describe|eval res) .*--bundle runs/unires.*": "tests/mllm/test_unires.py",
    r"mllm (join|wrap|train) .*fine.*|mllm plan --family .*": "tests/mllm/test_finecaption_path.py",
    r"mllm .*|run --bundle bundle .*": "tests/mllm/test_whole_path.py",
    r"train .*": "tests/models/test_training.py",
}
"""Pattern to the test that runs the command with data, models or peers of its own making."""
NOT_RUN = {
    r".*(v4l2|rtsp)://.*": "needs a camera; the sources' tests have fakes and real servers",
    r"run --bundle bundle-gpu|export .* --runtime auto": "needs a GPU",
}


def _documented():
    return {" ".join(words) for page in PAGES for words in commands(page)}


def test_every_command_is_run_or_says_why_not():
    patterns = [*NOT_RUN, *ELSEWHERE]
    known = {NODE, *RUN, *BESIDE}
    unknown = [
        text
        for text in sorted(_documented() - known)
        if not any(re.fullmatch(pattern, text) for pattern in patterns)
    ]
    assert unknown == []
    assert known <= _documented() | {NODE}
    assert [test for test in ELSEWHERE.values() if not (ROOT / test).is_file()] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader of the documents has at hand: a clip with prompts, and a photograph."""
    place = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "configs/demo/tabletop.mp4", place / "clip.mp4")
    shutil.copy(ROOT / "configs/demo/prompts.json", place / "prompts.json")
    ok, image = cv2.VideoCapture(str(place / "clip.mp4")).read()
    assert ok
    cv2.imwrite(str(place / "photo.jpg"), image)
    return place


def _words(text, place, duration_s=3):
    """The command with addresses of its own, so that a node of somebody else is left alone."""
    command, *rest = text.split()
    events, requests = (f"ipc://{place}/{name}" for name in ("events", "requests"))
    if command == "run":
        rest += ["--set", f"publish.events={events}", "--set", f"publish.requests={requests}"]
        rest += ["--duration", str(duration_s)]
    elif command in {"doctor", "watch", "rerun", "health"}:
        rest += ["--requests", requests]
        rest += ["--timeout", "60"] if command == "health" else ["--events", events]
    return [sys.executable, "-m", "ureca", command, *rest]


def _needs(module):
    """Without importing it: some start threads."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _start(text, place):
    return subprocess.Popen(
        _words(text, place),
        cwd=place,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_commands_do_as_the_documents_say(folder):
    for text in RUN:
        for option, module in {"--record": "mcap", "--render": "PIL"}.items():
            if option in text:
                _needs(module)
        process = _start(text, folder)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"ureca {text}\n{said}"
        assert said.strip(), text
    made = {path.name for path in folder.iterdir()}
    assert {"keys", "out.png", "out.mp4", "run.mcap"} <= made


@pytest.fixture(scope="module")
def node(folder):
    """A node that is well, for all of `BESIDE`."""
    process = subprocess.Popen(
        _words(f"{NODE} --loop", folder, duration_s=600),
        cwd=folder,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_well(folder)
        yield
    finally:
        process.kill()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("text", BESIDE)
def test_commands_beside_a_node_do_as_the_documents_say(text, folder):
    if text.startswith("rerun"):
        _needs("rerun")
    process = _start(text, folder)
    try:
        if text == "watch":  # it has no end
            said = process.stdout.readline()
            process.terminate()
        elif text.startswith("rerun"):
            said = _wait_until_written(folder / "run.rrd", process)
            process.terminate()
        else:
            said = process.stdout.read()
        code = process.wait(60)
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert said, text
    assert code in ({0, 130, -15} if text == "watch" or text.startswith("rerun") else {0}), said


def _wait_until_written(path, process):
    while not path.exists() or path.stat().st_size < 10_000:  # more than its head
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return path.name


def _wait_until_well(place):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        process = _start("health", place)
        process.communicate(timeout=120)
        if process.returncode == 0:
            return
    raise AssertionError("no node answered")
