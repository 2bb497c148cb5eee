"""Segments over time: video panoptic quality, tracking quality, and whether ids are kept.

- **VPQ** (Kim et al., CVPR 2020): panoptic quality of windows of k frames in a row. A segment is
  what has one id in all of them; the figure is the mean over k.
- **STQ** (Weber et al., NeurIPS 2021): the root of AQ x SQ. AQ: how well the ids of things follow
  the true ones over the whole video; SQ: mean IoU of classes. Pixels that nobody annotated and
  crowds count in neither.
- **Kept ids**: of the frames on which a true segment has a partner (IoU above .5), the share on
  which the partner has the id that it has most often.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ureca.errors import ConfigError
from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment
from ureca.models.evaluation.panoptic.coco_files import (
    CocoPicture,
    make_prediction,
    make_true_case,
    read_coco_panoptic,
)
from ureca.models.evaluation.panoptic.matching import (
    PictureMatches,
    PixelCounts,
    PredictedSegment,
    Prediction,
    count_pixels,
    match_counts,
)
from ureca.models.evaluation.panoptic.quality import count_matches, sum_counts

WINDOWS = (1, 2, 3, 4)
"""Frames of a window. VPQ's authors take frames .3 s apart."""
_VOID = 0
Json = dict[str, Any]  # JSON values
Segment = TrueSegment | PredictedSegment
ClassOf = Callable[[Segment], str]
_S = TypeVar("_S", TrueSegment, PredictedSegment)


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame: its video and number, the truth, and what a system says of it."""

    video: str
    number: int
    case: PanopticCase
    found: Prediction
    counts: PixelCounts


def read_video_frames(truth: Path, predictions: Path) -> tuple[list[VideoFrame], int]:
    """The frames that both files have, by video and number, and how many the truth has. Raises
    `ConfigError` when they have none in common, or maps differ in size.
    """
    found = {_place(one): one for one in read_coco_panoptic(predictions)}
    frames, count = [], 0
    for picture in read_coco_panoptic(truth):
        count += 1
        if (said := found.get(_place(picture))) is None:
            continue
        if picture.ids.shape != said.ids.shape:
            raise ConfigError(
                f"{predictions}: the map of {said.file_name} has {list(said.ids.shape)}, the true "
                f"one {list(picture.ids.shape)}"
            )
        frames.append(make_frame(truth, picture, said))
    if not frames:
        raise ConfigError(
            f"{predictions} has no frame of {truth}: frames are paired by `video_id` and `frame_id`"
        )
    return sorted(frames, key=lambda one: (one.video, one.number)), count


def make_frame(path: Path, picture: CocoPicture, said: CocoPicture) -> VideoFrame:
    """A pair of pictures as a frame; the video's name has its file in it."""
    case, found = make_true_case(picture), make_prediction(said)
    counts = count_pixels(case.ids, found.ids)
    return VideoFrame(f"{path} {picture.video}", picture.frame, case, found, counts)


def _place(picture: CocoPicture) -> tuple[str, int]:
    return picture.video, picture.frame


def judge_videos(frames: Sequence[VideoFrame], *, by_class: bool = False) -> Json:
    """VPQ, STQ and kept ids of frames in the order of their videos.

    Classes are things and stuff; with `by_class`, those of the files, which must have the same
    names, and VPQ pairs only what agrees.
    """
    class_of = _get_category if by_class else _get_kind
    videos = [list(group) for _, group in groupby(frames, key=lambda one: one.video)]
    quality = {k: _compute_vpq(videos, k, class_of if by_class else None) for k in WINDOWS}
    known = {k: one["pq"] for k, one in quality.items() if one["pq"] is not None}
    return {
        "vpq": _round(float(np.mean(list(known.values())))) if known else None,
        "vpq_windows": {str(k): one for k, one in quality.items()},
        **_compute_stq(videos, class_of),
        "ids_kept": {
            "things": _count_kept(videos, stuff=False),
            "stuff": _count_kept(videos, stuff=True),
        },
        "videos": len(videos),
    }


def _get_kind(segment: Segment) -> str:
    return "stuff" if segment.stuff else "thing"


def _get_category(segment: Segment) -> str:
    return segment.category


# --- video panoptic quality ----------------------------------------------------------------------


def _compute_vpq(videos: Sequence[Sequence[VideoFrame]], k: int, class_of: ClassOf | None) -> Json:
    """PQ of all windows of k frames, all classes together. A video of fewer frames has none."""
    windows = (video[begin : begin + k] for video in videos for begin in range(len(video) - k + 1))
    return sum_counts(count_matches(_match(one, class_of)) for one in windows).to_json()


