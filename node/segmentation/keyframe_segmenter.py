"""Keyframes: the tracker's request, and the result of segmenter and memory.

`KeyframeSegmenter.cut` is called for one keyframe after the other of all streams, from one thread;
`worker` selects them. Masks and segments do not depend on time; durations are only told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from ureca.datatypes import Frame, Mask, RegionSeed, Rle
from ureca.models.runtime.segmentation.base import (
    EncodedImage,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
    supports_everything,
)
from ureca.models.runtime.segmentation.tidy import tidy
from ureca.node.masks.color_histogram import F32
from ureca.node.masks.geometry import box_of, iou
from ureca.node.segmentation.automatic_masks import AutomaticMask, find_things, is_followed
from ureca.node.segmentation.feature_memory import FeatureMemory
from ureca.node.segmentation.keyframe_segments import KeyframeSegments, segment_keyframe
from ureca.node.segmentation.worth_following import choose_worth_following
from ureca.node.segmenter_config import SegmenterConfig
from ureca.protocol.rle import encode

_CHOICE_SIDE_PX = 256
"""Answers are compared on images of this width: enough to distinguish a part from a whole."""


@dataclass(frozen=True, slots=True)
class RegionPrompt:
    """One region to segment on a keyframe.

    `soft` f32 [h, w] is the propagated mask, None when the region is lost. `seed` is the point or
    box that a client gave for this image, or for an earlier one and flow has moved it here.
    `is_drawn`: a client gave `soft` itself.
    """

    soft: F32 | None = None
    seed: RegionSeed | None = None
    is_drawn: bool = False


@dataclass(frozen=True, slots=True)
class KeyframeRequest:
    """What to segment on `frame`: regions by id, and at most `free_slots` further things to follow.

    `candidates` is how many masks of everything are wanted to ask texts of; 0: none. `taken` are
    the regions whose masks of the stream's previous keyframe were used: only those are stored.
    `segments`: at most so many segments of the whole frame are wanted; 0: none. `with_parts`:
    a text asks for a part of a thing, so parts are wanted among the candidates.
    """

    frame: Frame
    regions: Mapping[str, RegionPrompt]
    free_slots: int = 0
    candidates: int = 0
    taken: frozenset[str] = frozenset()
    segments: int = 0
    with_parts: bool = False


@dataclass(frozen=True, slots=True)
class RegionMask:
    """One segmented thing of a keyframe.

    `mask` has the frame's size. `presence` 0..1 is the confidence of segmenter and memory that it
    is visible. `agreement` 0..1 is its overlap with the region in the memory, None without one.
    `rid` is None for a thing without a prompt; `label` is its class, where the segmenter has any.
    """

    mask: Rle
    presence: float
    agreement: float | None = None
    rid: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class KeyframeResult:
    """The answer to a `KeyframeRequest`: regions that were not found are missing.

    `candidates` are the masks that texts may be asked of, None where none were wanted. `left_out`
    counts the things that are not worth following or have no room, by the setting that says so.
    `failure` is the reason if there is no answer.
    """

    stream: str
    seq: int
    region_masks: tuple[RegionMask, ...] = field(default=())
    candidates: tuple[RegionMask, ...] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    failure: str | None = None
    segments: KeyframeSegments | None = None


@dataclass(slots=True)
class _Past:
    """One stream's memory, and the cuts that nobody has believed yet."""

    session_id: bytes
    memory: FeatureMemory = field(default_factory=FeatureMemory)
    features: F32 | None = None
    covers: dict[str, F32] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Others:
    """Things of a keyframe that nobody pointed at."""

    candidates: list[RegionMask] = field(default_factory=list)
    chosen: list[RegionMask] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


