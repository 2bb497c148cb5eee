"""The captions of the regions of a stream, and its segments, for drawing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ureca.client.panoptic_view import PanopticView
from ureca.client.region_cache import RegionCache
from ureca.datatypes import Track, TrackSet, TrackState
from ureca.protocol.events import CaptionFinal, CaptionSame, Panoptic, TrackEnd
from ureca.visualization.palette import SEGMENT_COLOURS, Palette
from ureca.visualization.picture import Memory, Shown
from ureca.visualization.segment_fill import MAX_SEGMENTS, U8, paint_ids

News = CaptionFinal | CaptionSame | Panoptic | TrackEnd
"""The events that change what is drawn."""


class OverlayState:
    """The last captions, colours and places of one stream's regions, and its last segments."""

    def __init__(self) -> None:
        self.memory: Memory = {}
        self._captions = RegionCache()
        self._palette = Palette()
        self._segments: PanopticView | None = None
        self._stuff: frozenset[str] = frozenset()

    def apply(self, event: News) -> None:
        """Take note of one event."""
        if isinstance(event, Panoptic):
            self._take_segments(PanopticView.from_event(event))
            return
        self._captions.apply(event)
        if isinstance(event, TrackEnd):
            self._palette.forget(event.rid)

    def _take_segments(self, view: PanopticView) -> None:
        if self._segments is None:
            self._palette = Palette(SEGMENT_COLOURS)
        self._segments = view
        self._stuff = frozenset(one.rid for one in view.segments if one.kind == "stuff")

    def shown(self, tracks: TrackSet) -> list[Shown]:
        """The regions to draw on this frame; what is lost or out of date is stale."""
        return [
            self._shown(track, tracks)
            for track in tracks.tracks
            if track.state is not TrackState.ENDED
        ]

    def ids(self, shown: Sequence[Shown], size: tuple[int, int]) -> U8 | None:
        """Which of `shown` each pixel of a frame of `size` (height, width) belongs to: u8 [H, W],
        n is `shown[n - 1]`, 0 the rest; None before the first segments of the stream.

        Regions are where the tracker sees them now. A pixel of none keeps the stuff that the last
        keyframe had there.
        """
        if self._segments is None:
            return None
        numbers = {one.name: n for n, one in enumerate(shown[:MAX_SEGMENTS], 1)}
        table = np.zeros(256, np.uint8)
        for one in self._segments.segments:
            if one.kind == "stuff":
                table[one.n] = numbers.get(one.rid, 0)
        small = table[self._segments.id_map]
        there = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
        ids = np.asarray(there, np.uint8)
        found = ((numbers.get(one.name, 0), one.mask, one.box_xyxy_px) for one in shown)
        paint_ids(ids, [(n, mask, box) for n, mask, box in found if n and mask is not None])
        return ids

    def _shown(self, track: Track, tracks: TrackSet) -> Shown:
        caption = self._captions.get(tracks.stream, track.rid)
        old = caption is not None and not caption.holds(tracks.captured_ns)
        return Shown(
            track.rid,
            track.box_xyxy_px,
            self._palette[track.rid],
            "" if caption is None else caption.text,
            track.mask,
            stale=old or track.mask is None,
            is_stuff=track.rid in self._stuff,
        )
