"""Decodes untrusted images in a process of its own, where a crash costs one image.

Bytes and pixels go through sealed shared memory, nothing is pickled. A worker that dies or hangs
is `SourceError` for its picture (counted as `decode_error`) and is started again, later each time
until it works. `docs/security.md` has the cost; the setting `security.decode` controls it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import select
import struct
import subprocess
import sys
import threading
import time

import numpy as np

from ureca.clock import MonotonicClock
from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.log import RateLimitedLog
from ureca.node.config import NodeConfig
from ureca.node.decoding.image_decoder import decode_picture
from ureca.protocol.messagepack import LIMITS

ASK = struct.Struct("<QQ")
"""Bytes of the picture, most pixels."""
ANSWER = struct.Struct("<IIH")
"""Height, width, and the length of the error text that follows instead of pixels."""
MAX_TEXT_BYTES = 400

_READY_S = 30.0
_DECODE_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_NOT_YET = "the decoder's process is being started again"


class DecodeGuard:
    """`decode_picture` in another process; any thread may call it, one at a time is served.

    `decode_s` is the time limit per image, after which the worker is replaced. `restarts` counts
    replaced workers.
    """

    def __init__(self, max_px: int, *, decode_s: float = _DECODE_S) -> None:
        self.restarts = 0
        self._max_px, self._decode_s = max_px, decode_s
        self._lock = threading.Lock()
        self._fds: list[int] = []
        self._pause_s = 0.0
        self._not_before = 0.0
        self._ready = self._closed = False
        self._worker: subprocess.Popen[bytes] | None = None
        self._log = RateLimitedLog(logging.getLogger(__name__), MonotonicClock())

    @property
    def pid(self) -> int:
        """The worker's process."""
        return -1 if self._worker is None else self._worker.pid

    def __call__(self, data: bytes, *, max_px: int) -> Image:
        """u8 [H, W, 3] RGB; `SourceError` as `decode_picture`, and for a worker that died."""
        if len(data) > LIMITS.max_payload_bytes:
            raise SourceError(f"a picture of {len(data)} bytes exceeds {LIMITS.max_payload_bytes}")
        with self._lock:
            try:
                self._revive()
                return self._exchange(data, min(max_px, self._max_px))
            except (OSError, EOFError) as error:  # also: no descriptor, no memory for a process
                self._bury()
                raise SourceError(f"the decoder's process did not survive it: {error}") from error

    def prepare(self, *, wait: bool = True) -> None:
        """Start the worker now instead of at the first picture, and wait until it is ready."""
        with self._lock, contextlib.suppress(OSError, EOFError):  # then the first picture tells
            self._revive()
            if wait:
                self._await_ready()

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._closed = True
            self._end()
            if self._fds:
                self._taken.close()
                self._given.close()
            while self._fds:
                os.close(self._fds.pop())

    # --- one picture -----------------------------------------------------------------------------

    def _exchange(self, data: bytes, max_px: int) -> Image:
        self._await_ready()
        self._taken[: len(data)] = data
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        worker.stdin.write(ASK.pack(len(data), max_px))
        worker.stdin.flush()
        height, width, complaint = self._answer(self._decode_s)
        self._pause_s = 0.0
        if complaint:
            raise SourceError(complaint)
        size = height * width * 3
        if not 0 < size <= 3 * max_px:
            raise EOFError(f"it answered with a picture of {width}x{height}")
        flat = np.frombuffer(self._given, np.uint8, size)
        return flat.reshape(height, width, 3).copy()

    def _await_ready(self) -> None:
        if self._ready:
            return
        assert self._worker is not None
        assert self._worker.stdout is not None
        self._answer(_READY_S)
        self._ready = True

    def _answer(self, seconds: float) -> tuple[int, int, str]:
        height, width, length = ANSWER.unpack(self._read(ANSWER.size, seconds))
        text = self._read(min(length, MAX_TEXT_BYTES), seconds).decode("utf-8", "replace")
        return height, width, text

    def _read(self, count: int, seconds: float) -> bytes:
        assert self._worker is not None
        assert self._worker.stdout is not None
        fd, found, until = self._worker.stdout.fileno(), b"", time.monotonic() + seconds
        while len(found) < count:
            left = until - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise EOFError(f"no answer within {seconds:g} s")
            piece = os.read(fd, count - len(found))
            if not piece:
                raise EOFError("it has ended")
            found += piece
        return found

    # --- the worker's life -----------------------------------------------------------------------

    def _start(self) -> None:
        if not self._fds:
            self._map_memory()
        command = [sys.executable, "-m", "ureca.node.decoding.decoder_worker", *map(str, self._fds)]
        self._ready = False
        self._worker = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._fds,
            bufsize=0,
            stderr=subprocess.DEVNULL,  # codecs write a line for each bad picture
            start_new_session=True,  # Ctrl-C is ours to handle; the worker ends with its stdin
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )

    def _map_memory(self) -> None:
        """Raises `OSError`; then nothing is left open."""
        with contextlib.ExitStack() as undo:
            fds = []
            for size in (LIMITS.max_payload_bytes, 3 * self._max_px):
                fds.append(_sealed(size))
                undo.callback(os.close, fds[-1])
            self._taken, self._given = (mmap.mmap(fd, 0) for fd in fds)
            undo.pop_all()
        self._fds = fds

    def _revive(self) -> None:
        if self._closed:
            raise SourceError("the decoder is closed")
        if self._worker is not None and self._worker.poll() is not None:
            self._bury()
        if self._worker is None:
            if time.monotonic() < self._not_before:
                raise SourceError(_NOT_YET)
            self._start()

    def _bury(self) -> None:
        """Restart at the next picture, but not before a pause that doubles with each failure."""
        self._end()
        self.restarts += 1
        self._not_before = time.monotonic() + self._pause_s
        text = f"the decoder's process was lost; a new one in {self._pause_s:.1f} s"
        self._log.warning("lost", text)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _end(self) -> None:
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Decoder:
    """Decodes pictures of other processes where `security.decode` wants it: behind a guard, or in
    this process.
    """

    def __init__(self, config: NodeConfig) -> None:
        apart, max_px = config.security.decode != "inside", config.limits.max_image_px
        self.guard = DecodeGuard(max_px) if apart else None

    def __call__(self, data: bytes, *, max_px: int) -> Image:
        """See `decode_picture`."""
        decode = decode_picture if self.guard is None else self.guard
        return decode(data, max_px=max_px)

    def prepare(self, *, wait: bool = True) -> None:
        """See `DecodeGuard.prepare`, if there is one."""
        if self.guard is not None:
            self.guard.prepare(wait=wait)

    def close(self) -> None:
        """End the worker, if there is one."""
        if self.guard is not None:
            self.guard.close()


def _sealed(size: int) -> int:
    """Shared memory that its other user cannot shrink under our feet."""
    fd = os.memfd_create("ureca-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
