"""Reads recorded images: a video file, a folder, a tar or a recording. Clocks and pacing are
elsewhere.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.decoding.picture_files import DEFAULT_FPS, PictureFolder, PictureTar, is_tar
from ureca.node.decoding.video_messages import OpenVideo
from ureca.node.decoding.video_process import DecoderDiedError, VideoProcess
from ureca.node.sources.frame_gaps import StampGaps

_MAX_DEATHS = 8
"""So many decoders that die in a row, without a picture in between, end a clip."""
_REORDERED_NS = 2_000_000_000
"""A stamp that lies less before the last one is out of order, as damage leaves them."""
_log = logging.getLogger(__name__)

Shot = tuple[int, Image | SourceError]
"""Nanoseconds since the clip began, and the picture or what is wrong with it."""


class ClipReader(Protocol):
    """Something recorded that can be played from the beginning, any number of times. `fps` is its
    usual rate.
    """

    fps: float

    def shots(self) -> Iterator[Shot]:
        """All pictures in order. Raises `SourceError` when the recording cannot be opened, and
        after the last picture when there are fewer than it announces.
        """


class VideoClip:
    """A video with an end, with the container's stamps; `fps` > 0 replaces them by an even rate.

    It is decoded in a process of its own. One that dies costs the pictures that it had not given;
    the next one goes on behind the packet that killed it.
    """

    def __init__(
        self, order: OpenVideo, *, name: str, fps: float = 0.0, begun: VideoProcess | None = None
    ) -> None:
        self._order, self._name = order, name
        video = begun or self._open(order)
        self._begun: VideoProcess | None = video
        self._unplayed = weakref.finalize(self, video.close)
        self._even = bool(fps)
        self.fps = fps or video.opened.fps or DEFAULT_FPS

    def shots(self) -> Generator[Shot, None, None]:
        """See `ClipReader`."""
        times = _Times(self.fps, is_even=self._even)
        good = count = 0
        last: SourceError | None = None
        for at_ns, image in self._pictures():
            count += 1
            if isinstance(image, SourceError):
                last = SourceError(f"{self._name}: {image}")
                yield times.next(at_ns, is_good=False), last
            else:
                good += 1
                yield times.next(at_ns, is_good=True), image
        if not good:
            raise SourceError(
                f"{self._name} has no readable image"
                + (f"; none of {count} can be decoded: {last}" if last is not None else "")
            )
        if times.jumps:
            _log.warning("%s: its stamps jump back %d times", self._name, times.jumps)
        holes = times.holes - (count - good)
        if holes > 0:
            _log.warning(
                "%s: its stamps leave room for about %d more pictures: parts of it are missing, or "
                "its rate varies",
                self._name,
                holes,
            )
        if good < count:
            _log.warning("%s: %d of %d pictures are damaged", self._name, count - good, count)
        if self._shortfall:
            raise SourceError(f"{self._name}: {self._shortfall}")

    def _open(self, order: OpenVideo) -> VideoProcess:
        try:
            return VideoProcess(order).open()
        except DecoderDiedError as error:
            raise SourceError(f"cannot open the video {self._name}: {error}") from error
        except SourceError as error:
            raise SourceError(
                f"cannot open the video {self._name}: {error}. It is damaged, empty, or of a "
                "format that FFmpeg cannot read; try `ffprobe` on it, or convert it to mp4 (H.264)"
            ) from error

    def _pictures(self) -> Iterator[tuple[int | None, Image | SourceError]]:
        """What the decoder gives, and one error for each picture that died with it."""
        self._shortfall = ""
        video, self._begun = self._begun or self._open(self._order), None
        self._unplayed.detach()
        given = deaths = 0
        try:
            while True:
                try:
                    shot = video.next()
                except DecoderDiedError as error:
                    deaths += 1
                    if deaths > _MAX_DEATHS:
                        raise SourceError(f"{self._name}: {error}, again and again") from error
                    skip = video.packets + (1 << deaths) // 2
                    _log.warning("%s: %s; it goes on behind packet %d", self._name, error, skip)
                    for _ in range(skip - given):
                        yield None, SourceError(str(error))
                    given = max(given, skip)
                    video = self._again(video, skip)
                    continue
                if shot is None:
                    self._shortfall = video.shortfall
                    return
                given += 1
                deaths = 0 if not isinstance(shot[1], SourceError) else deaths
                yield shot
        finally:
            video.close()

    def _again(self, video: VideoProcess, skip: int) -> VideoProcess:
        video.close()
        return self._open(msgspec.structs.replace(self._order, skip=skip))


class _Times:
    """Stamps as nanoseconds since the first one, always rising."""

    def __init__(self, fps: float, *, is_even: bool) -> None:
        self.jumps = self.holes = 0
        self._gaps = StampGaps()
        self._fps, self._is_even = fps, is_even
        self._usual_ns = round(1e9 / fps)
        self._index = 0
        self._last_ns, self._at_ns = -1, -self._usual_ns
        self._begin_ns: int | None = None
        """The stamp of time 0."""

    def next(self, stamp_ns: int | None, *, is_good: bool) -> int:
        """The time of the next picture. One without a stamp comes a usual step later, and so does
        one whose stamp lies far before the last one. A damaged one, which comes in the order of
        its decoding, takes no time.
        """
        index, self._index = self._index, self._index + 1
        if self._is_even:
            return round(index / self._fps * 1e9)
        if is_good:
            self._at_ns = self._time_of(stamp_ns)
        self._last_ns = max(self._at_ns, self._last_ns + 1)
        return self._last_ns

    def _time_of(self, stamp_ns: int | None) -> int:
        next_ns = self._at_ns + self._usual_ns
        if stamp_ns is None:
            return next_ns
        if self._begin_ns is None:
            self._begin_ns = stamp_ns - next_ns
        if self._at_ns - (stamp_ns - self._begin_ns) > _REORDERED_NS:
            self.jumps += 1
            self._begin_ns = stamp_ns - next_ns
        at_ns = stamp_ns - self._begin_ns
        if at_ns > self._at_ns:
            self.holes += self._gaps.missing(at_ns)
        return max(self._at_ns, at_ns)


def open_clip(path: Path, *, fps: float, max_px: int) -> ClipReader:
    """The clip at `path`. Raises `SourceError` when there is nothing that can be played."""
    if path.is_dir():
        return PictureFolder(path, fps=fps, max_px=max_px)
    if not path.is_file():
        raise SourceError(f"no such video, folder or tar: {path}")
    if is_tar(path):
        return PictureTar(path, fps=fps, max_px=max_px)
    return VideoClip(OpenVideo(uri=str(path)), name=str(path), fps=fps)
