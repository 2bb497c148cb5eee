"""Cameras that send when they are asked, over real sockets."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from tests.node.inputs_rig import picture, until
from ureca.client.frame_publisher import FrameDealer
from ureca.clock import ManualClock
from ureca.datatypes import Frame, Image
from ureca.errors import WireError
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.credit_receiver import CreditFrames
from ureca.protocol.flow_control import (
    CreditAsk,
    CreditGrant,
    decode_ask,
    decode_grant,
    encode_credit,
)


class Taker:
    """The node's side: a thread that reads the source and takes a frame when it is told to. Its
    clock stands still.
    """

    def __init__(self, address: str, count: int = 1) -> None:
        self.counters, self.stop = NodeCounters(), threading.Event()
        self.frames: list[Frame] = []
        self.clock = ManualClock(time.monotonic_ns())  # however busy the machine is
        config = replace(NodeConfig(), source=SourceConfig(credits=count, max_age_ms=600_000))
        self.source = CreditFrames(
            f"credit+{address}",
            config,
            clock=self.clock,
            counters=self.counters,
            wait=self.stop.wait,
        )
        self._thread = threading.Thread(target=self._read, name="taker")
        self._thread.start()

    def _read(self) -> None:
        for frame in self.source.frames():
            self.frames.append(frame)

    def superseded(self) -> int:
        """Frames that came together with a newer one."""
        return self.counters.balance().frames_dropped.get("superseded", 0)

    def take(self) -> None:
        """Work on the newest frame; those before it were superseded."""
        self.source.taken(self.frames[-1])

    def close(self) -> None:
        self.stop.set()
        self._thread.join()
        self.counters.frame_dropped("shutdown", len(self.frames))
        assert self.counters.balance().closed, self.counters.balance()

    def __enter__(self) -> Taker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def dealer(address: str, **more: object) -> Iterator[FrameDealer]:
    with contextlib.closing(FrameDealer(address, **more)) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/frames"


@pytest.mark.parametrize("count", [1, 2])
def test_no_frame_is_sent_or_encoded_that_nobody_asked_for(address: str, count: int) -> None:
    encoded = []

    def encode(image: Image) -> bytes:
        encoded.append(1)
        return image.tobytes()

    with Taker(address, count) as node, dealer(address, encoder=encode, enc="rgb8") as camera:

        def settled() -> bool:
            return len(node.frames) + node.superseded() == camera.sent

        assert camera.wait(20)
        tried = 0
        while tried < 40 or camera.wait(0.5):  # of two that come together one gives its credit back
            camera.send(picture(tried))
            tried += 1
            if tried >= 40:
                until(settled, "what was asked for")
        superseded = node.superseded()
        assert camera.sent == len(encoded) == count + superseded < 10
        assert len(node.frames) == count
        node.take()
        assert camera.wait(20)
        assert camera.send(picture(tried)) == tried
        until(lambda: len(node.frames) == count + 1, "the next")
        assert node.frames[-1].seq == tried
        gap = {"link_gap": tried - count - superseded, "superseded": superseded}
        assert node.counters.balance().frames_dropped == {why: n for why, n in gap.items() if n}


def test_a_frame_that_nobody_takes_gives_its_credit_back_in_the_end(address: str) -> None:
    with Taker(address) as node, dealer(address) as camera:
        for number in range(3):
            assert camera.wait(20)
            camera.send(picture(number))
            until(lambda count=number: len(node.frames) == count + 1, "a frame")  # type: ignore[misc]
            assert not camera.wait(0.1)
            node.clock.advance(ms=1100)


def test_a_bad_frame_gives_its_credit_back_at_once(address: str) -> None:
    with (
        Taker(address) as node,
        dealer(address, encoder=lambda _: JPEG_START, enc="jpeg") as camera,
    ):
        assert camera.wait(20)
        with pytest.raises(WireError):
            camera.send(picture(0))  # our own side looks at it as well
        bad = [b"ureca2/camera/cam0/frame\0", b"\x80", b""]
        camera._send(bad)  # what a broken camera would do
        camera.sent += 1
        until(lambda: node.counters.balance().frames_dropped == {"bad_schema": 1}, "counted")
        assert camera.wait(20)
        assert not node.frames


JPEG_START = b"\xff\xd8"


def test_several_cameras_have_credits_of_their_own(address: str) -> None:
    with (
        Taker(address) as node,
        dealer(address, stream="left") as left,
        dealer(address, stream="right") as right,
    ):
        assert left.wait(20)
        assert right.wait(20)
        left.send(picture(0))
        until(lambda: len(node.frames) == 1, "left")
        right.send(picture(0))
        until(lambda: len(node.frames) == 2, "right")
        assert {frame.stream for frame in node.frames} == {"left", "right"}
        node.source.taken(node.frames[0])
        assert left.wait(20)
        assert right.credits == 0
        assert node.source.counters() == {"cameras": 2}


def test_a_node_that_restarts_asks_anew(address: str) -> None:
    with dealer(address) as camera:
        with Taker(address) as node:
            assert camera.wait(20)
            camera.send(picture(0))
            until(lambda: len(node.frames) == 1, "a frame")
        assert not camera.wait(0.2)
        with Taker(address) as node:
            assert camera.wait(20), "credits that were lost with the node come anew"
            camera.send(picture(1))
            until(lambda: len(node.frames) == 1, "a frame")
            assert node.frames[0].seq == 1


def test_nonsense_from_a_dealer_ends_nothing(address: str) -> None:
    with Taker(address) as node, zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        for parts in ([b""], [b"\xff" * 40], [b"", b""], [b"x"] * 7, [b"\x80"]):
            socket.send_multipart(parts)
        until(lambda: node.counters.balance().frames_dropped == {"bad_schema": 2}, "two messages")
        with dealer(address) as camera:
            assert camera.wait(20)


def test_nonsense_from_a_node_is_no_credit(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(address)
        with dealer(address) as camera:
            until(lambda: camera.wait(0.05) or router.poll(0), "an ask")
            identity, part = router.recv_multipart()
            ask = decode_ask([part])
            assert (ask.src, ask.sent) == ("cam0", 0)
            for bad in (b"", b"\x80", *encode_credit(CreditGrant(session_id=bytes(16), upto=9))):
                router.send_multipart([identity, bad])
            assert not camera.wait(0.1)  # it reads them, and none gives credit
            assert camera.credits == 0
            router.send_multipart(
                [identity, *encode_credit(CreditGrant(session_id=ask.session_id, upto=10**9))]
            )
            assert camera.wait(20)
            assert camera.credits == 16


def test_asks_and_grants_are_checked() -> None:
    ask = CreditAsk(src="cam0", session_id=bytes(16), sent=3)
    assert decode_ask(encode_credit(ask)) == ask
    for parts in (
        [],
        [b"", b""],
        encode_credit(CreditAsk(src="CAM", session_id=bytes(16), sent=0)),
    ):
        with pytest.raises(WireError):
            decode_ask(parts)
    with pytest.raises(WireError):
        decode_grant(encode_credit(ask))
