"""Decoded frames of FFmpeg as upright RGB images: deinterlaced, turned, converted."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame

from ureca.datatypes import Image
from ureca.errors import SourceError

_DEINTERLACE = "mode=send_frame:deint=interlaced"
"""One picture per frame, at the frame's own time; frames without the flag pass unchanged."""

Matrix = tuple[int, int, int, int]
UPRIGHT: Matrix = (1, 0, 0, 1)


class RgbPictures:
    """Converts the frames of one stream; `max_px` is the most pixels of one.

    Frames go through bwdif from the first interlaced one on, which holds back one frame.
    """

    def __init__(self, max_px: int) -> None:
        self._max_px = max_px
        self._filter: _Deinterlacer | None = None

    def take(self, frame: VideoFrame) -> Iterator[tuple[int | None, Image | SourceError]]:
        """The pictures that are ready once `frame` has come, each with its time in ns."""
        if self._filter is not None and not self._filter.fits(frame):
            yield from self.flush()
        if self._filter is None and frame.interlaced_frame:
            self._filter = _Deinterlacer(frame)
        if self._filter is None:
            yield time_of(frame), self._convert(frame)
            return
        for ready in self._filter.take(frame):
            yield time_of(ready), self._convert(ready)

    def flush(self) -> Iterator[tuple[int | None, Image | SourceError]]:
        """What is still held back."""
        held, self._filter = self._filter, None
        for ready in held.take(None) if held is not None else ():
            yield time_of(ready), self._convert(ready)

    def _convert(self, frame: VideoFrame) -> Image | SourceError:
        if not 0 < frame.width * frame.height <= self._max_px:
            return SourceError(
                f"a picture of {frame.width}x{frame.height} exceeds the limit of {self._max_px} "
                "pixels"
            )
        try:
            rgb = frame.to_ndarray(format="rgb24", threads=1)  # more cost more than they save
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            return SourceError(f"a picture of {frame.format.name} cannot be converted: {error}")
        return turned(np.asarray(rgb, np.uint8), display_matrix(frame))


def display_matrix(frame: VideoFrame) -> Matrix:
    """How the picture is to be shown: (x, y) goes to (a x + c y, b x + d y)."""
    held: SideData
    for held in frame.side_data:  # type: ignore[assignment]  # PyAV's stub says `str`
        if held.type == SideDataType.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack_from("<5i", memoryview(held))
            return a, b, c, d
    return UPRIGHT


def turned(image: Image, matrix: Matrix) -> Image:
    """The picture as its display matrix shows it, in quarter turns and mirrored."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def time_of(frame: VideoFrame) -> int | None:
    """Presentation time in ns; None without one."""
    if frame.pts is None or not frame.time_base:
        return None
    return round(frame.pts * Fraction(frame.time_base) * 1_000_000_000)


class _Deinterlacer:
    """bwdif for frames of one size and format."""

    def __init__(self, frame: VideoFrame) -> None:
        self._form = _form(frame)
        self._graph = av.filter.Graph()
        entry = self._graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base,
        )
        bwdif = self._graph.add("bwdif", _DEINTERLACE)
        entry.link_to(bwdif)
        bwdif.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def fits(self, frame: VideoFrame) -> bool:
        """Whether a frame is of the size and format that the filter was made for."""
        return _form(frame) == self._form

    def take(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """The frames that are ready once `frame` has come; None ends the stream."""
        self._graph.vpush(frame)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield self._graph.vpull()


def _form(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
