"""An mp4 that is complete also when the disk is full: its index is written at the end, so space for
it is reserved from the beginning.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import cv2

from ureca.datatypes import Image
from ureca.errors import ConfigError

_HELD_BYTES = 8 << 20
"""Held for the index: some 20 bytes a picture, so enough for four hours."""
_LEAST_FREE_BYTES = 8 << 20
"""With less free space than this the video ends: OpenCV does not report failed writes."""

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder."""
    return shutil.disk_usage(folder).free


class VideoWriter:
    """MPEG-4 at a constant rate; all images have the size of the first.

    The free space is checked before each image, and the file is opened again at the end. Raises
    `ConfigError` if it cannot be created, `OSError` if it cannot continue.
    """

    def __init__(self, path: Path, *, fps: float, free: FreeBytes = free_bytes) -> None:
        self._path, self._fps, self._free = path, fps, free
        self._writer: cv2.VideoWriter | None = None
        self._size_px = (0, 0)
        self.pictures = 0
        """How many were written."""
        _make(path)
        self._held = _hold(path.parent)

    def write(self, image: Image) -> None:
        """Append one picture, RGB u8 [H, W, 3]; one of another size is fitted in."""
        left = self._free(self._path.parent)
        if left < _LEAST_FREE_BYTES:
            raise OSError(
                f"only {left / 1e6:.0f} MB are free on the disk; the video is whole up to "
                f"{self.pictures / self._fps:.1f} s"
            )
        if self._writer is None:
            self._writer = self._open(image)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if (bgr.shape[1], bgr.shape[0]) != self._size_px:
            bgr = cv2.resize(bgr, self._size_px, interpolation=cv2.INTER_AREA)
        self._writer.write(bgr)
        self.pictures += 1

    def close(self) -> None:
        """Finish the file; raises `OSError` when it does not hold what was written."""
        self._held.close()
        if self._writer is None:
            if not self.pictures:
                self._path.unlink(missing_ok=True)
            return
        writer, self._writer = self._writer, None
        writer.release()
        held = pictures_in(self._path)
        if held < self.pictures:
            raise OSError(
                f"it holds {held} of {self.pictures} pictures: is the disk full, or the file "
                "larger than allowed (ulimit -f)?"
            )

    def _open(self, image: Image) -> cv2.VideoWriter:
        # Even sides: the chroma planes have half of them.
        self._size_px = (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, self._fps, self._size_px)
        if not writer.isOpened():
            raise OSError("this OpenCV cannot write MPEG-4: it was built without FFmpeg")
        return writer


def pictures_in(path: Path) -> int:
    """How many pictures a video's index names, 0 when it cannot be read."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.grab() else 0
    video.release()
    return count


def _hold(folder: Path) -> IO[bytes]:
    """Room on the disk, in a file without a name, given back when it is closed."""
    held = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed with the video)
    with contextlib.suppress(OSError):  # no room, which `write` will say, or another file system
        os.posix_fallocate(held.fileno(), 0, _HELD_BYTES)
    return held


def _make(path: Path) -> None:
    """Say now, not after the first picture, that a file cannot be written there."""
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"--render writes mp4: expected a name like out.mp4, got {path.name!r}")
    try:
        path.open("wb").close()
    except OSError as error:
        raise ConfigError(f"cannot render to {path}: {error.strerror}") from error
