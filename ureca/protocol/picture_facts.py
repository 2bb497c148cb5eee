"""What is known of a compressed picture before it is decoded, its EXIF orientation included."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

_ORIENTATION, _SHORT = 0x0112, 3
_MAX_ENTRIES = 512
_PREFIX = b"Exif\0\0"


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """`width` and `height` are as stored; `orientation` (EXIF, 1..8) says how it is to be turned.

    `end` is where the first picture of the data ends. `is_ended` is False for a JPEG without its
    end marker, which some cameras leave out; `is_sequential` for a JPEG that is decoded in one go
    and not refined by further scans. `next_restart` is the restart marker that would come next in
    such a JPEG, None if it has none.
    """

    kind: Literal["jpeg", "png", "webp", "bmp"]
    width: int
    height: int
    orientation: int
    end: int
    is_ended: bool = True
    is_sequential: bool = True
    next_restart: int | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the picture as people see it, turned as `orientation` says."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height


def read_orientation(data: bytes) -> int:
    """The orientation in EXIF data (JEITA CP-3451), 1..8; 1 (as stored) also for broken data and
    data that does not say it. `data` may begin with `Exif`, as in a JPEG.
    """
    body = data.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(body[:4])
    if order is None or len(body) < 8:
        return 1
    start = int.from_bytes(body[4:8], "little" if order == "<" else "big")
    if start + 2 > len(body):
        return 1
    (count,) = struct.unpack_from(f"{order}H", body, start)
    for place in range(start + 2, start + 2 + 12 * min(count, _MAX_ENTRIES), 12):
        if place + 12 > len(body):
            return 1
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", body, place)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1
