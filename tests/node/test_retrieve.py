"""No picture leaves a source unless a decoder wrote it. `clips/make.sh` has made the clips."""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.inputs_rig import rig, until
from ureca.client.client import Client
from ureca.clock import ManualClock, MonotonicClock
from ureca.config import from_plain
from ureca.datatypes import Frame, Image, RegionSeed
from ureca.errors import RequestError, SourceError
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.node import Node
from ureca.node.recording.header import head_of
from ureca.node.recording.reader import pictures
from ureca.node.recording.recorder import Recorder
from ureca.node.sources.camera_status import ConnectionStatus
from ureca.node.sources.factory import open_source
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

CLIPS = Path(__file__).parent / "clips"
INTERLACED = sorted(CLIPS.glob("interlaced-*"))
MIXED = sorted(CLIPS.glob("mixed-*"))
GOOD = sorted(
    p for p in CLIPS.iterdir() if p not in {*INTERLACED, *MIXED, CLIPS / "make.sh"} and p.suffix
)
BOX = RegionSeed(rid="thing", box_xyxy_px=(10, 10, 60, 50))
PATTERN = 0xA5


_M_PERTURB = -6


@contextlib.contextmanager
def patterned_heap(value: int = PATTERN) -> Iterator[None]:
    """Memory that the C library hands out meanwhile is full of `value`."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("the heap is filled through glibc's mallopt")
    mallopt(_M_PERTURB, value ^ 0xFF)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


@pytest.fixture(name="magenta")
def _magenta(tmp_path: Path) -> Path:
    """A clip of 96 x 64 unlike every other one, to be played before."""
    path = tmp_path / "magenta.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (96, 64))
    for _ in range(8):
        writer.write(np.full((64, 96, 3), (255, 0, 255), np.uint8))
    writer.release()
    return path


def source_of(path: Path, **source: object) -> tuple[Iterator[Frame], NodeCounters]:
    """The frames of a file, as fast as they are taken."""
    counters = NodeCounters()
    uri = SourceConfig(uri=str(path), realtime=False, **source)  # type: ignore[arg-type]
    config = replace(NodeConfig(), source=uri)
    opened = open_source(config, clock=ManualClock(), counters=counters, wait=lambda _: False)
    return opened.frames(), counters


def is_foreign(image: Image) -> bool:
    """Whether a good part of a picture is the pattern of the heap, or the magenta clip."""
    flat = image.reshape(-1, 3).astype(int)
    is_pattern = (flat == PATTERN).all(1) | (flat == PATTERN ^ 0xFF).all(1)
    is_magenta = (flat[:, 0] > 230) & (flat[:, 1] < 25) & (flat[:, 2] > 230)
    return bool(is_pattern.mean() > 0.3 or is_magenta.mean() > 0.5)


def is_drawn(image: Image) -> bool:
    """Whether it is FFmpeg's test picture, which has nearly the same mean in all our clips."""
    return 74 < image.mean() < 88 and not is_foreign(image)


@pytest.mark.parametrize("path", [*INTERLACED, *MIXED], ids=lambda p: p.name)
def test_an_interlaced_file_is_deinterlaced_and_no_foreign_pixel_leaves(path: Path) -> None:
    frames, counters = source_of(path)
    left = list(frames)
    assert len(left) == (16 if path in MIXED else 6)
    assert all(is_drawn(frame.image) for frame in left)
    assert len({frame.image.tobytes() for frame in left}) > len(left) / 2  # no repeated buffer
    assert counters.balance().frames_dropped == {}


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.name)
def test_good_files_are_played_whole(path: Path) -> None:
    frames, counters = source_of(path)
    with patterned_heap():
        left = list(frames)
    assert len(left) == (3 if path.stem in {"mjpeg", "ffv1-rgb"} else 6)
    assert all(is_drawn(frame.image) for frame in left)
    assert counters.balance().frames_dropped == {}


