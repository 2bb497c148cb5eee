"""Decodes one video in a process of its own; see `video_worker`.

Two pictures are on the way at most, so a decoder is never ahead of the node. A process that dies or
hangs is `DecoderDiedError`.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time

import msgspec

from ureca.datatypes import Image
from ureca.errors import SourceError, WireError
from ureca.node.decoding.video_messages import (
    GO,
    LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_SLOT_BYTES,
    WANTED,
    OpenVideo,
    VideoEnd,
    VideoMessage,
    VideoOpened,
    VideoPicture,
    pack_message,
    unpack_message,
)
from ureca.protocol.shared_memory import RingReader

_START_S = 30.0
"""What the start of a process may take on a busy machine, besides the time to open."""
_SLACK_S = 2.0
_HANGS_S = 30.0
"""A decoder that makes no picture of a file for this long hangs."""


class DecoderDiedError(SourceError):
    """The process that decodes ended or hung; the next one may do better."""


class VideoProcess:
    """A video in its own process. `opened` says what it is once `open` was called; `packets` how
    far it got. `close` may be called from another thread; a waiting `open` or `next` then raises
    `DecoderDiedError`.
    """

    opened: VideoOpened

    def __init__(self, order: OpenVideo) -> None:
        self.packets = order.skip
        self.shortfall = ""
        self._order = order
        self._ring = RingReader(max_bytes=MAX_SLOT_BYTES)
        self._closing = threading.Lock()
        self._worker = _start()

    def open(self) -> VideoProcess:
        """Wait until it is open; returns itself. Raises `SourceError` for what cannot be opened."""
        try:
            self.opened = self._open()
        except SourceError:
            self.close()
            raise
        return self

    def _open(self) -> VideoOpened:
        self._send(pack_message(self._order) + WANTED * GO)
        first = self._message(_START_S + self._order.open_timeout_s)
        if isinstance(first, VideoEnd):
            raise SourceError(first.failed)
        if not isinstance(first, VideoOpened):
            raise DecoderDiedError("the decoder's process sent something unexpected")
        return first

    @property
    def pid(self) -> int:
        """The decoder's process."""
        return self._worker.pid

    def next(self) -> tuple[int | None, Image | SourceError] | None:
        """The next picture, or why there is none, with its presentation time in ns; None at the
        end, with `shortfall` set.

        Raises `SourceError` when the stream fails and `DecoderDiedError` when its process does.
        """
        order = self._order
        message = self._message(order.read_timeout_s + _SLACK_S if order.is_network else _HANGS_S)
        if isinstance(message, VideoEnd):
            if message.failed:
                raise SourceError(message.failed)
            self.shortfall = message.shortfall
            return None
        if not isinstance(message, VideoPicture):
            raise DecoderDiedError("the decoder's process sent something unexpected")
        self.packets = message.packets
        image = self._image(message)
        self._send(GO)
        return message.at_ns, image

    def close(self) -> None:
        """End the process; it may be called more than once."""
        with self._closing:
            worker = self._worker
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
            self._ring.close()  # deletes the ring of the dead process

    def _image(self, message: VideoPicture) -> Image | SourceError:
        if message.pixels is None:
            return SourceError(message.error)
        height, width = message.height, message.width
        try:
            flat = self._ring.read(message.pixels, 3 * height * width)
        except WireError as error:
            return SourceError(str(error))
        return flat.reshape(height, width, 3)

    def _send(self, data: bytes) -> None:
        assert self._worker.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended: reading says so
            self._worker.stdin.write(data)

    def _message(self, seconds: float) -> VideoMessage:
        until_s = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._read(LENGTH.size, until_s))
        if length > MAX_MESSAGE_BYTES:
            raise DecoderDiedError("the decoder's process sent something unexpected")
        try:
            return unpack_message(self._read(length, until_s))
        except msgspec.MsgspecError as error:
            raise DecoderDiedError(
                f"the decoder's process sent something unexpected: {error}"
            ) from None

    def _read(self, count: int, until_s: float) -> bytes:
        assert self._worker.stdout is not None
        found = b""
        try:
            fd = self._worker.stdout.fileno()
            while len(found) < count:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not select.select([fd], [], [], left_s)[0]:
                    raise DecoderDiedError("the decoder's process hangs")
                piece = os.read(fd, count - len(found))
                if not piece:
                    raise DecoderDiedError(f"the decoder's process died ({self._why()})")
                found += piece
        except (OSError, ValueError) as error:  # closed by another thread
            raise DecoderDiedError("the decoder's process was ended") from error
        return found

    def _why(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._worker.wait(1.0)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "its output is closed"


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ureca.node.decoding.video_worker"]
    return subprocess.Popen(  # noqa: S603  (our own interpreter and module)
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is ours to handle; the worker ends with its stdin
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
