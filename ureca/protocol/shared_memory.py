"""Raw pixels between processes of one host: a ring of slots in a file of shared memory.

The writer copies a picture into the next slot and sends a `SharedPixels` instead of the bytes. A
slot carries a generation, odd while it is written; a reader compares it with the one it was told,
before and after it has copied the pixels, so a slot that was used again is noticed and never shown.

Both sides use `pread` and `pwrite`, not a mapping: a file that shrinks under a mapping kills its
reader. The writer holds a lock on its file, which ends with the process however it dies; whoever
comes later deletes files without one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from ureca.errors import WireError
from ureca.protocol.messagepack import LIMITS, check_id

Bytes = npt.NDArray[np.uint8]

SHARED_FOLDER = Path("/dev/shm")  # noqa: S108  (where Linux keeps shared memory)
PREFIX = "ureca-ring-"
SLOTS = 8
MAX_SLOTS = 64
_MAGIC = b"ureca-ring-1\0\0\0\0"
_HEAD = struct.Struct("<16sQQ")
_GENERATION = struct.Struct("<Q")
_PAGE = 4096
_MAX_OPEN = 8
_MAX_SCANNED = 4096
_MAKING_S = 60.0
"""A file that is still being made is not locked for a moment."""


class SharedPixels(Struct, frozen=True, kw_only=True):
    """The place of a frame's pixels: file name, slot, and generation."""

    name: Annotated[str, Meta(max_length=64)]
    slot: Annotated[int, Meta(ge=0, lt=MAX_SLOTS)]
    gen: Annotated[int, Meta(ge=0)]