@pytest.mark.parametrize("name", ["interlaced-h264.mp4", "mixed-ipi.m2v"])
def test_what_was_played_before_is_not_recorded_or_shown(
    tmp_path: Path, magenta: Path, name: str
) -> None:
    assert len(list(source_of(magenta)[0])) == 8
    with patterned_heap():
        node, _, shown, recorded = run_recorded(tmp_path, CLIPS / name)
    assert node.failure is None
    assert len(recorded) == (16 if name.startswith("mixed") else 6)
    assert all(is_drawn(image) for image in recorded + shown)
    assert node.counters.balance().closed


def run_recorded(folder: Path, clip: Path) -> tuple[Node, EventCapture, list[Image], list[Image]]:
    """A whole node on a clip: the node, its events, previews and recorded pictures."""
    path, clock, capture = folder / "run.mcap", MonotonicClock(), EventCapture()
    addresses = {"events": f"ipc://{folder}/e", "requests": f"ipc://{folder}/r"}
    plain = {"publish": addresses, "source": {"uri": str(clip), "realtime": False}}
    config, engine = from_plain(NodeConfig, plain), ScriptedEngine()
    prompts = {0: (BOX,)}
    recorder = Recorder(path, clock=clock, head=head_of(config, prompts, engine.info))
    sinks = [capture, recorder]
    node = Node(config, engine, clock=clock, prompts=prompts, sinks=sinks, recorder=recorder)
    shown: list[Image] = []
    try:
        node.start()
        with Client.connect(*addresses.values(), timeout_s=20) as client:
            with contextlib.suppress(RequestError):
                shown.append(decode_picture(client.picture("cam0").jpeg))
            assert node.wait(60)
    finally:
        node.close()
        recorder.close()
    return node, capture, shown, [image for _, image in pictures(path)]


# --- live --------------------------------------------------------------------------------------


class VideoServer:
    """HTTP that sends a clip over and over, as encoders send a transport or elementary stream."""

    def __init__(self, clip: Path) -> None:
        data, stop = clip.read_bytes(), threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not stop.wait(0.1):
                        self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._stop = stop
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}/{clip.name}"

    def __enter__(self) -> VideoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("name", ["interlaced-mpeg2.ts", "mixed-pip.m2v"])
def test_a_live_interlaced_stream_is_deinterlaced(tmp_path: Path, magenta: Path, name: str) -> None:
    assert len(list(source_of(magenta)[0])) == 8
    with (
        patterned_heap(),
        VideoServer(CLIPS / name) as server,
        rig(tmp_path, server.uri, read_timeout_s=2.0) as node,
        Client.connect(f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/requests") as client,
    ):
        until(lambda: node.processed >= 10, "pictures")
        for _ in range(20):
            assert is_drawn(decode_picture(client.picture("cam0").jpeg))
            time.sleep(0.02)
        assert "decodes" not in node.reason()


def test_a_bad_picture_is_forgotten_after_a_good_one() -> None:
    clock = ManualClock(1)
    line = ConnectionStatus("cam0", SourceConfig(read_timeout_s=1.0), clock)
    line.came()
    line.bad("set it to progressive")
    clock.advance(ns=2_000_000_000)
    assert line.reasons() == ("cam0: no picture decodes for 2 s: set it to progressive",)
    line.up()
    line.came()
    clock.advance(ns=2_000_000_000)
    assert line.reasons() == ("cam0: no picture decodes for 2 s",)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_damaged_pictures_hold_nothing_of_the_heap(suffix: str) -> None:
    whole = bytes(cv2.imencode(suffix, SyntheticSource().image(0)[..., ::-1])[1])
    damage = np.random.default_rng(1)
    for _ in range(60):
        cut = int(damage.integers(len(whole) // 3, len(whole)))
        data = bytearray(whole[:cut] + (b"\xff\xd9" if suffix == ".jpg" else whole[cut + 3 :]))
        data[int(damage.integers(len(data) // 3, len(data) - 2))] ^= 0x55
        assert decoded(bytes(data), PATTERN) == decoded(bytes(data), 0x13)


def decoded(data: bytes, heap: int) -> bytes | None:
    with patterned_heap(heap), contextlib.suppress(SourceError):
        return decode_picture(data).tobytes()
    return None
