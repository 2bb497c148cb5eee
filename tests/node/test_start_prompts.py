"""Prompts that a node is started with begin on the first picture that is there, and what never
began is said.
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.node.conftest import Replay
from tests.node.inputs_rig import MjpegServer, jpeg, picture, rig, until
from tests.ports import free_port
from ureca.client.frame_publisher import FramePublisher
from ureca.clock import ManualClock
from ureca.datatypes import Frame, RegionSeed, TextPrompt
from ureca.node.counters import NodeCounters
from ureca.node.monitoring.prompt_report import PromptReport
from ureca.node.monitoring.run_report import NO_REGIONS_HINT, RunReport
from ureca.node.monitoring.terminal_view import TerminalView
from ureca.node.pipeline.start_prompts import StartPrompts

ROOT = Path(__file__).resolve().parents[2]
BOX = RegionSeed(rid="thing", box_xyxy_px=(20, 20, 60, 60))
LATER = RegionSeed(rid="later", box_xyxy_px=(70, 20, 110, 60))
OUTSIDE = RegionSeed(rid="outside", box_xyxy_px=(700, 400, 800, 500))


def frames(*numbers: int, stream: str = "cam0", session_id: bytes = bytes(16)) -> list[Frame]:
    return [
        Frame(stream, session_id, seq, 1_000_000_000 + (place + 1) * 40_000_000, picture(seq % 99))
        for place, seq in enumerate(numbers)
    ]


def begun(node: Replay) -> list[tuple[str, int]]:
    return [(event.rid, event.seq) for event in node.events.of("track.new")]  # type: ignore[attr-defined]


# --- when they begin ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3, 1_700_000_000])
def test_a_prompt_begins_on_the_first_picture_whatever_its_number(first: int) -> None:
    node = Replay(prompts={0: (BOX,), 2: (LATER,)})
    node.play(frames(first, first + 1, first + 4))
    at = first + 4 if first == 0 else first
    assert begun(node) == [("thing", first), ("later", at)]
    assert node.pipeline.prompt_report() == PromptReport(2, 2, (), (), first + 4)


def test_each_stream_and_each_session_begins_anew() -> None:
    node = Replay(prompts={0: (BOX,)})
    node.play(frames(5, 6))
    node.play(replace(frame, stream="cam1") for frame in frames(9))
    node.play(frames(0, 1, session_id=bytes([1] * 16)))
    assert [seq for _, seq in begun(node)] == [5, 9, 0]


def test_the_frame_that_a_prompt_begins_on_is_kept_by_source_and_step_alike() -> None:
    source, step = StartPrompts({0: (BOX,), 7: (BOX,)}), StartPrompts({0: (BOX,), 7: (BOX,)})
    kept = [frame for frame in frames(*range(2, 12)) if source.due(frame)]
    assert [frame.seq for frame in kept] == [2, 7]
    assert [step.due(frame) for frame in kept] == [(BOX,), (BOX,)]


def tar_with_a_first_picture_of(folder: Path, first: bytes) -> Path:
    path = folder / "clip.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(6):
            data = jpeg(number) if number else first
            info = tarfile.TarInfo(f"{number:03}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("first", [jpeg(0)[:-300], b"\0\5\x16\7 of macOS", b""])
def test_a_first_picture_that_is_broken(tmp_path: Path, first: bytes) -> None:
    path = tar_with_a_first_picture_of(tmp_path, first)
    with rig(tmp_path, str(path), realtime=False) as node:
        assert node.node.wait(60)
        assert node.dropped == {"decode_error": 1}
        assert node.node.prompt_report().begun == 1
    (region,) = node.events.of("track.new")
    assert region.seq == 1  # type: ignore[attr-defined]


def test_a_camera_whose_first_picture_is_broken(tmp_path: Path) -> None:
    def part(number: int) -> bytes:
        return jpeg(number) if number else jpeg(0)[:-300]

    with (
        MjpegServer(part) as server,
        rig(tmp_path, f"http://{server.address}/cam.mjpg") as node,
    ):
        until(lambda: node.events.of("track.new"), "the region begins")


@pytest.mark.parametrize("first", [500, 1_700_000_000])
def test_a_camera_that_runs_already(tmp_path: Path, first: int) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with FramePublisher(address) as camera:
        camera.next_seq = first
        with rig(tmp_path, f"zmq+{address}") as node:

            def send() -> bool:
                camera.send(picture(camera.next_seq % 99))
                time.sleep(0.02)
                return bool(node.events.of("track.new"))

            until(send, "the region begins")


# --- what is said ---------------------------------------------------------------------------------


def test_an_unused_prompt_is_said_in_health_after_a_while() -> None:
    node = Replay(prompts={0: (BOX,), 1000: (LATER,)})
    assert node.runner.reasons() == []
    node.clock.advance(ns=6_000_000_000)
    assert node.runner.reasons() == [
        "1 prompt waits for frame 0: no frame has come yet",
        "1 prompt waits for frame 1000: no frame has come yet",
    ]
    node.play(dataclasses.replace(frame, captured_ns=node.clock.now_ns()) for frame in frames(3))
    assert node.runner.reasons() == ["1 prompt waits for frame 1000: the last one was 3"]


def test_why_a_prompt_was_refused_is_kept() -> None:
    node = Replay(prompts={0: (OUTSIDE, BOX, TextPrompt("a mug"))})
    node.play(frames(4))
    report = node.pipeline.prompt_report()
    assert (report.given, report.begun, report.waiting) == (3, 1, ())
    box, text = report.refused
    assert "outside" in box
    assert "no weights for texts" in text


def balance_of(processed: int, dropped: int = 0) -> NodeCounters:
    counters = NodeCounters()
    for _ in range(processed):
        counters.frame_in()
        counters.frame_processed()
    for _ in range(dropped):
        counters.frame_in()
        counters.frame_dropped("decode_error")
    return counters


@pytest.mark.parametrize(
    ("counters", "prompts", "said", "not_said"),
    [
        (balance_of(0), PromptReport(1), "no frame came\n            from rtsp", "given"),
        (balance_of(0, 3), PromptReport(1), "none of 3 frames could be used", "given"),
        (balance_of(2), PromptReport(1, 0, ("outside 4x3",)), "a prompt: outside 4x3", "none were"),
        (
            balance_of(2),
            PromptReport(2, 0, (), (9, 9), 1),
            "2 prompts wait for frame 9: the last one was 1, which never came",
            "none were given",
        ),
        (balance_of(2), PromptReport(), "none were given", "never came"),
        (balance_of(2), PromptReport(1, 1), "accounting", "none were given"),
    ],
)
def test_the_summary_tells_the_true_reason(
    counters: NodeCounters, prompts: PromptReport, said: str, not_said: str
) -> None:
    text = RunReport().text(
        counters.balance(), seconds=1, prompts=prompts, sources=["from rtsp://host/…"]
    )
    assert said in text
    assert not_said not in text


def test_the_live_table_says_what_is_wrong_and_how_to_give_regions() -> None:
    clock = ManualClock(0)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with TerminalView(clock, console) as view:
        view.draw(balance_of(0).balance(), "running", ["1 prompt waits for frame 0"])
        clock.advance(ns=4_000_000_000)
        view.draw(balance_of(5).balance(), "running")
        clock.advance(ns=4_000_000_000)
        view.draw(balance_of(5).balance(), "running")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 prompt waits for frame 0" in shown
    assert NO_REGIONS_HINT[:40] in shown


# --- exit codes -----------------------------------------------------------------------------------


def ran(*options: object) -> tuple[int, str]:
    """`ureca run` with the scripted engine, as a process."""
    ports = ("publish.events", "publish.requests")
    sockets = [
        part for name in ports for part in ("--set", f"{name}=tcp://127.0.0.1:{free_port()}")
    ]
    command = [sys.executable, "-m", "tests.system.scripted_node", *map(str, options), *sockets]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_exit_codes_and_reasons_of_whole_runs(tmp_path: Path) -> None:
    clip = tar_with_a_first_picture_of(tmp_path, jpeg(0))
    code, said = ran("--source", clip, "--no-realtime", "--box", "20,20,60,60")
    assert (code, "none were given" in said) == (0, False), said
    code, said = ran("--source", clip, "--no-realtime", "--box", "700,400,800,500")
    assert code == 2, said
    assert "outside" in said
    assert "none were given" not in said
    code, said = ran(
        "--source", clip, "--no-realtime", "--box", "20,20,60,60", "--box", "700,400,800,500"
    )
    assert code == 0, said
    assert "a prompt: " in said
    code, said = ran("--source", f"http://127.0.0.1:{free_port()}/x", "--duration", "1")
    assert code == 2, said
    assert "no frame came" in said
    assert "from http://127.0.0.1" in said
