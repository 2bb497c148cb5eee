"""One rule for the pictures of cameras, whichever way they come in: ZeroMQ, HTTP, requests."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.node.inputs_rig import MjpegServer, jpeg, picture, rig, until
from ureca.client.shared import describe_args
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame, Image, RegionSeed
from ureca.node.config import LimitsConfig, NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.requests.attached_pictures import AttachedPicture, PictureQueue
from ureca.node.sources.frame_receiver import FrameReceiver
from ureca.protocol.frames import Encoding, FrameHeader, encode_frame


def sideways(image: Image) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "JPEG", exif=exif.tobytes())
    return file.getvalue()


KINDS = {
    "bytes of the maker behind": jpeg(0) + b"Dahua\x00\x01\x02",
    "a newline behind": jpeg(0) + b"\r\n",
    "padded with zeros": jpeg(0) + bytes(64),
    "without end marker": jpeg(0)[:-2],
    "without end marker, padded": jpeg(0)[:-2] + bytes(64),
    "on its side": sideways(picture(0)),
}


class Receiver:
    """A link's receiver with its counters."""

    def __init__(self, config: NodeConfig | None = None) -> None:
        clock = MonotonicClock()
        self.counters = NodeCounters()
        self._receiver = FrameReceiver(
            config or NodeConfig(), clock=clock, counters=self.counters, is_local=True
        )
        self._receiver.prepare()
        self._clock, self._seq = clock, 0

    def send(self, enc: Encoding, pixels: bytes, image: Image) -> Frame | None:
        """Receive one message."""
        frame = Frame("cam0", bytes(16), self._seq, self._clock.now_ns(), image)
        self._seq += 1
        parts = encode_frame(FrameHeader.of(frame, enc), pixels, "camera")
        self._receiver.came(parts[0])
        return self._receiver.frame(parts)

    def dropped(self) -> dict[str, int]:
        return dict(self.counters.balance().frames_dropped)

    def close(self) -> None:
        self._receiver.close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_over_zeromq(receiver: Receiver, data: bytes) -> None:
    frame = receiver.send("jpeg", data, picture(0))
    assert frame is not None, receiver.dropped()
    upright = np.rot90(picture(0), -1) if data == KINDS["on its side"] else picture(0)
    assert np.abs(frame.image.astype(int) - upright).mean() < 12


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_in_a_request(data: bytes) -> None:
    box = RegionSeed(box_xyxy_px=(1, 1, 9, 9))
    args, attached = describe_args(box, None, data, "short")
    assert args.picture is not None
    assert attached is not None
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    decoder = Decoder(NodeConfig())
    waiting = PictureQueue(decoder, MonotonicClock(), limit=1, max_px=1 << 20)
    try:
        waiting.put(
            AttachedPicture(args.picture, attached, 1 << 62, (b"", b""), answers.put, answers.put)
        )
        image = answers.get(timeout=60)
    finally:
        waiting.close()
        decoder.close()
    assert isinstance(image, np.ndarray), image
    assert image.shape[:2] in ((96, 128), (128, 96))


def test_over_http(tmp_path: Path) -> None:
    """The first picture is cut, as webcams send it; then each kind comes."""
    wanted = [data for name, data in KINDS.items() if name != "on its side"]
    count = 0

    def next_jpeg(number: int) -> bytes:
        nonlocal count
        count += 1
        return jpeg(0)[:-300] if count == 1 else wanted[number % len(wanted)]

    with (
        MjpegServer(next_jpeg) as server,
        rig(tmp_path, f"http://{server.address}/cam.mjpg") as node,
    ):
        until(lambda: node.processed >= 10, "pictures over HTTP")
        assert node.dropped.get("decode_error", 0) <= 1


def test_raw_pixels_are_measured_like_any_other() -> None:
    config = replace(NodeConfig(), limits=LimitsConfig(max_image_px=1000))
    small = Receiver(config)
    try:
        for enc, size in (("rgb8", 96 * 128 * 3), ("nv12", 96 * 128 * 3 // 2)):
            assert small.send(enc, bytes(size), picture(0)) is None  # type: ignore[arg-type]
        assert small.dropped() == {"too_large": 2}
    finally:
        small.close()


def test_hostile_pictures_are_counted_drops_and_nothing_else(receiver: Receiver) -> None:
    before = receiver.dropped().get("decode_error", 0)
    whole = jpeg(0)
    draw = np.random.default_rng(5)
    refused = 0
    for _ in range(200):
        cut = whole[: int(draw.integers(700, len(whole) - 40))]
        refused += receiver.send("jpeg", cut, picture(0)) is None
    assert refused == 200
    assert receiver.dropped()["decode_error"] - before == 200
    assert receiver.send("jpeg", whole, picture(0)) is not None
