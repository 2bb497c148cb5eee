"""Decodes the pictures that clients attach to `describe`, off the thread that owns the sockets."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ureca.clock import Clock
from ureca.datatypes import Image
from ureca.errors import RequestError, SourceError, UrecaError, WireError
from ureca.log import RateLimitedLog
from ureca.native_threads import NativeThread
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.pipeline.step import RequestKey, busy
from ureca.protocol.image_header import check_size
from ureca.protocol.requests import PictureSpec

Buffer = bytes | memoryview
_JOIN_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class AttachedPicture:
    """A picture to decode; `taken` gets its pixels, or `fail` the error, on another thread."""

    spec: PictureSpec
    data: Buffer
    deadline_ns: int
    key: RequestKey
    taken: Callable[[Image], None]
    fail: Callable[[UrecaError], None]


class PictureQueue:
    """At most `limit` pictures that wait, and the thread `ureca-attached` that decodes them. It
    starts with the first. `put` is for one thread.
    """

    def __init__(self, decode: Decoder, clock: Clock, *, limit: int, max_px: int) -> None:
        self._decode, self._clock = decode, clock
        self._limit, self._max_px = limit, max_px
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._waiting: deque[AttachedPicture] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = NativeThread(self._work, "ureca-attached")

    def put(self, picture: AttachedPicture) -> None:
        """Queue a picture that was checked. Raises `RequestError` (BUSY, GONE)."""
        with self._changed:
            if self._is_closed:
                raise RequestError("the node is shutting down", code="GONE")
            if len(self._waiting) >= self._limit:
                raise busy(self._limit)
            self._waiting.append(picture)
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def cancel(self, key: RequestKey) -> bool:
        """Give up a picture that still waits; False when there is none with this key."""
        with self._changed:
            found = next((one for one in self._waiting if one.key == key), None)
            if found is None:
                return False
            self._waiting.remove(found)
        found.fail(RequestError("cancelled", code="GONE"))
        return True

    def close(self) -> None:
        """Refuse further pictures, answer those that wait, and end the thread."""
        with self._changed:
            self._is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for picture in left:
            picture.fail(RequestError("the node is shutting down", code="GONE"))
        self._thread.end(_JOIN_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                picture = self._waiting.popleft()
            self._serve(picture)

    def _serve(self, picture: AttachedPicture) -> None:
        try:
            picture.taken(self._pixels(picture))
        except UrecaError as error:
            picture.fail(error)
        except MemoryError:
            text = "there is no memory for the picture now"
            picture.fail(RequestError(text, code="BUSY", retry_after_ms=1000))
        except BaseException as error:  # noqa: BLE001  (the thread outlives any picture)
            self._log.warning(type(error).__name__, "a picture failed", error=error)
            picture.fail(RequestError(type(error).__name__, code="INTERNAL"))

    def _pixels(self, picture: AttachedPicture) -> Image:
        if self._clock.now_ns() > picture.deadline_ns:
            raise RequestError("the deadline has passed", code="DEADLINE")
        spec, data = picture.spec, bytes(picture.data)
        if spec.enc == "rgb8":
            return np.frombuffer(data, np.uint8).reshape(spec.h, spec.w, 3)
        check_size(data, spec.enc, (spec.w, spec.h))
        try:
            return self._decode(data, max_px=self._max_px)
        except SourceError as error:
            raise WireError(f"the picture cannot be decoded: {error}") from error


def check_attached(spec: PictureSpec, data: Buffer | None, max_px: int) -> None:
    """Raises `WireError` for what the description of a picture rules out, without a look at it."""
    if spec.w * spec.h > max_px:
        raise WireError(
            f"expected at most {max_px} pixels, got {spec.w}x{spec.h}", code="TOO_LARGE"
        )
    if data is None:
        raise WireError("'picture' describes a second message part, but there is none")
    if spec.enc == "rgb8" and len(data) != spec.w * spec.h * 3:
        raise WireError(f"expected {spec.w * spec.h * 3} bytes of rgb8, got {len(data)}")
