"""Keyframes: what the tracker wants cut out of one, and what a segmenter makes of that.

`cut_out` is pure; whoever calls it (`cutter`) decides on which thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ureca.datatypes import Frame, Mask, Rle
from ureca.node.everything import everything
from ureca.node.regions import iou
from ureca.node.segmenter import Cut, Prompt, Segmenter
from ureca.node.segmenter_config import SegmenterConfig
from ureca.rle import encode


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What to cut out of `frame`: the regions of `prompts` by id, and at most `room` things beside
    them.
    """

    frame: Frame
    prompts: Mapping[str, Prompt]
    room: int = 0


@dataclass(frozen=True, slots=True)
class Cutout:
    """One thing cut out of a keyframe: its mask of the frame's size, the segmenter's own estimate
    of its quality and its stability (both 0..1). `rid` is None for a thing nobody pointed at.
    """

    mask: Rle
    score: float
    stability: float
    rid: str | None = None


@dataclass(frozen=True, slots=True)
class Cutting:
    """The answer to a `KeyWish`: regions that the segmenter could not find are missing in it.

    `failure` says why there is none at all.
    """

    stream: str
    seq: int
    cutouts: tuple[Cutout, ...] = field(default=())
    failure: str | None = None


def cut_out(segmenter: Segmenter, wish: KeyWish, config: SegmenterConfig) -> Cutting:
    """Cut everything wished for out of one frame."""
    frame, size = wish.frame, (wish.frame.height, wish.frame.width)
    encoded = segmenter.encode(frame.image)
    answers = segmenter.cut(encoded, list(wish.prompts.values())) if wish.prompts else []
    found, masks = [], []
    for (rid, prompt), cuts in zip(wish.prompts.items(), answers, strict=True):
        cut = choose(cuts, prompt)
        mask = cut.mask(size)
        if mask.any():
            masks.append(mask)
            found.append(_cutout(cut, mask, rid))
    if wish.room > 0:
        others = everything(segmenter, encoded, size, config, known=masks)
        found += [_cutout(cut, mask, None) for cut, mask in others[: wish.room]]
    return Cutting(frame.stream, frame.seq, tuple(found))


def choose(cuts: Sequence[Cut], prompt: Prompt) -> Cut:
    """The best answer to a prompt: by its score, and by its overlap with the earlier mask if there
    was one, since a part or a whole of the thing may score as well as the thing itself.
    """
    if prompt.soft is None:
        return max(cuts, key=lambda cut: cut.score)
    size, before = prompt.soft.shape[:2], np.asarray(prompt.soft > 0.5, np.bool_)
    return max(cuts, key=lambda cut: cut.score * iou(cut.mask((size[0], size[1])), before))


def _cutout(cut: Cut, mask: Mask, rid: str | None) -> Cutout:
    return Cutout(encode(mask), round(cut.score, 6), round(cut.stability, 6), rid)
