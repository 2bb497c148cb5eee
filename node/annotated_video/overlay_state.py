"""The captions of the regions of a stream, for drawing."""

from __future__ import annotations

from ureca.client.region_cache import RegionCache
from ureca.datatypes import Track, TrackSet, TrackState
from ureca.protocol.events import CaptionFinal, CaptionSame, TrackEnd
from ureca.visualization.palette import Palette
from ureca.visualization.picture import Memory, Shown

News = CaptionFinal | CaptionSame | TrackEnd
"""The events that change what is drawn."""


class OverlayState:
    """The last captions, colours and places of one stream's regions."""

    def __init__(self) -> None:
        self.memory: Memory = {}
        self._captions = RegionCache()
        self._palette = Palette()

    def apply(self, event: News) -> None:
        """Take note of one event."""
        self._captions.apply(event)
        if isinstance(event, TrackEnd):
            self._palette.forget(event.rid)

    def shown(self, tracks: TrackSet) -> list[Shown]:
        """The regions to draw on this frame; what is lost or out of date is stale."""
        return [
            self._shown(track, tracks)
            for track in tracks.tracks
            if track.state is not TrackState.ENDED
        ]

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
        )
