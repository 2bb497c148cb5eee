"""An mp4 that is complete also when the disk is full: its index is written at the end, so space for
it is reserved from the beginning.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from ureca.datatypes import Image
from ureca.errors import ConfigError

_HELD_BYTES = 8 << 20
"""Held for the index: some 20 bytes a picture, so enough for four hours."""
_LEAST_FREE_BYTES = 8 << 20
"""With less free space than this the video ends: nothing is promised about a failed write."""
_ENCODER = {"preset": "veryfast", "crf": "23", "threads": "1"}
_BT709, _LIMITED = 1, 1

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder."""
    return shutil.disk_usage(folder).free


class VideoWriter:
    """H.264 (yuv420p, BT.709) at a constant rate, which browsers play; all images have the size of
    the first. `fps` may be changed before the first image.

    The free space is checked before each image, and the file is opened again at the end. Raises
    `ConfigError` if it cannot be created, `OSError` if it cannot continue.
    """

    def __init__(self, path: Path, *, fps: float, free: FreeBytes = free_bytes) -> None:
        self.fps = fps
        self._path, self._free = path, free
        self._writer: tuple[OutputContainer, VideoStream] | None = None
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
                f"{self.pictures / self.fps:.1f} s"
            )
        if self._writer is None:
            self._writer = self._open(image)
        if (image.shape[1], image.shape[0]) != self._size_px:
            fitted = cv2.resize(image, self._size_px, interpolation=cv2.INTER_AREA)
            image = np.asarray(fitted, np.uint8)
        container, stream = self._writer
        rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
        frame.pts = self.pictures
        container.mux(stream.encode(frame))
        self.pictures += 1

    def close(self) -> None:
        """Finish the file; raises `OSError` when it does not hold what was written."""
        self._held.close()
        if self._writer is None:
            if not self.pictures:
                self._path.unlink(missing_ok=True)
            return
        (container, stream), self._writer = self._writer, None
        with contextlib.suppress(OSError, av.error.FFmpegError):  # what the file holds says it
            container.mux(stream.encode(None))
            container.close()
        held = pictures_in(self._path)
        if held < self.pictures:
            raise OSError(
                f"it holds {held} of {self.pictures} pictures: is the disk full, or the file "
                "larger than allowed (ulimit -f)?"
            )

    def _open(self, image: Image) -> tuple[OutputContainer, VideoStream]:
        # Even sides: the chroma planes have half of them.
        self._size_px = (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
        rate = Fraction(self.fps).limit_denominator(1001)
        container = av.open(str(self._path), "w", format="mp4")
        try:
            stream = container.add_stream("libx264", rate=rate, options=_ENCODER)
        except (av.error.FFmpegError, ValueError) as error:
            container.close()
            raise OSError("this PyAV cannot write H.264: install `av` from PyPI") from error
        stream.width, stream.height = self._size_px
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED
        stream.codec_context.time_base = 1 / rate
        return container, stream


def pictures_in(path: Path) -> int:
    """How many pictures a video's index names, 0 when it cannot be read."""
    broken = (av.error.FFmpegError, OSError, IndexError)
    with contextlib.suppress(*broken), av.open(str(path)) as container:
        return container.streams.video[0].frames
    return 0


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
