"""`ureca bench track`: one mask per clip, given on the first image and tracked to the end.

Modes: `flow` carries it by optical flow alone; `segment` cuts it out anew on every keyframe and
holds it in between; `both` is what a node does; `late` is `both` with answers that come so many
frames later as there are between keyframes, as on a machine whose segmenter is slow.

Clips are tars of `frames/*` and `masks/*.png`, as DAVIS is packed. J and F are the benchmark's
(`davis_metrics`). A hallucination is a frame on which the mask covers more than 60 % of the picture
and the truth less than half of that; it is lost while there is no mask.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ureca.datatypes import Frame, Image, Mask, RegionSeed
from ureca.errors import SourceError
from ureca.models.runtime.segmentation.base import (
    F32,
    EncodedImage,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
)
from ureca.models.runtime.segmentation.sam2 import Sam2, Sam2Maps
from ureca.node.bench.davis_metrics import score
from ureca.node.bench.presence import judge
from ureca.node.config import TrackerConfig
from ureca.node.decoding.bounded_files import opened_tar, read_member, regular_members
from ureca.node.decoding.mask_decoder import decode_mask
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeSegmenter,
    RegionPrompt,
)
from ureca.node.segmenter_config import SegmenterConfig
from ureca.node.sources.video_readers import open_clip
from ureca.node.tracking.tracker import Tracker
from ureca.protocol.rle import decode, encode

MODES = ("flow", "segment", "both", "late")
_MAX_PX = 1 << 24
_HALLUCINATED = 0.6
_RID = "object"


@dataclass(frozen=True, slots=True)
class TrackRow:
    """One clip in one mode. Times are means in milliseconds of one core: `frame_ms` of following
    (without the segmenter), `encode_ms` and `decode_ms` of a keyframe. `present_lost` and
    `off_target` count frames as in `presence`.
    """

    clip: str
    mode: str
    frames: int
    j: float
    f: float
    frame_ms: float
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    keyframes: int = 0
    lost: int = 0
    hallucinated: int = 0
    present_lost: int = 0
    off_target: int = 0


class Watch:
    """Adds up the processor time spent inside it: other work on the machine does not count."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.ms += 1e3 * (time.process_time() - self._began)


class StoredSam2(Sam2):
    """SAM 2 whose encodings are kept in a folder, as float16: they take seconds each."""

    def __init__(self, folder: Path, store: Path | None, *, threads: int) -> None:
        super().__init__(folder, threads=threads)
        self._store = store
        self.encode_ms: list[float] = []
        """What each encoding took, when it was made."""
        self.encoding = Watch()

    def encode(self, image: Image) -> Sam2Maps:
        """See `Segmenter`."""
        with self.encoding:
            return self._encode(image)

    def _encode(self, image: Image) -> Sam2Maps:
        name = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        path = None if self._store is None else self._store / f"{name}.npz"
        if path is not None and path.is_file():
            with np.load(path) as kept:
                maps = {key: kept[key].astype(np.float32) for key in kept.files if key != "ms"}
                self.encode_ms.append(float(kept["ms"]))
            return Sam2Maps(maps, (image.shape[0], image.shape[1]))
        began = time.process_time()
        found = super().encode(image)
        self.encode_ms.append(1e3 * (time.process_time() - began))
        if path is not None:
            small = {key: value.astype(np.float16) for key, value in found.maps.items()}
            np.savez(path, allow_pickle=False, ms=np.float64(self.encode_ms[-1]), **small)
        return found


