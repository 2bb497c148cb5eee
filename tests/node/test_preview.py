"""`picture`: what the node sees, small, on request only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from ureca.clock import MonotonicClock
from ureca.datatypes import Frame, Track, TrackSet, TrackState
from ureca.errors import RequestError
from ureca.node.requests.preview_encoder import Previews, draw
from ureca.node.requests.replies import ReplyChannel
from ureca.protocol import rle
from ureca.protocol.preview_messages import PictureArgs
from ureca.protocol.region_codec import from_wire_rle
from ureca.protocol.requests import Reply

SESSION_ID = bytes(16)


def view(seq: int = 3, *, tracked: int | None = None, size: tuple[int, int] = (400, 800)):
    image = np.zeros((*size, 3), np.uint8)
    image[:, :, 0] = 200
    mask = np.zeros(size, np.bool_)
    mask[100:200, 300:500] = True
    box = (300, 100, 500, 200)
    seen = Track("mug", TrackState.ALIVE, mask, box, 3, 0)
    lost = Track("cup", TrackState.LOST, None, box, 3, 2)
    gone = Track("old", TrackState.ENDED, None, box, 3, 2)
    frame = Frame("cam0", SESSION_ID, seq, 5_000_000_000, image)
    return frame, TrackSet("cam0", seq if tracked is None else tracked, 0, (seen, lost, gone))


class Inbox:
    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.came = threading.Event()

    def __call__(self, client: bytes, reply: Reply) -> None:
        self.replies.append(reply)
        self.came.set()

    def channel(self) -> ReplyChannel:
        return ReplyChannel(b"client", b"1", self)

    def wait(self) -> Reply:
        assert self.came.wait(10)
        self.came.clear()
        return self.replies[-1]


@contextmanager
def previews(views) -> Iterator[Previews]:
    made = Previews(lambda: views, MonotonicClock())
    made.start()
    try:
        yield made
    finally:
        made.close()


def in_s(seconds: float) -> int:
    return MonotonicClock().now_ns() + int(seconds * 1e9)


def test_a_picture_is_small_and_its_masks_are_of_its_size():
    picture = draw(view(), 200)
    assert (picture.w, picture.h, picture.width, picture.height) == (200, 100, 800, 400)
    bgr = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr.shape == (100, 200, 3)
    assert bgr[50, 50, 2] > 180  # red stays red
    assert bgr[50, 50, 0] < 20
    assert [region.rid for region in picture.regions] == ["mug", "cup"]
    mask = rle.decode(from_wire_rle(picture.regions[0].mask))
    assert mask.shape == (100, 200)
    assert mask[25:50, 75:125].all()
    assert mask.sum() == 25 * 50
    assert picture.regions[1].mask is None


def test_a_small_frame_is_not_enlarged():
    picture = draw(view(size=(300, 600)), 1920)
    assert (picture.w, picture.h) == (600, 300)


def test_the_next_picture_is_waited_for():
    views, inbox = {"cam0": view(3)}, Inbox()
    with previews(views) as made:
        made.request(PictureArgs(stream="cam0"), inbox.channel(), in_s(10))
        assert inbox.wait().result["seq"] == 3
        made.request(PictureArgs(stream="cam0", after=3), inbox.channel(), in_s(10))
        assert not inbox.came.wait(0.1)
        views["cam0"] = view(4, tracked=3)  # its regions have not been followed yet
        assert not inbox.came.wait(0.1)
        views["cam0"] = view(4)
        assert inbox.wait().result["seq"] == 4


def test_every_wish_is_answered_once():
    inbox = Inbox()
    with previews({"cam0": view(3)}) as made:
        with pytest.raises(RequestError, match="NO_STREAM"):
            made.request(PictureArgs(stream="cam9"), inbox.channel(), in_s(10))
        made.request(PictureArgs(stream="cam0", after=3), inbox.channel(), in_s(0.05))
        assert inbox.wait().error.code == "DEADLINE"
        made.request(PictureArgs(stream="cam0", after=3), inbox.channel(), in_s(60))
    assert inbox.wait().error.code == "GONE"
    with pytest.raises(RequestError, match="GONE"):
        made.request(PictureArgs(stream="cam0"), inbox.channel(), in_s(10))
    assert len(inbox.replies) == 2


def test_too_many_are_told_to_come_again():
    inbox = Inbox()
    with previews({"cam0": view(3)}) as made:
        args = PictureArgs(stream="cam0", after=3)
        for _ in range(32):
            made.request(args, inbox.channel(), in_s(60))
        with pytest.raises(RequestError, match="BUSY"):
            made.request(args, inbox.channel(), in_s(60))


def test_two_who_look_share_one_encoding(monkeypatch):
    drawn, inbox = [], Inbox()
    monkeypatch.setattr(
        "ureca.node.requests.preview_encoder.draw",
        lambda *args: (drawn.append(args), draw(*args))[1],
    )
    with previews({"cam0": view(3)}) as made:
        wishes = [PictureArgs(stream="cam0", after=3, max_width_px=64)]  # keeps the thread awake
        for args in (*wishes, *[PictureArgs(stream="cam0")] * 5):
            made.request(args, inbox.channel(), in_s(5))
        until = in_s(10)
        while len(inbox.replies) < 5 and MonotonicClock().now_ns() < until:
            inbox.came.wait(0.01)
    assert len([reply for reply in inbox.replies if reply.status == "result"]) == 5
    assert len(drawn) == 1