class KeyframeSegmenter:
    """A segmenter with a memory for each stream."""

    def __init__(self, segmenter: Segmenter, config: SegmenterConfig) -> None:
        self._segmenter = segmenter
        self._config = config
        self._pasts: dict[str, _Past] = {}

    def segment(self, request: KeyframeRequest) -> KeyframeResult:
        """Segment all requested regions on one frame. May raise any error of the segmenter."""
        frame = request.frame
        past = self._past(request)
        began_ns = time.perf_counter_ns()
        encoded = self._segmenter.encode(frame.image)
        look_us = (time.perf_counter_ns() - began_ns) // 1000
        features = self._segmenter.features(encoded)
        seen = past.memory.recall(features)
        found = self._regions(encoded, request, seen)
        past.features = features
        past.covers = {rid: cut.soft(_choice_size(frame)) for rid, (cut, _) in found.items()}
        drawn = {
            rid: w.soft for rid, w in request.regions.items() if w.is_drawn and w.soft is not None
        }
        past.memory.remember(features, drawn)
        masks = [
            self._region_mask(request, rid, cut, seen.get(rid)) for rid, (cut, _) in found.items()
        ]
        known = [one for one in masks if one is not None]
        others = self._find_others(encoded, request, [cut for cut, _ in found.values()])
        candidates = tuple((known + others.candidates)[: request.candidates])
        return KeyframeResult(
            frame.stream,
            frame.seq,
            (*known, *others.chosen),
            candidates if request.candidates else None,
            others.left_out,
            segments=self._segment_whole(encoded, request, look_us),
        )

    def stop(self) -> None:
        """End the segmenter's work, also that under way; any thread may call it."""
        self._segmenter.stop()

    def _segment_whole(
        self, encoded: EncodedImage, request: KeyframeRequest, look_us: int
    ) -> KeyframeSegments | None:
        if not request.segments or not supports_everything(self._segmenter):
            return None
        size = request.frame.height, request.frame.width
        began_ns = time.perf_counter_ns()
        found = segment_keyframe(self._segmenter, encoded, size, most=request.segments)
        spent_us = (time.perf_counter_ns() - began_ns) // 1000
        return replace(found, stage_us={"look": look_us, "segments": spent_us})

    def _past(self, request: KeyframeRequest) -> _Past:
        """The stream's past, with what was believed of the last keyframe."""
        frame = request.frame
        past = self._pasts.get(frame.stream)
        if past is None or past.session_id != frame.session_id:
            past = self._pasts[frame.stream] = _Past(frame.session_id)
        if past.features is not None:
            believed = {rid: past.covers[rid] for rid in request.taken if rid in past.covers}
            past.memory.remember(past.features, believed)
        past.memory.keep(frozenset(request.regions))
        return past

    def _regions(
        self, encoded: EncodedImage, request: KeyframeRequest, seen: Mapping[str, F32]
    ) -> dict[str, tuple[MaskPrediction, float]]:
        size = request.frame.height, request.frame.width
        asked = {
            rid: _prompts(wanted, seen.get(rid), size) for rid, wanted in request.regions.items()
        }
        flat = [(rid, prompt) for rid, prompts in asked.items() for prompt in prompts]
        answers = self._segmenter.segment(encoded, [prompt for _, prompt in flat]) if flat else []
        predictions: dict[str, list[MaskPrediction]] = {}
        for (rid, _), answer in zip(flat, answers, strict=True):
            predictions.setdefault(rid, []).extend(answer)
        return {
            rid: best_prediction(
                found, _expected(request.regions[rid], seen.get(rid)), _choice_size(request.frame)
            )
            for rid, found in predictions.items()
        }

    def _region_mask(
        self, request: KeyframeRequest, rid: str, cut: MaskPrediction, seen: F32 | None
    ) -> RegionMask | None:
        frame, seed = request.frame, request.regions[rid].seed
        mask = cut.mask((frame.height, frame.width))
        if seed is not None and self._config.tidies and mask.any():
            soft = cut.soft((frame.height, frame.width))
            mask = tidy(frame.image, soft, box_xyxy_px=seed.box_xyxy_px)
        if not mask.any():
            return None
        if seen is None:
            return RegionMask(encode(mask), round(cut.score, 6), None, rid)
        size = _choice_size(frame)
        agreement = iou(cut.mask(size), _resized(seen, size) > 0.5)
        presence = cut.score * float(seen.max())
        return RegionMask(encode(mask), round(presence, 6), round(agreement, 6), rid)

    def _find_others(
        self, encoded: EncodedImage, request: KeyframeRequest, known: Sequence[MaskPrediction]
    ) -> _Others:
        """Things without a prompt: to ask texts of, and to follow."""
        if max(request.free_slots, request.candidates) < 1:
            return _Others()
        frame, config = request.frame, self._config
        size = frame.height, frame.width
        masks = [cut.mask(size) for cut in known]
        asked = request.candidates > 0
        found = find_things(
            self._segmenter,
            encoded,
            size,
            config,
            known=masks,
            for_texts=asked,
            with_parts=request.with_parts,
        )
        both = (*found.things, *found.parts)
        candidates = [_thing_mask(one, size) for one in both[: request.candidates]]
        if request.free_slots < 1:
            return _Others(candidates)
        sure = [thing for thing in found.things if is_followed(thing, config)]
        chosen, left_out = choose_worth_following(
            sure, frame.stream, config, most=request.free_slots
        )
        return _Others(
            candidates,
            [_thing_mask(one, size) for one in chosen],
            dict(sorted((found.left_out + left_out).items())),
        )


