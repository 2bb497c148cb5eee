"""Retrieves the image of a `cv2.VideoCapture`, or raises an error if OpenCV did not write it.

OpenCV ignores the result of FFmpeg's converter. FFmpeg 8 refuses to convert interlaced images;
`retrieve` then returns True and copies an unwritten buffer: memory of this process.
The converter reports each refusal to FFmpeg's log, in the thread that calls `retrieve`. This module
reads that log while a picture is retrieved. A comparison of pixels cannot replace it: the luma that
OpenCV hands out with `CAP_PROP_CONVERT_RGB` 0 goes through the same converter.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import os
import shlex
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ureca.datatypes import Image
from ureca.errors import SourceError

NOT_CONVERTED = "interlaced or not convertible by this OpenCV"
_FFMPEG = "FFMPEG"
_ERROR_LEVEL = 16
"""`AV_LOG_ERROR`; what is worse has lower numbers."""
_INTERLACED = base64.b64decode(
    "AAABswEAEBP//+AYAAABtRSCAAEAAAAAAbgACABAAAABAAAP//gAAAG1j//zgAAAAAEBE3ye/UF+X79QREAAAAECE3ye/UF+"
    "X79QREA="
)
"""MPEG-2, one interlaced picture of 16 x 16 pixels: luma 40 on the left, 200 on the right."""
_LogFunction = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
)


def remedy(path: Path) -> str:
    """What to do with a file whose pictures are `NOT_CONVERTED`."""
    return f"convert it with `ffmpeg -i {shlex.quote(str(path))} -vf bwdif OUT.mp4`"


def retrieve(video: cv2.VideoCapture) -> Image | None:
    """The picture that was grabbed, as OpenCV gives it; None when there is none.

    Raises `SourceError` when FFmpeg did not convert the picture.
    """
    log = _ffmpeg_log()
    if log is None:
        ok, picture = video.retrieve()
    else:
        with log:
            ok, picture = video.retrieve()
            if log.has_error():
                raise SourceError(f"the picture is {NOT_CONVERTED}")
    return np.asarray(picture, np.uint8) if ok and picture is not None else None


class FfmpegLog:
    """FFmpeg's log while at least one thread is inside `with`; knows which threads saw errors.

    It is not installed for longer: a decoder's thread that logs waits for the interpreter, and the
    interpreter may wait for that thread when a capture is closed.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._install = library.av_log_set_callback
        self._install.argtypes = [ctypes.c_void_p]
        self._usual = library.av_log_default_callback
        self._usual.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
        self._own = _LogFunction(self._came)  # kept: FFmpeg holds its address only
        self._own_at = ctypes.cast(self._own, ctypes.c_void_p)
        self._usual_at = ctypes.cast(self._usual, ctypes.c_void_p)
        self._lock = threading.Lock()
        self._has_error: dict[int, bool] = {}
        """By the threads that are inside."""

    def __enter__(self) -> None:
        with self._lock:
            if not self._has_error:
                self._install(self._own_at)
            self._has_error[threading.get_ident()] = False

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._has_error.pop(threading.get_ident(), None)
            if not self._has_error:
                self._install(self._usual_at)

    def has_error(self) -> bool:
        """Whether FFmpeg reported an error in this thread since the block began."""
        return self._has_error[threading.get_ident()]

    def _came(self, context: int, level: int, text: bytes, values: int) -> None:
        thread = threading.get_ident()
        if level <= _ERROR_LEVEL and thread in self._has_error:
            self._has_error[thread] = True  # whoever retrieves says it, once and in plain words
        else:
            self._usual(context, level, text, values)


@functools.cache
def _ffmpeg_log() -> FfmpegLog | None:
    """The log of the FFmpeg that OpenCV is linked to; None when it cannot be reached.

    Symbols are looked up through OpenCV's own library, so that another FFmpeg in this process, as
    PyAV brings one, is left alone.
    """
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        return FfmpegLog(ctypes.CDLL(str(next(Path(cv2.__file__).parent.rglob("cv2*.so")))))
    return None


@functools.cache
def is_honest() -> bool:
    """Whether this OpenCV converts an interlaced picture, or its refusal is seen."""
    with tempfile.TemporaryDirectory(prefix="ureca-") as folder:
        path = Path(folder, "interlaced.m2v")
        path.write_bytes(_INTERLACED)
        video = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
        try:
            if not video.grab():  # no MPEG-2: nothing was refuted
                return _ffmpeg_log() is not None
            picture = retrieve(video)
        except SourceError:
            return True
        finally:
            video.release()
    return picture is not None and _is_as_drawn(picture)


def _is_as_drawn(picture: Image) -> bool:
    if picture.shape != (16, 16, 3):
        return False
    left, right = picture[:, :6].astype(int), picture[:, 10:].astype(int)
    return bool(np.ptp(left) < 8 and np.ptp(right) < 8 and right.mean() - left.mean() > 100)


def check_opencv(video: cv2.VideoCapture, *, is_honest: Callable[[], bool] = is_honest) -> None:
    """Refuse an OpenCV build whose unwritten images cannot be detected.

    Raises `SourceError` and releases `video`. A video that another library than FFmpeg reads is
    accepted.
    """
    if video.getBackendName() == _FFMPEG and not is_honest():
        video.release()
        raise SourceError(
            f"this OpenCV ({cv2.__version__}) hands out memory instead of interlaced pictures, and "
            "its FFmpeg does not say so: install opencv-python-headless from PyPI"
        )
