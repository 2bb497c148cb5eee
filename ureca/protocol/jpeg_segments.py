"""Walks the segments and scans of a JPEG (ITU-T T.81, annex B) to the end marker of the picture.

Cameras write bytes behind it, phones whole videos, and previews inside of a segment have end
markers of their own: the last two bytes of a file say nothing.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from ureca.errors import WireError
from ureca.protocol.picture_facts import PictureFacts, read_orientation

JPEG_START = b"\xff\xd8"
MAX_SCANS = 64
"""Each scan goes over the whole picture; encoders write about ten."""
MAX_SEGMENTS = 1024

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REFINED = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
"""Progressive: each scan refines the picture, so a missing one cannot be told from its pixels."""
_START, _END, _SCAN, _EXIF = 0xD8, 0xD9, 0xDA, 0xE1
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
# As decoders do it: what stands before a marker is passed over, 0xFF 0x00 is a byte of a scan.
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_IS_RESTART = np.zeros(256, np.bool_)
_IS_RESTART[0xD0:0xD8] = True
_IS_MARKER = ~_IS_RESTART
_IS_MARKER[[0x00, 0x01, 0xFF]] = False


class _Walk:
    """The state of one walk."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, len(JPEG_START)
        self.size: tuple[int, int] | None = None
        self.orientation: int | None = None
        self.is_sequential = True
        self.scans = 0
        self._marks: npt.NDArray[np.int64] | None = None
        """Where the codes of further markers stand, from the first scan on."""

    def next_marker(self) -> int | None:
        """Go to the content of the next segment; None where the data ends before one."""
        if self._marks is None:
            found = _MARKER.search(self.data, self.place)
            at = -1 if found is None else found.end() - 1
        else:
            index = int(np.searchsorted(self._marks, self.place, side="right"))
            at = int(self._marks[index]) if index < len(self._marks) else -1
        if at < 0:
            return None
        self.place = at + 1
        return self.data[at]

    def content(self) -> bytes:
        """The content of the segment; the walk goes on behind it. Empty when it is cut off."""
        length = int.from_bytes(self.data[self.place : self.place + 2], "big")
        start, self.place = self.place + 2, self.place + max(length, 2)
        return self.data[start : self.place] if self.place <= len(self.data) else b""

    def take(self, marker: int) -> None:
        """Read one segment."""
        if marker in _WITHOUT_LENGTH:
            return
        content = self.content()
        if marker in _START_OF_FRAME:
            self._take_frame(marker, content)
        elif marker == _EXIF and content.startswith(b"Exif\0\0"):
            if self.size is None and self.orientation is None:
                self.orientation = read_orientation(content)
        elif marker == _SCAN:
            self.scans += 1
            if self._marks is None:
                self._marks = self.place + _codes(self.data, self.place, _IS_MARKER)
            if self.scans > MAX_SCANS:
                raise WireError(f"a JPEG of more than {MAX_SCANS} scans; save it as baseline JPEG")

    def _take_frame(self, marker: int, content: bytes) -> None:
        if self.size is not None:
            raise WireError("the JPEG is broken: it has a second start of frame")
        if len(content) < 6:
            raise WireError("the JPEG is cut off in its start of frame")
        self.size = int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big")
        self.is_sequential = marker not in _REFINED


def walk_jpeg(data: bytes, *, whole: bool) -> PictureFacts:
    """The facts of a JPEG; without `whole` those before its pixels.

    Raises `WireError` for one that has no start of frame, or more segments or scans than allowed.
    """
    walk = _Walk(data)
    is_ended = False
    for _ in range(MAX_SEGMENTS + MAX_SCANS):
        marker = walk.next_marker()
        if marker is None or marker in (_START, _END):
            is_ended = marker == _END
            break
        walk.take(marker)
        if walk.size is not None and not whole:
            break
    else:
        raise WireError(f"a JPEG of more than {MAX_SEGMENTS} segments; save it without comments")
    if walk.size is None:
        raise WireError("expected a JPEG with a start of frame, got one that is cut off or broken")
    if whole and not walk.scans:
        raise WireError("the JPEG is cut off: it has no pixels")
    width, height = walk.size
    return PictureFacts(
        kind="jpeg",
        width=width,
        height=height,
        orientation=walk.orientation or 1,
        end=walk.place if is_ended else len(data),
        is_ended=is_ended or not whole,
        is_sequential=walk.is_sequential,
        next_restart=_next_restart(data) if whole and not is_ended else None,
    )


def _codes(data: bytes, start: int, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where the wanted codes of markers stand in `data[start:]`, counted from `start`."""
    found = np.frombuffer(data, np.uint8)[start:]
    behind = np.flatnonzero(found[:-1] == 0xFF) + 1
    return behind[wanted[found[behind]]]


def _next_restart(data: bytes) -> int | None:
    restarts = _codes(data, 0, _IS_RESTART)
    return 0xD0 + (data[int(restarts[-1])] + 1) % 8 if len(restarts) else None