def best_prediction(
    predictions: Sequence[MaskPrediction], expected: Mask | None, size: tuple[int, int]
) -> tuple[MaskPrediction, float]:
    """The best of some answers, and its worth: by its score, and by its overlap with what was
    expected, bool of any size, since a part or a whole of a thing may score as well as the thing.
    """
    if expected is None:
        return max(((cut, cut.score) for cut in predictions), key=lambda pair: pair[1])
    there = _resized(expected.astype(np.float32), size) > 0.5
    worth = [(cut, cut.score * iou(cut.mask(size), there)) for cut in predictions]
    return max(worth, key=lambda pair: pair[1])


def _thing_mask(thing: AutomaticMask, size: tuple[int, int]) -> RegionMask:
    cut = thing.prediction
    return RegionMask(encode(cut.mask(size)), round(cut.score, 6), label=cut.label)


def _prompts(
    wanted: RegionPrompt, seen: F32 | None, size: tuple[int, int]
) -> list[SegmenterPrompt]:
    """What to ask the segmenter about one region; nothing when it is nowhere to be seen."""
    if wanted.seed is not None:
        return [_pointed(wanted.seed)]
    prompts = []
    if wanted.soft is not None:
        prompts.append(_around(wanted.soft, size))
    if seen is not None and (seen > 0.5).any():
        smooth = _resized(seen, _choice_size_of(size))
        if (smooth > 0.5).any():
            around = _around(smooth, size)
            prompts += [
                around,
                SegmenterPrompt(around.points_xy_px, (), around.box_xyxy_px, smooth),
            ]
    return prompts


def _pointed(seed: RegionSeed) -> SegmenterPrompt:
    first = () if seed.point_xy_px is None else (seed.point_xy_px,)
    points = (*first, *seed.more_points_xy_px)
    return SegmenterPrompt(points, seed.not_points_xy_px, seed.box_xyxy_px)


def _around(soft: F32, size: tuple[int, int]) -> SegmenterPrompt:
    """The box of a soft mask with a pixel inside, and its innermost point, on a picture of `size`.

    Not the mask itself: the decoder would hand back its mistakes.
    """
    inside = np.asarray(soft > 0.5, np.bool_)
    down, right = size[0] / soft.shape[0], size[1] / soft.shape[1]
    x0, y0, x1, y1 = box_of(inside)
    x, y = inner_point(inside)
    return SegmenterPrompt(
        points_xy_px=((x * right, y * down),),
        box_xyxy_px=(x0 * right, y0 * down, x1 * right, y1 * down),
    )


def _expected(wanted: RegionPrompt, seen: F32 | None) -> Mask | None:
    """Where the region should be: where the memory sees it, which does not drift, or else where it
    was carried.
    """
    if wanted.seed is not None:
        return None
    if seen is not None and (seen > 0.5).any():
        return np.asarray(seen > 0.5, np.bool_)
    return None if wanted.soft is None else np.asarray(wanted.soft > 0.5, np.bool_)


def inner_point(mask: Mask) -> tuple[float, float]:
    """The point (x, y) of a mask that is furthest from its outline, in pixels to its centre."""
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _resized(soft: F32, size: tuple[int, int]) -> F32:
    height, width = size
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _choice_size(frame: Frame) -> tuple[int, int]:
    return _choice_size_of((frame.height, frame.width))


def _choice_size_of(size: tuple[int, int]) -> tuple[int, int]:
    width = min(size[1], _CHOICE_SIDE_PX)
    return max(1, round(size[0] * width / size[1])), width