class RingWriter:
    """The camera side, for images of at most `max_bytes`. The file is created for the first image,
    and again for a larger one.
    """

    def __init__(
        self,
        *,
        slots: int = SLOTS,
        folder: Path = SHARED_FOLDER,
        max_bytes: int = LIMITS.max_payload_bytes,
    ) -> None:
        if not 2 <= slots <= MAX_SLOTS:
            raise WireError(f"expected 2 to {MAX_SLOTS} slots, got {slots}")
        self._folder, self._slots, self._max_bytes = folder, slots, max_bytes
        self._file = -1
        self._path: Path | None = None
        self._slot_bytes = 0
        self._count = 0
        remove_dead(folder)

    def write(self, pixels: Bytes) -> SharedPixels:
        """Copy `pixels`, u8 of any shape and C order, into the next slot.

        Raises `WireError` when they exceed the protocol's limit or shared memory is full.
        """
        if pixels.nbytes > self._slot_bytes:
            self._make(pixels.nbytes)
        slot, generation = self._count % self._slots, 2 * (self._count // self._slots) + 2
        self._count += 1
        start = _offset(slot, self._slot_bytes)
        os.pwrite(self._file, _GENERATION.pack(generation - 1), start)
        _write_all(self._file, pixels.reshape(-1).data, start + _PAGE)
        os.pwrite(self._file, _GENERATION.pack(generation), start)
        assert self._path is not None
        return SharedPixels(name=self._path.name, slot=slot, gen=generation)

    def close(self) -> None:
        """Delete the file. Readers that have it open finish their read."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._path = None
            self._slot_bytes = 0

    def _make(self, slot_bytes: int) -> None:
        if slot_bytes > self._max_bytes:
            raise WireError(
                f"expected at most {self._max_bytes} bytes, got {slot_bytes}",
                code="TOO_LARGE",
            )
        self.close()
        path = self._folder / f"{PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
        half_made = path.with_name(f".{path.name}")
        try:
            self._file = _reserve(half_made, _offset(self._slots, slot_bytes))
            os.pwrite(self._file, _HEAD.pack(_MAGIC, self._slots, slot_bytes), 0)
            half_made.rename(path)  # only now, locked, can it be taken for a dead one's
        except OSError as error:
            raise WireError(
                f"cannot make shared memory of {self._slots} x {slot_bytes} bytes in "
                f"{self._folder}: {error.strerror}; enlarge it, or send without --shm",
                code="INTERNAL",
            ) from error
        self._path, self._slot_bytes, self._count = path, slot_bytes, 0


def _reserve(path: Path, size: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.posix_fallocate(file, 0, size)  # a full /dev/shm is an error now, not a signal later
    except OSError:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    return file


def _offset(slot: int, slot_bytes: int) -> int:
    """Where a slot begins: a page with its generation, then its pixels in whole pages."""
    return _PAGE + slot * (_PAGE + -(-slot_bytes // _PAGE) * _PAGE)


def _write_all(file: int, pixels: memoryview, at: int) -> None:
    done = 0
    while done < len(pixels):
        done += os.pwrite(file, pixels[done:], at + done)


@dataclass(frozen=True, slots=True)
class _Ring:
    file: int
    slots: int
    slot_bytes: int


class RingReader:
    """The node side; keeps the last few rings open. For one thread."""

    def __init__(
        self, *, folder: Path = SHARED_FOLDER, max_bytes: int = LIMITS.max_payload_bytes
    ) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._rings: OrderedDict[str, _Ring] = OrderedDict()

    def read(self, where: SharedPixels, size: int) -> Bytes:
        """The `size` bytes at `where`, as u8 [size] of the caller's own.

        Raises `WireError`: `STALE_FRAME` when the slot was used again, `GONE` when the ring cannot
        be read any more, `BAD_SCHEMA` for what cannot be a slot of it.
        """
        ring = self._ring(where.name)
        if where.slot >= ring.slots or size > ring.slot_bytes:
            raise WireError(
                f"expected one of {ring.slots} slots of {ring.slot_bytes} bytes, got slot "
                f"{where.slot} and {size} bytes"
            )
        start = _offset(where.slot, ring.slot_bytes)
        pixels = np.empty(size, np.uint8)
        self._check_generation(ring, start, where)
        if _read_all(ring.file, pixels, start + _PAGE) != size:
            raise WireError(f"the shared memory {where.name} was cut", code="GONE")
        self._check_generation(ring, start, where)
        return pixels

    def close(self) -> None:
        """Close all rings and delete those whose writer has died."""
        while self._rings:
            os.close(self._rings.popitem()[1].file)
        remove_dead(self._folder)

    def _check_generation(self, ring: _Ring, start: int, where: SharedPixels) -> None:
        found = os.pread(ring.file, _GENERATION.size, start)
        if len(found) != _GENERATION.size:
            raise WireError(f"the shared memory {where.name} was cut", code="GONE")
        if _GENERATION.unpack(found)[0] != where.gen:
            raise WireError(
                f"slot {where.slot} of {where.name} was used again before it was read",
                code="STALE_FRAME",
            )

    def _ring(self, name: str) -> _Ring:
        if name not in self._rings:
            self._rings[name] = self._open(name)
            remove_dead(self._folder)  # a camera that comes back has left its last ring behind
            if len(self._rings) > _MAX_OPEN:
                os.close(self._rings.popitem(last=False)[1].file)
        self._rings.move_to_end(name)
        return self._rings[name]

    def _open(self, name: str) -> _Ring:
        check_id(name, "shared memory")
        if not name.startswith(PREFIX):
            raise WireError(f"expected shared memory named {PREFIX}…, got {name!r}")
        try:
            file = _open_own(self._folder / name)
        except OSError as error:
            raise WireError(
                f"cannot read the shared memory {name}: {error.strerror}; camera and node must run "
                "on one host and as one user",
                code="GONE",
            ) from error
        try:
            return _checked(file, name, self._max_bytes)
        except WireError:
            os.close(file)
            raise


def _open_own(path: Path) -> int:
    """Open a regular file of this user for reading; `OSError`. A FIFO or a device of another user
    must not even be opened: that may wait for ever, or act.
    """
    if not _is_own(os.lstat(path)):
        raise OSError(errno.EPERM, "it is no file of this user")
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not _is_own(os.fstat(file)):  # another one by now
        os.close(file)
        raise OSError(errno.EPERM, "it is no file of this user")
    return file


def _is_own(about: os.stat_result) -> bool:
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()


def _checked(file: int, name: str, max_bytes: int) -> _Ring:
    head = os.pread(file, _HEAD.size, 0)
    magic, slots, slot_bytes = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0)
    if magic != _MAGIC or not 2 <= slots <= MAX_SLOTS or not 0 < slot_bytes <= max_bytes:
        raise WireError(f"the file {name} is not a ring of pictures of version 1")
    return _Ring(file, slots, slot_bytes)


def _read_all(file: int, pixels: Bytes, at: int) -> int:
    view, done = pixels.data, 0
    while done < len(view):
        count = os.preadv(file, [view[done:]], at + done)
        if count == 0:
            break
        done += count
    return done


def remove_dead(folder: Path = SHARED_FOLDER) -> list[str]:
    """Delete the rings of this user whose writer has died, and return their names."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for _, entry in zip(range(_MAX_SCANNED), entries, strict=False)]
    rings = [name for name in names if name.lstrip(".").startswith(PREFIX)]
    return [name for name in rings if _remove_if_dead(folder / name)]


def _remove_if_dead(path: Path) -> bool:
    with contextlib.suppress(OSError):  # another user's, or gone since, or its writer lives
        file = _open_own(path)
        try:
            if path.name.startswith(".") and time.time() - os.fstat(file).st_mtime < _MAKING_S:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
        return True
    return False
