"""A stream's segments as the client reads them: every pixel, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ureca.client.id_map import decode_id_map, stretch_ids
from ureca.datatypes import JsonObject
from ureca.errors import WireError
from ureca.protocol.events import NamedSegment, Panoptic
from ureca.protocol.wire import event_from_plain


@dataclass(frozen=True, slots=True)
class PanopticView:
    """The segments of one frame. `id_map` u8 [h, w] is stretched over the frame of `width` x
    `height`; its values are `n` of `segments`, 0 is the rest.
    """

    stream: str
    seq: int
    captured_ns: int
    width: int
    height: int
    id_map: npt.NDArray[np.uint8]
    segments: tuple[NamedSegment, ...]

    @classmethod
    def from_event(cls, event: Panoptic) -> PanopticView:
        """Read an event `panoptic`. Raises `WireError` for a map that cannot be read."""
        return cls(
            stream=event.stream,
            seq=event.seq,
            captured_ns=event.captured_ns,
            width=event.width,
            height=event.height,
            id_map=decode_id_map(event.png),
            segments=event.segments,
        )

    @classmethod
    def from_plain(cls, event: JsonObject) -> PanopticView:
        """Read the result of a request `panoptic`. Raises `WireError` as `from_event` does."""
        read = event_from_plain(event)
        if not isinstance(read, Panoptic):
            raise WireError(f"expected a panoptic event, got {type(read).__name__}")
        return cls.from_event(read)

    def segment_at(self, x: float, y: float) -> NamedSegment | None:
        """The segment at a pixel of the frame; None for the rest, or outside of the frame."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            return None
        height, width = self.id_map.shape
        number = int(self.id_map[int(y * height / self.height), int(x * width / self.width)])
        return next((one for one in self.segments if one.n == number), None)

    def caption_at(self, x: float, y: float) -> str | None:
        """What is said of the segment at a pixel of the frame; None where nothing is."""
        found = self.segment_at(x, y)
        return None if found is None else found.caption

    def mask(self, n: int) -> npt.NDArray[np.bool_]:
        """The pixels bool [h, w] of a segment, at the size of `id_map`."""
        return np.asarray(self.id_map == n, np.bool_)

    def region_map(
        self, numbers: Mapping[str, int], size: tuple[int, int] | None = None
    ) -> npt.NDArray[np.uint16]:
        """The number u16 [H, W] of each pixel's region, by region id; 0 for the rest and for
        regions without a number. `size` is (height, width), None for that of `id_map`.
        """
        table = np.zeros(256, np.uint16)
        for one in self.segments:
            if 0 < one.n < len(table):
                table[one.n] = numbers.get(one.rid, 0)
        found = table[self.id_map]
        return found if size is None else stretch_ids(found, *size)


def segment_text(segment: NamedSegment) -> str:
    """What a segment is called: its region's caption, else its label, else its region's id."""
    return segment.caption or segment.label or segment.rid
