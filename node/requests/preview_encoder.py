"""Previews for people: small images of processed frames, with the outlines of the regions.

A client requests the next image of a stream and gets one reply, so only requested images are
encoded and nothing queues for a slow reader. A thread of its own does the work; it never blocks the
step thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ureca.clock import Clock
from ureca.datatypes import Frame, Image, Mask, Track, TrackSet, TrackState
from ureca.errors import RequestError
from ureca.node.requests.replies import ReplyChannel, plain
from ureca.protocol import rle
from ureca.protocol.preview_messages import Picture, PictureArgs, PictureRegion
from ureca.protocol.region_codec import to_wire_rle

View = tuple[Frame, TrackSet]
"""A stream's newest frame and its regions; both never change."""

_MAX_WAITING = 32
_MAX_DRAWN = 8
_LOOK_S = 0.015
_JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True)
class _PreviewRequest:
    args: PictureArgs
    channel: ReplyChannel
    deadline_ns: int


class Previews:
    """Answers `picture` on the thread `ureca-preview`, which sleeps without requests."""

    def __init__(self, views: Callable[[], Mapping[str, View]], clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._requests: queue.Queue[_PreviewRequest | None] = queue.Queue()
        self._waiting: list[_PreviewRequest] = []
        self._drawn: dict[tuple[str, int], tuple[TrackSet, Picture]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="ureca-preview")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def request(self, args: PictureArgs, channel: ReplyChannel, deadline_ns: int) -> None:
        """Answer when there is a picture other than `args.after`. Raises `RequestError` (BUSY,
        NO_STREAM); after the deadline the answer is `DEADLINE`.
        """
        if self._closed:
            raise RequestError("the node is shutting down", code="GONE")
        streams = self._views()
        if args.stream not in streams:
            raise RequestError(
                f"no stream {args.stream!r}; there are {sorted(streams) or 'none yet'}",
                code="NO_STREAM",
            )
        if len(self._waiting) + self._requests.qsize() >= _MAX_WAITING:
            raise RequestError("too many wait for pictures", code="BUSY", retry_after_ms=200)
        self._requests.put(_PreviewRequest(args, channel, deadline_ns))

    def close(self) -> None:
        """Reply `GONE` to waiting clients and end the thread."""
        self._closed = True
        if self._thread.ident is None:
            return
        self._requests.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while self._take():
            self._waiting = [request for request in self._waiting if not self._answered(request)]
        for request in self._waiting:
            request.channel.fail(RequestError("the node is shutting down", code="GONE"))

    def _take(self) -> bool:
        """Take in new requests, waiting for one if there is none; False at the end."""
        if not self._waiting:
            self._drawn.clear()
        with contextlib.suppress(queue.Empty):
            request = self._requests.get(timeout=_LOOK_S if self._waiting else None)
            while request is not None:
                self._waiting.append(request)
                request = self._requests.get_nowait()
            return False
        return True

    def _answered(self, request: _PreviewRequest) -> bool:
        try:
            view = self._views().get(request.args.stream)
            if view is not None and _is_news(view, request.args):
                request.channel.reply(
                    "result", plain(self._picture(view, request.args.max_width_px))
                )
            elif self._clock.now_ns() >= request.deadline_ns:
                request.channel.fail(RequestError("no new picture in time", code="DEADLINE"))
            else:
                return False
        except Exception as error:  # noqa: BLE001  (whatever fails, the asker is answered)
            request.channel.fail(error)
        return True

    def _picture(self, view: View, max_width_px: int) -> Picture:
        """Two who look at the same stream share one encoding."""
        key, tracks = (view[0].stream, max_width_px), view[1]
        drawn = self._drawn.get(key)
        if drawn is None or drawn[0] is not tracks:
            if len(self._drawn) >= _MAX_DRAWN:
                self._drawn.clear()
            drawn = self._drawn[key] = tracks, draw(view, max_width_px)
        return drawn[1]


def _is_news(view: View, args: PictureArgs) -> bool:
    """A new frame whose regions have been followed onto it."""
    frame, tracks = view
    return frame.seq != args.after and tracks.frame_seq == frame.seq


def draw(view: View, max_width_px: int) -> Picture:
    """The frame as JPEG at most so wide, and its regions at the same size."""
    frame, tracks = view
    scale = min(1.0, max_width_px / frame.width)
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    image = frame.image
    if scale < 1:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Picture(
        stream=frame.stream,
        seq=frame.seq,
        captured_ns=frame.captured_ns,
        clk=frame.clock,
        width=frame.width,
        height=frame.height,
        w=size[0],
        h=size[1],
        jpeg=_jpeg(image),
        regions=tuple(
            _region(track, size) for track in tracks.tracks if track.state is not TrackState.ENDED
        ),
    )


def _jpeg(image: Image) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    assert done  # a picture of at least one pixel always encodes
    return bytes(data)


def _region(track: Track, size: tuple[int, int]) -> PictureRegion:
    mask = None if track.mask is None else to_wire_rle(rle.encode(_shrunk(track.mask, size)))
    return PictureRegion(
        rid=track.rid, state=track.state.value, box=track.box_xyxy_px, label=track.label, mask=mask
    )


def _shrunk(mask: Mask, size: tuple[int, int]) -> Mask:
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    small = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.uint8).view(np.bool_)
