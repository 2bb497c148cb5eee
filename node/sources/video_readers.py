"""Recorded pictures: a video file, a folder or a tar. They know nothing of clocks and pacing."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import cv2

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.decoding.image_decoder import SUFFIXES, decode_picture, rgb_of
from ureca.node.decoding.opencv_retrieve import NOT_CONVERTED, check_opencv, remedy, retrieve

DEFAULT_FPS = 24.0
MAX_LEADING_ERRORS = 100
"""A video is refused when so many pictures at its beginning cannot be converted."""
MAX_PICTURE_BYTES = 1 << 26

Shot = tuple[int, Image | SourceError]
"""Nanoseconds since the clip began, and the picture or what is wrong with it."""


class ClipReader(Protocol):
    """Something recorded that can be played from the beginning, any number of times."""

    def shots(self) -> Iterator[Shot]:
        """All pictures in order. Raises `SourceError` when the recording cannot be opened."""


class VideoFile:
    """A video file, with the container's timestamps; `fps` > 0 replaces them by an even rate."""

    def __init__(self, path: Path, *, fps: float = 0.0) -> None:
        self._path = path
        self._fps = fps
        self._open().release()

    def shots(self) -> Iterator[Shot]:
        """See `ClipReader`. Raises `SourceError` also when none of the first pictures is usable."""
        video = self._open()
        with contextlib.closing(self._read(video)) as read:
            begun = _up_to_the_first_picture(read)
            if not begun:
                raise SourceError(f"{self._path} has no readable picture: is it a video file?")
            if isinstance(begun[-1][1], SourceError):
                raise SourceError(f"{self._path} is {NOT_CONVERTED}; {remedy(self._path)}")
            yield from begun
            yield from read

    def _read(self, video: cv2.VideoCapture) -> Generator[Shot, None, None]:
        rate = self._fps or video.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS
        last_ns = -1
        index = 0
        try:
            while video.grab():
                image = self._image(video)
                if image is None:
                    break
                at_ns = round(index / rate * 1e9)
                stamp_ns = round(video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if not self._fps and stamp_ns > last_ns and (index == 0 or stamp_ns > 0):
                    at_ns = stamp_ns
                last_ns = max(at_ns, last_ns + 1)
                index += 1
                yield last_ns, image
        finally:
            video.release()

    def _image(self, video: cv2.VideoCapture) -> Image | SourceError | None:
        try:
            bgr = retrieve(video)
        except SourceError as error:
            return SourceError(f"{self._path.name}: {error}; {remedy(self._path)}")
        return None if bgr is None else rgb_of(bgr)

    def _open(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(str(self._path))
        if not video.isOpened():
            video.release()
            raise SourceError(
                f"cannot open the video {self._path}: it is damaged, empty, or of a format that "
                "OpenCV cannot read; try `ffprobe` on it, or convert it to mp4 (H.264)"
            )
        check_opencv(video)
        return video


def _up_to_the_first_picture(shots: Iterator[Shot]) -> list[Shot]:
    """The shots up to the first good one; the last is an error when there was none in time."""
    begun: list[Shot] = []
    for shot in shots:
        begun.append(shot)
        if not isinstance(shot[1], SourceError) or len(begun) == MAX_LEADING_ERRORS:
            break
    return begun


class PictureFolder:
    """The pictures of a folder in the order of their names."""

    def __init__(self, folder: Path, *, fps: float, max_px: int) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        self._fps = fps or DEFAULT_FPS
        self._max_px = max_px
        if not self._paths:
            raise SourceError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")

    def shots(self) -> Iterator[Shot]:
        """See `ClipReader`. An unreadable picture keeps its place in time."""
        for index, path in enumerate(self._paths):
            yield round(index / self._fps * 1e9), self._read(path)

    def _read(self, path: Path) -> Image | SourceError:
        try:
            return decode_picture(path.read_bytes(), max_px=self._max_px)
        except (SourceError, OSError) as error:
            return SourceError(f"{path.name}: {error}")


class PictureTar:
    """The pictures of a tar in the order of their names; those under `frames/` if there are any."""

    def __init__(self, path: Path, *, fps: float, max_px: int) -> None:
        self._path = path
        self._fps = fps or DEFAULT_FPS
        self._max_px = max_px
        try:
            with tarfile.open(path) as archive:
                members = [m for m in archive.getmembers() if _is_picture(m)]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise SourceError(f"cannot read the tar {path}: {error}") from error
        frames = [m for m in members if "frames" in Path(m.name).parts[:-1]]
        self._members = sorted(frames or members, key=lambda member: member.name)
        if not self._members:
            raise SourceError(f"{path} contains no pictures ({', '.join(sorted(SUFFIXES))})")

    def shots(self) -> Iterator[Shot]:
        """See `ClipReader`. An unreadable picture keeps its place in time."""
        with tarfile.open(self._path) as archive:
            for index, member in enumerate(self._members):
                yield round(index / self._fps * 1e9), self._read(archive, member)

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Image | SourceError:
        try:
            stored = archive.extractfile(member)
            assert stored is not None  # `_is_picture` keeps regular files only
            return decode_picture(stored.read(), max_px=self._max_px)
        except (SourceError, tarfile.TarError, OSError, EOFError) as error:
            return SourceError(f"{member.name}: {error}")


def _is_picture(member: tarfile.TarInfo) -> bool:
    return (
        member.isreg()
        and member.size <= MAX_PICTURE_BYTES
        and Path(member.name).suffix.lower() in SUFFIXES
    )


def open_clip(path: Path, *, fps: float, max_px: int) -> ClipReader:
    """The clip at `path`. Raises `SourceError` when there is nothing that can be played."""
    if path.is_dir():
        return PictureFolder(path, fps=fps, max_px=max_px)
    if not path.is_file():
        raise SourceError(f"no such video, folder or tar: {path}")
    if path.suffix.lower() == ".tar":
        return PictureTar(path, fps=fps, max_px=max_px)
    return VideoFile(path, fps=fps)
