"""Whether a region is alive exactly while its object can be seen.

J and F judge outlines. A robot that acts on a region must first know that it is there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ureca.datatypes import Mask
from ureca.node.bench.davis_metrics import jaccard

_ABSENT, _PRESENT = 0.02, 0.25
"""Visible shares of an object below which it is absent, and from which on it is present. On the
frames in between it may be either, and they do not count."""
_OFF, _ON = 0.1, 0.5
"""IoU below which a region is elsewhere, and above which it is on an object."""


@dataclass(frozen=True, slots=True)
class Presence:
    """One region over one clip. Counts of frames, without the first, whose mask is given.

    `absent_tracked` is alive without its object; `off_target` alive at an IoU below .1 although its
    object is there; `present_lost` not alive although its object is there; `swapped` on a
    followed object that is not its own. `lost_after` and `back_after` are frames from each
    disappearance and each return until the region is lost and on its object again; None: never
    within the absence, or the stay. `j` is the mean IoU over the frames with the object.
    """

    frames: int
    absent: int
    present: int
    absent_tracked: int
    off_target: int
    present_lost: int
    swapped: int
    lost_after: tuple[int | None, ...]
    back_after: tuple[int | None, ...]
    j: float


def judge(
    masks: Sequence[Mask | None],
    truths: Sequence[Mask],
    shares: Sequence[float] | None = None,
    others: Sequence[Sequence[Mask]] = (),
) -> Presence:
    """Judge a region's masks bool [H, W], None where it is not alive, against the visible masks of
    its object, and `others`, those of other followed objects. `shares` are the visible shares of
    the object, 0..1; without them it is present wherever its mask has a pixel. Raises `ValueError`
    when their numbers differ.
    """
    known = [float(truth.any()) for truth in truths] if shares is None else list(shares)
    if not len(masks) == len(truths) == len(known) or len(masks) < 2:
        raise ValueError(f"{len(masks)} masks, {len(truths)} truths, {len(known)} shares")
    states = [_state(share) for share in known]
    hits = [
        0.0 if mask is None else jaccard(mask, truth)
        for mask, truth in zip(masks, truths, strict=True)
    ]
    alive = [mask is not None for mask in masks]
    counted = range(1, len(masks))
    present = [n for n in counted if states[n] == 1]
    absent = [n for n in counted if states[n] == -1]
    return Presence(
        frames=len(masks) - 1,
        absent=len(absent),
        present=len(present),
        absent_tracked=sum(alive[n] for n in absent),
        off_target=sum(alive[n] and hits[n] < _OFF for n in present),
        present_lost=sum(not alive[n] for n in present),
        swapped=sum(_is_swapped(masks[n], hits[n], [o[n] for o in others]) for n in counted),
        lost_after=_delays(states, [not one for one in alive], -1),
        back_after=_delays(states, [hit >= _OFF for hit in hits], 1),
        j=float(np.mean([hits[n] for n in present])) if present else 0.0,
    )


def _state(share: float) -> int:
    """-1 absent, 1 present, 0 in between."""
    return -1 if share < _ABSENT else int(share >= _PRESENT)


def _is_swapped(mask: Mask | None, hit: float, others: Sequence[Mask]) -> bool:
    return mask is not None and hit < _ON and any(jaccard(mask, one) > _ON for one in others)


def _delays(states: Sequence[int], reached: Sequence[bool], wanted: int) -> tuple[int | None, ...]:
    """How long it took until `reached`, from each frame on which the state became `wanted` after
    it was the opposite; None where the state ended first.
    """
    delays: list[int | None] = []
    last, since = states[0], -1
    for number, state in enumerate(states):
        if state == -wanted and since >= 0:
            delays.append(None)
            since = -1
        if state == wanted and last == -wanted:
            since = number
        last = state or last
        if since >= 0 and reached[number]:
            delays.append(number - since)
            since = -1
    return (*delays, None) if since >= 0 else tuple(delays)
