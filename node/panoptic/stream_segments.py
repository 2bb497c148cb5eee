"""The segments of one stream: from keyframe to keyframe the same regions.

The tracker owns ids. A segment that overlaps a region on its own keyframe is that region; others
begin new ones, things before stuff, the largest first, while there is room. Regions that clients or
senders gave are drawn over the map. A region that began from a segment and is none on three
keyframes in a row ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Frame, Mask, RegionSeed, Track, TrackSet
from ureca.errors import RegionError
from ureca.node.panoptic.association import U8, associate, put_on_top
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.node.segmentation.keyframe_segments import KeyframeSegments, decode_ids, encode_ids
from ureca.node.tracking.tracker import Tracker
from ureca.protocol.events import NamedSegment, Panoptic
from ureca.protocol.rle import encode

_MISSES = 3
_LAST_NUMBER = 255
_Named = tuple[str, str | None]
"""A region and what it is called."""


@dataclass(frozen=True, slots=True)
class HeldFrame:
    """A keyframe, and the regions on it."""

    frame: Frame
    tracks: tuple[Track, ...]


@dataclass(slots=True)
class SegmentChanges:
    """What a keyframe's segments led to."""

    event: Panoptic
    ended: list[Track] = field(default_factory=list)
    begun_stuff: list[str] = field(default_factory=list)


class StreamSegments:
    """Segments of one stream's keyframes, and the regions that began from them."""

    def __init__(self) -> None:
        self._held: HeldFrame | None = None
        self._answer: KeyframeSegments | None = None
        self._kinds: dict[str, str] = {}
        """Kinds of the regions that began from a segment."""
        self._misses: Counter[str] = Counter()

    def open(self, frame: Frame, tracks: TrackSet) -> None:
        """`frame` is the keyframe; `tracks` are the regions on it."""
        self._held, self._answer = HeldFrame(frame, tracks.tracks), None

    def offer(self, result: KeyframeResult) -> None:
        """A segmenter's answer: taken up by the next `take`, forgotten if it is of another keyframe
        than the last.
        """
        if self._held is not None and result.seq == self._held.frame.seq:
            self._answer = result.segments
            if result.segments is None:
                self._held = None

    def take(self, tracker: Tracker, frame: Frame) -> SegmentChanges | None:
        """Take the answer up, if there is one, on `frame`, the newest."""
        held, answer = self._held, self._answer
        if held is None or answer is None:
            return None
        self._held = self._answer = None
        self._forget_ended(tracker)
        ids = decode_ids(answer.png)
        regions = {
            one.rid: _shrink(one.mask, ids.shape) for one in held.tracks if one.mask is not None
        }
        own = {rid: mask for rid, mask in regions.items() if rid in self._kinds}
        ids, given = _draw_given(ids, {r: m for r, m in regions.items() if r not in own})
        found = {n: (kind, score) for n, kind, score in answer.segments if (ids == n).any()}
        changes = SegmentChanges(_make_event(held.frame, answer.stage_us))
        kinds = {n: kind for n, (kind, _) in found.items()}
        claims = associate(ids, kinds, own, self._kinds)
        for number in _order(ids, found):
            region = _move_segment(held.frame, ids == number, claims.get(number), tracker, frame)
            others = [*given.values(), *(rid for n, rid in claims.items() if n != number)]
            if region is None or region in others:  # no room, it has left, or it is another's
                claims.pop(number, None)
                continue
            claims[number] = region
            if region not in self._kinds:
                self._kinds[region] = found[number][0]
                changes.begun_stuff += [region] * (found[number][0] == "stuff")
        self._end_unclaimed(set(claims.values()), own, tracker, changes)
        tracker.corrections.release(held.frame.seq)
        labels = {one.rid: one.label for one in held.tracks}
        named = [
            _name_segment(n, ids, (rid, labels.get(rid)), found.get(n, ("thing", None)))
            for n, rid in (*claims.items(), *given.items())
        ]
        changes.event = _complete(changes.event, ids, named)
        return changes

    def _forget_ended(self, tracker: Tracker) -> None:
        for rid in [rid for rid in self._kinds if not tracker.follows(rid)]:
            del self._kinds[rid]
            self._misses.pop(rid, None)

    def _end_unclaimed(
        self, claimed: set[str], own: dict[str, Mask], tracker: Tracker, changes: SegmentChanges
    ) -> None:
        for rid in own:
            self._misses[rid] = 0 if rid in claimed else self._misses[rid] + 1
            if self._misses[rid] >= _MISSES:
                changes.ended.append(tracker.end_segment(rid))
        self._forget_ended(tracker)


def _draw_given(ids: U8, regions: dict[str, Mask]) -> tuple[U8, dict[int, str]]:
    """The map with the regions that others gave on top, under the highest free numbers."""
    free = list(range(_LAST_NUMBER, int(ids.max(initial=0)), -1))
    given = dict(zip(free, regions, strict=False))
    return put_on_top(ids, {n: regions[rid] for n, rid in given.items()}), given


def _order(ids: U8, found: dict[int, tuple[str, float]]) -> list[int]:
    """Numbers of segments, things before stuff, the largest first."""
    areas = np.bincount(ids.ravel(), minlength=256)
    return sorted(found, key=lambda n: (found[n][0] != "thing", -int(areas[n])))


def _move_segment(
    keyframe: Frame, there: npt.NDArray[np.bool_], rid: str | None, tracker: Tracker, frame: Frame
) -> str | None:
    """Set the region of a segment to its mask, or begin one; the region's id, None without room."""
    mask = _enlarge(there, keyframe)
    if not mask.any():
        return None
    try:
        return tracker.take_segment(keyframe.seq, RegionSeed(mask=encode(mask)), frame, rid).rid
    except RegionError:
        return None


def _name_segment(n: int, ids: U8, track: _Named, known: tuple[str, float | None]) -> NamedSegment:
    share = round(float(np.count_nonzero(ids == n)) / ids.size, 4)
    kind, score = known
    return NamedSegment(n=n, rid=track[0], kind=kind, share=share, score=score, label=track[1])


def _make_event(frame: Frame, stage_us: dict[str, int]) -> Panoptic:
    return Panoptic(
        stream=frame.stream,
        seq=frame.seq,
        captured_ns=frame.captured_ns,
        clk=frame.clock,
        width=frame.width,
        height=frame.height,
        segments=(),
        png=b"",
        stage_us=stage_us,
    )


def _complete(event: Panoptic, ids: U8, named: list[NamedSegment]) -> Panoptic:
    """The event with its segments; what has no region is rest."""
    kept = np.zeros(256, np.uint8)
    named = [one for one in named if one.share > 0]
    named.sort(key=lambda one: (one.kind != "thing", -one.share))
    for one in named:
        kept[one.n] = one.n
    return msgspec.structs.replace(event, segments=tuple(named), png=encode_ids(kept[ids]))


def _shrink(mask: Mask, shape: tuple[int, ...]) -> Mask:
    small = cv2.resize(mask.view(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small > 0, np.bool_)


def _enlarge(mask: Mask, frame: Frame) -> Mask:
    soft = cv2.resize(
        mask.astype(np.float32), (frame.width, frame.height), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(soft > 0.5, np.bool_)
