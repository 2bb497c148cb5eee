"""Files and tars that may come from a stranger: regular ones of bounded size, read in bounded
pieces.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, cast

from ureca.errors import SourceError

MAX_PICTURE_BYTES = 1 << 26
MAX_MEMBERS = 1 << 16
_MAX_READ_BYTES = MAX_PICTURE_BYTES + tarfile.BLOCKSIZE
_MAX_UNPACKED_BYTES = 1 << 34
"""Of a compressed tar: the rest is not read."""
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError)
_ZSTD = b"(\xb5/\xfd"
_UNPACK: tuple[tuple[bytes, Callable[[BinaryIO], BufferedIOBase]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)


def read_file(path: Path, *, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """The bytes of a regular file, or of one that a link leads to.

    Raises `SourceError` for a device, a pipe or a folder, for more than `max_bytes`, and when the
    system refuses it.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123  (a descriptor)
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise SourceError(f"{path} is no regular file")
            data = file.read(max_bytes + 1) if facts.st_size <= max_bytes else b""
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if max(facts.st_size, len(data)) > max_bytes:
        raise SourceError(f"{path} has {facts.st_size} bytes, at most {max_bytes} are read")
    return data


@contextlib.contextmanager
def opened_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar, plain or packed by gzip, bzip2 or xz. Raises `SourceError` for what is none, also
    while it is read.
    """
    try:
        with path.open("rb") as file:
            bounded = cast("BinaryIO", _BoundedFile(_unpacked(path, file)))
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                yield archive
    except (*_DAMAGED, OSError, EOFError) as error:
        raise SourceError(f"cannot read the tar {path}: {error}") from error


def regular_members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The regular files of a tar, no links and no devices.

    Raises `SourceError` for more than `MAX_MEMBERS` entries, or an entry larger than
    `MAX_PICTURE_BYTES` that only describes another one.
    """
    found: list[tarfile.TarInfo] = []
    for number, member in enumerate(archive):
        if number >= MAX_MEMBERS:
            raise SourceError(f"a tar of more than {MAX_MEMBERS} entries; split it")
        if member.isreg():
            found.append(member)
    return found


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a regular file. Raises `SourceError` when it is larger than a picture may be."""
    if member.size > MAX_PICTURE_BYTES:
        raise SourceError(f"{member.size} bytes, at most {MAX_PICTURE_BYTES} are read")
    stored = archive.extractfile(member) if member.isreg() else None
    if stored is None:
        raise SourceError("it is no regular file")
    return stored.read()


class _BoundedFile:
    """What `tarfile` reads from. It reads the header of an entry in one piece, however large the
    header says that it is.
    """

    def __init__(self, file: BinaryIO | BufferedIOBase) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes. Raises `tarfile.ReadError` for more than a picture may have."""
        if not 0 <= size <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"an entry needs {size} bytes at once")
        if self._file.tell() > _MAX_UNPACKED_BYTES:
            raise tarfile.ReadError(f"it unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
        return self._file.read(size)


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO | BufferedIOBase:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise SourceError(f"{path} is no regular file")
    start = file.read(8)
    file.seek(0)
    if start.startswith(_ZSTD):
        raise SourceError(f"{path} is compressed by zstd: unpack it to a plain tar first")
    return next((unpack(file) for magic, unpack in _UNPACK if start.startswith(magic)), file)