class TimedSegmenter:
    """Another segmenter, and what its encodings took."""

    def __init__(self, inner: Segmenter) -> None:
        self._inner, self.name = inner, inner.name
        self.encode_ms: list[float] = []
        self.encoding = Watch()

    def encode(self, image: Image) -> EncodedImage:
        """See `Segmenter`."""
        began = time.process_time()
        with self.encoding:
            found = self._inner.encode(image)
        self.encode_ms.append(1e3 * (time.process_time() - began))
        return found

    def features(self, encoded: EncodedImage) -> F32:
        """See `Segmenter`."""
        return self._inner.features(encoded)

    def segment(
        self, encoded: EncodedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`."""
        return self._inner.segment(encoded, prompts)

    def stop(self) -> None:
        """See `Segmenter`."""
        self._inner.stop()


Timed = StoredSam2 | TimedSegmenter


class ClipTracker:
    """One clip in one mode."""

    def __init__(self, mode: str, segmenter: Timed | None, every: int) -> None:
        self._mode, self._every = mode, every
        name = "none" if segmenter is None else segmenter.name
        settings = SegmenterConfig(model=name)
        self._tracker = Tracker(TrackerConfig().fill(settings.thresholds), max_regions=1)
        self._keyframe_segmenter = (
            KeyframeSegmenter(segmenter, settings) if segmenter is not None else None
        )
        self._answers: list[tuple[int, Any]] = []
        self._held: Mask | None = None
        self.following, self.segmenting, self.keyframes = Watch(), Watch(), 0

    def masks(self, frames: Sequence[Frame], first: Mask) -> Iterator[Mask]:
        """The mask on each frame, bool [H, W], empty where it is lost."""
        self._held = first
        for number, frame in enumerate(frames):
            if self._mode == "segment":
                self._hold(frame, number)
            else:
                self._follow(frame, number, first)
            yield self._shown(first)

    def _shown(self, first: Mask) -> Mask:
        return np.zeros(first.shape, np.bool_) if self._held is None else self._held

    def _follow(self, frame: Frame, number: int, first: Mask) -> None:
        if self._answers and number > self._answers[0][0]:
            self._tracker.corrections.offer(self._answers.pop(0)[1])
        seeds = [RegionSeed(rid=_RID, mask=encode(first))] if number == 0 else []
        with self.following:
            update = self._tracker.update(frame, seeds, now_ns=frame.captured_ns)
        track = next((one for one in update.tracks.tracks if one.rid == _RID), None)
        self._held = None if track is None else track.mask
        if self._keyframe_segmenter is not None and number % self._every == 0 and not self._answers:
            keyframe_request = self._tracker.keyframe(frame)
            if keyframe_request is not None:
                late = self._every if self._mode == "late" else 0
                self._answers.append((number + late, self._segment(keyframe_request)))

    def _hold(self, frame: Frame, number: int) -> None:
        if number % self._every:
            return
        soft = None if self._held is None else self._held.astype(np.float32)
        wanted = RegionPrompt(soft, is_drawn=number == 0)
        taken = frozenset([_RID] if self._held is not None and number > self._every else [])
        found = self._segment(KeyframeRequest(frame, {_RID: wanted}, taken=taken)).region_masks
        if number:
            self._held = decode(found[0].mask) if found else None

    def _segment(self, keyframe_request: KeyframeRequest) -> Any:
        assert self._keyframe_segmenter is not None
        self.keyframes += 1
        with self.segmenting:
            return self._keyframe_segmenter.segment(keyframe_request)


def measured(
    path: Path, mode: str, segmenter: Timed | None, *, every: int, tell: Any = None
) -> TrackRow:
    """Follow the mask of one clip and judge it."""
    frames, truths = read(path)
    before, encoding_ms = _spent(segmenter)
    follower = ClipTracker(mode, None if mode == "flow" else segmenter, every)
    masks = []
    for mask in follower.masks(frames, truths[0]):
        masks.append(mask)
        if tell is not None:
            tell(1)
    result = score(masks, truths)
    presence = judge([mask if mask.any() else None for mask in masks], truths)
    spent = [] if segmenter is None else segmenter.encode_ms[before:]
    keyframes = max(1, follower.keyframes)
    return TrackRow(
        clip=path.stem,
        mode=mode,
        frames=len(frames),
        j=round(result.j, 4),
        f=round(result.f, 4),
        frame_ms=round(follower.following.ms / len(frames), 1),
        encode_ms=round(float(np.mean(spent)) if spent else 0.0, 1),
        decode_ms=round(
            (follower.segmenting.ms - _spent(segmenter)[1] + encoding_ms) / keyframes, 1
        ),
        keyframes=follower.keyframes,
        lost=sum(not mask.any() for mask in masks),
        hallucinated=sum(map(is_hallucinated, masks, truths)),
        present_lost=presence.present_lost,
        off_target=presence.off_target,
    )


def _spent(segmenter: Timed | None) -> tuple[int, float]:
    """Pictures encoded so far, and the milliseconds spent on getting their encodings."""
    return (0, 0.0) if segmenter is None else (len(segmenter.encode_ms), segmenter.encoding.ms)


def is_hallucinated(mask: Mask, truth: Mask) -> bool:
    """Whether a mask fills the picture although the truth does not."""
    return bool(mask.mean() > _HALLUCINATED and truth.mean() < _HALLUCINATED / 2)


def read(path: Path) -> tuple[list[Frame], list[Mask]]:
    """All frames of a tar and their true masks. Raises `SourceError` when it has not both."""
    frames = []
    for number, (at_ns, image) in enumerate(open_clip(path, fps=0, max_px=_MAX_PX).shots()):
        if isinstance(image, SourceError):
            raise image
        frames.append(Frame(path.stem[:64], bytes(16), number, at_ns + 1, image))
    with opened_tar(path) as archive:
        members = [m for m in regular_members(archive) if m.name.startswith("masks/")]
        stored = sorted((m for m in members if m.name.endswith(".png")), key=lambda m: m.name)
        truths = [decode_mask(read_member(archive, member)) for member in stored]
    if len(truths) != len(frames) or not truths or not truths[0].any():
        raise SourceError(
            f"{path}: expected a mask for each of {len(frames)} frames, got {len(truths)}"
        )
    return frames, truths
