"""Recorded images in single files: a folder, or a tar (also compressed), in natural order."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.decoding.bounded_files import (
    opened_tar,
    read_file,
    read_member,
    regular_members,
)
from ureca.node.decoding.image_decoder import SUFFIXES, decode_picture

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DEFAULT_FPS = 24.0
_MAX_DEPTH = 3
"""Folders below a folder of pictures that are looked into."""
_DIGITS = re.compile(r"(\d+)")


def is_tar(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def natural_key(name: str) -> tuple[tuple[str, int | str], ...]:
    """Sorts `frame2` before `frame10`: numbers in names count as numbers."""
    parts = _DIGITS.split(name.lower())
    return (
        *((text, int(digits)) for text, digits in zip(parts[::2], parts[1::2], strict=False)),
        (
            parts[-1],
            name,
        ),
    )


def is_hidden(name: str) -> bool:
    """Whether a path holds a hidden part: `.git`, macOS's `._NAME` and `__MACOSX`."""
    parts = PurePosixPath(name).parts
    return any((p.startswith(".") and p not in (".", "..")) or p == "__MACOSX" for p in parts)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name, relative to its folder or tar, is taken for a picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not is_hidden(name)


def chosen(names: list[str]) -> tuple[list[str], list[str]]:
    """Of relative names of pictures: those to play, and those of masks, in natural order.

    Pictures under `frames/` are played if there are any, else those that lie highest; `masks/` is
    never played.
    """
    frames: list[str] = []
    masks: list[str] = []
    rest: list[str] = []
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        (frames if "frames" in folders else masks if "masks" in folders else rest).append(name)
    depth = min((name.count("/") for name in rest), default=0)
    rest = [name for name in rest if name.count("/") == depth]
    masks = [name for name in masks if name.lower().endswith(".png")]
    return sorted(frames or rest, key=natural_key), sorted(masks, key=natural_key)


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures and masks of a folder, by the rule of `chosen`; masks also lie in `masks/` beside a
    folder that is called `frames`.
    """
    names = []
    for place, folders, files in os.walk(folder):
        below = PurePosixPath(Path(place).relative_to(folder).as_posix())
        folders[:] = [f for f in folders if not is_hidden(f) and len(below.parts) < _MAX_DEPTH]
        names += [str(below / name) for name in files if is_picture_name(name)]
    pictures, masks = chosen(names)
    found = [folder / name for name in masks]
    if not found and folder.name == "frames":
        beside = folder.parent / "masks"
        found = list_folder(beside)[0] if beside.is_dir() else []
        found = [path for path in found if path.suffix.lower() == ".png"]
    return [folder / name for name in pictures], found


def list_tar(path: Path) -> tuple[list[tarfile.TarInfo], list[tarfile.TarInfo]]:
    """The pictures and masks of a tar. Raises `SourceError` when it cannot be read."""
    with opened_tar(path) as archive:
        members = {m.name: m for m in regular_members(archive) if is_picture_name(m.name)}
    pictures, masks = chosen(list(members))
    return [members[name] for name in pictures], [members[name] for name in masks]


def read_from_tar(path: Path, member: tarfile.TarInfo) -> bytes:
    """One file of a tar. Raises `SourceError` when it cannot be read."""
    with opened_tar(path) as archive:
        return read_member(archive, member)


class PictureFolder:
    """The pictures of a folder in natural order."""

    def __init__(self, folder: Path, *, fps: float, max_px: int) -> None:
        self._paths = list_folder(folder)[0]
        self.fps = fps or DEFAULT_FPS
        self._max_px = max_px
        if not self._paths:
            raise SourceError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")

    def shots(self) -> Iterator[tuple[int, Image | SourceError]]:
        """See `ClipReader`. An unreadable picture keeps its place in time."""
        for index, path in enumerate(self._paths):
            yield round(index / self.fps * 1e9), self._read(path)

    def _read(self, path: Path) -> Image | SourceError:
        try:
            return decode_picture(read_file(path), max_px=self._max_px)
        except SourceError as error:
            return SourceError(f"{path.name}: {error}")


class PictureTar:
    """The pictures of a tar in natural order; those under `frames/` if there are any."""

    def __init__(self, path: Path, *, fps: float, max_px: int) -> None:
        self._path = path
        self.fps = fps or DEFAULT_FPS
        self._max_px = max_px
        self._members = list_tar(path)[0]
        if not self._members:
            raise SourceError(f"{path} contains no pictures ({', '.join(sorted(SUFFIXES))})")

    def shots(self) -> Iterator[tuple[int, Image | SourceError]]:
        """See `ClipReader`. An unreadable picture keeps its place in time."""
        with opened_tar(self._path) as archive:
            for index, member in enumerate(self._members):
                yield round(index / self.fps * 1e9), self._read(archive, member)

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Image | SourceError:
        try:
            return decode_picture(read_member(archive, member), max_px=self._max_px)
        except (SourceError, tarfile.TarError, OSError, EOFError) as error:
            return SourceError(f"{member.name}: {error}")