def _match(window: Sequence[VideoFrame], class_of: ClassOf | None) -> PictureMatches:
    counts = reduce(add, (one.counts for one in window))
    true = _join(one.case.segments for one in window)
    predicted = _join(one.found.segments for one in window)
    if class_of is None:
        return match_counts(true, predicted, counts)
    return match_counts(true, predicted, counts, agrees=lambda t, p: class_of(t) == class_of(p))


def _join(frames: Iterable[Iterable[_S]]) -> list[_S]:
    """Segments by number; the first frame says what each is."""
    known: dict[int, _S] = {}
    for frame in frames:
        for one in frame:
            known.setdefault(one.number, one)
    return list(known.values())


# --- segmentation and tracking quality -----------------------------------------------------------


def _compute_stq(videos: Sequence[Sequence[VideoFrame]], class_of: ClassOf) -> Json:
    """STQ, AQ and SQ; None where there is nothing to be found."""
    confusion: Counter[tuple[str, str]] = Counter()
    followed: list[float] = []
    for video in videos:
        tubes = Tubes()
        for frame in video:
            _add_classes(frame, class_of, confusion)
            tubes.add(frame)
        followed += tubes.follow()
    sq = _compute_mean_iou(confusion)
    aq = float(np.mean(followed)) if followed else None
    stq = None if aq is None or sq is None else _round(float(np.sqrt(aq * sq)))
    return {"stq": stq, "aq": None if aq is None else _round(aq), "sq_classes": sq}


def _add_classes(frame: VideoFrame, class_of: ClassOf, confusion: Counter[tuple[str, str]]) -> None:
    true = {one.number: class_of(one) for one in frame.case.segments if not one.crowd}
    said = {one.number: class_of(one) for one in frame.found.segments}
    for (t, p), pixels in frame.counts.shared.items():
        if t in true:
            confusion[true[t], said.get(p, "")] += pixels


def _compute_mean_iou(confusion: Counter[tuple[str, str]]) -> float | None:
    names = {true for true, _ in confusion} | {said for _, said in confusion if said}
    both = {name: confusion[name, name] for name in names}
    rows, columns = Counter[str](), Counter[str]()
    for (true, said), pixels in confusion.items():
        rows[true] += pixels
        columns[said] += pixels
    ious = [both[name] / (rows[name] + columns[name] - both[name]) for name in names]
    return _round(float(np.mean(ious))) if ious else None


class Tubes:
    """Things of one video, as all of their pixels over time."""

    def __init__(self) -> None:
        self._true: Counter[int] = Counter()
        self._said: Counter[int] = Counter()
        self._both: Counter[tuple[int, int]] = Counter()

    def add(self, frame: VideoFrame) -> None:
        """Add the pixels of one frame."""
        ignored = {_VOID, *(one.number for one in frame.case.segments if one.crowd)}
        things = {o.number for o in frame.case.segments if not o.stuff and not o.crowd}
        said = {one.number for one in frame.found.segments if not one.stuff}
        for (t, p), pixels in frame.counts.shared.items():
            if t in things:
                self._true[t] += pixels
            if p in said and t not in ignored:
                self._said[p] += pixels
                if t in things:
                    self._both[t, p] += pixels

    def follow(self) -> Iterator[float]:
        """Of each true thing, the sum over predicted ids: share of its pixels x IoU."""
        sums: defaultdict[int, float] = defaultdict(float)
        for (t, p), both in self._both.items():
            sums[t] += both * both / (self._true[t] + self._said[p] - both)
        for t, pixels in self._true.items():
            yield sums[t] / pixels


# --- kept ids ------------------------------------------------------------------------------------


def _count_kept(videos: Sequence[Sequence[VideoFrame]], *, stuff: bool) -> Json:
    """Pairs of a true segment and a frame; how many have a partner, and of these the share with the
    segment's most frequent id.
    """
    n = found = kept = 0
    for video in videos:
        ids: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for frame in video:
            matches = match_counts(frame.case.segments, frame.found.segments, frame.counts)
            n += sum(one.stuff == stuff for one in matches.missed)
            for pair in matches.pairs:
                if pair.true.stuff == stuff:
                    ids[pair.true.number][pair.predicted.number] += 1
        found += sum(each.total() for each in ids.values())
        kept += sum(max(each.values()) for each in ids.values())
    return {"share": _round(kept / found) if found else None, "found": found, "n": n + found}


def _round(value: float) -> float:
    return round(value, 4)
