"""A query captioner behind `Engine` and `PanopticSegmenter`: one pass says what is where and what
it is called.

A region is said by the query whose segment it is: the kept segment that overlaps it best, else the
best of all queries. So the node's regions, panoptic segments and given masks all have words.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ureca.datatypes import EngineInfo, Image, Mask, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import never
from ureca.errors import EngineError
from ureca.models.mllm.backend import choose
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER
from ureca.models.mllm.pix2cap.checkpoint import hash_pix2cap, load_pix2cap
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.picture_input import make_pixels
from ureca.models.mllm.pix2cap.segmenters import Queries
from ureca.models.mllm.pix2cap.selection import SelectedSegments, select_segments
from ureca.models.mllm.prompt import I64, TextTokenizer
from ureca.models.runtime.decode import Choice, RowPlan, decode
from ureca.models.runtime.region_inputs import check_regions
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.detected_image import (
    DetectedImage,
    answer_prompt,
    compute_image_features,
)
from ureca.models.runtime.segmentation.panoptic.segments import (
    PanopticMap,
    make_panoptic_map,
)

_SAME = 0.5
"""A region with this IoU with a kept segment is that segment."""
_MAP_PX = 640
"""Longer side at which segments are compared with regions."""


@dataclass(frozen=True, slots=True)
class SegmentedPicture:
    """One picture: its queries, the segments at up to 640 px, and its size in pixels."""

    queries: Queries
    selected: SelectedSegments
    image: Image
    height_px: int
    width_px: int


class Pix2CapEngine:
    """Implements `ureca.engine.Engine` and `PanopticSegmenter`. From one thread at a time."""

    def __init__(self, model: Pix2Cap, words: TextTokenizer, *, info: EngineInfo) -> None:
        self.model, self._words, self._info = model.eval(), words, info
        self.name = info.model
        self._labels = dict(model.segmenter.config.id2label)
        self.class_names = tuple(self._labels[key] for key in sorted(self._labels))
        self._stop = words.id_of(model.config.stop)
        self._us: dict[str, int] = {}
        self._last: tuple[object, SegmentedPicture] | None = None
        self._is_stopped = False
        self._pictures, self._queries, self._said = 0, 0, 0

    @property
    def info(self) -> EngineInfo:
        """Model, runtime, precision, hash and limits."""
        return self._info

    @property
    def times(self) -> StageTimes:
        """Microseconds of the last calls."""
        return StageTimes(dict(self._us))

    @torch.inference_mode()
    def encode(self, image: Image) -> SegmentedPicture:
        """Segment one image u8 [H, W, 3] RGB; the same image again costs its checksum."""
        if self._is_stopped:
            raise EngineError(f"{self.name} was stopped")
        key = image.shape, zlib.crc32(np.ascontiguousarray(image).data)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        began_ns = time.perf_counter_ns()
        queries, _ = self.model.segment(make_pixels(image, self.model.config.picture))
        if not bool(torch.isfinite(queries.features).all()):
            raise EngineError("the segmenter gave numbers that are not finite")
        height, width = image.shape[:2]
        scale = min(1.0, _MAP_PX / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        selected = select_segments(queries, size, self.model.config.selection)
        self._us["vit"] = (time.perf_counter_ns() - began_ns) // 1000
        frame = SegmentedPicture(queries, selected, image, height, width)
        self._last = key, frame
        self._pictures += 1
        self._queries += len(queries.features)
        return frame

    def tell_savings(self) -> str:
        """Say how many captions were decoded, and how many fewer than of all queries."""
        return (
            f"{self._said} captions of {self._queries} queries in {self._pictures} pictures: "
            f"{self._queries - self._said} fewer than captioning all of them"
        )

    def caption(
        self,
        frame: SegmentedPicture,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Caption all `regions` in one batch; see `ureca.engine.Engine.caption`."""
        check_regions(
            regions,
            height_px=frame.height_px,
            width_px=frame.width_px,
            max_regions=self._info.max_regions,
        )
        rows = [find_query(frame, region.mask) for region in regions]
        limits = [region.max_new_tokens for region in regions]
        return self.caption_queries(frame, rows, limits, aborted=aborted)

    def caption_queries(
        self,
        frame: SegmentedPicture,
        queries: Sequence[int],
        limits: Sequence[int] = (),
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Caption queries by their rows, at most `limits` tokens each."""
        if not queries:
            return iter(())
        self._said += len(queries)
        most = self._info.max_new_tokens
        plans = [
            RowPlan(row, min(limit, most))
            for row, limit in enumerate(limits or [most] * len(queries))
        ]
        batch = _QueryBatch(self.model, frame.queries, queries, self._stop)
        return decode(batch, plans, self._words, eos_id=self._stop, aborted=aborted)

    def panoptic(self, encoded: SegmentedPicture, size: tuple[int, int]) -> PanopticMap:
        """See `PanopticSegmenter`."""
        selected = select_segments(encoded.queries, size, self.model.config.selection)
        stuff = set(self.model.config.selection.stuff)
        kinds = [("stuff" if one.label in stuff else "thing", one.score) for one in selected.kept]
        return make_panoptic_map(selected.ids.numpy(), kinds)  # type: ignore[arg-type]

    def everything(self, encoded: SegmentedPicture) -> list[MaskPrediction]:
        """The masks of all kept segments, with their classes, best first."""
        return [
            MaskPrediction(
                encoded.queries.masks[one.query].cpu().numpy(), one.score, self._labels[one.label]
            )
            for one in encoded.selected.kept
        ]

    def segment(
        self, encoded: SegmentedPicture, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`: prompts choose among the segments, as with detectors."""
        found = tuple(self.everything(encoded))
        size = encoded.height_px, encoded.width_px
        boxes = np.array([_find_box(one.mask(size)) for one in found], np.float32).reshape(-1, 4)
        detected = DetectedImage(size, found, boxes, self.features(encoded))
        return [answer_prompt(detected, prompt) for prompt in prompts]

    def features(self, encoded: SegmentedPicture) -> F32:
        """See `Segmenter`: colours and edges."""
        return compute_image_features(encoded.image)

    def stop(self) -> None:
        """See `Segmenter`: the next image is refused."""
        self._is_stopped = True


class _QueryBatch:
    """The `DecodingBatch` of one caption call: all prefixes have two tokens, so none is padded."""

    def __init__(
        self, model: Pix2Cap, queries: Queries, chosen: Sequence[int], stop_id: int
    ) -> None:
        from transformers import DynamicCache

        self._model, self._queries, self._stop = model, queries, stop_id
        self._chosen, self._cache = torch.tensor(list(chosen)), DynamicCache()

    @torch.inference_mode()
    def start(self, rows: I64) -> Choice:
        """Run the prefixes of `rows`."""
        chosen = self._chosen[torch.from_numpy(rows)].to(self._model.device)
        return self._run(self._model.make_prefix(self._queries, chosen))

    @torch.inference_mode()
    def step(self, ids: I64) -> Choice:
        """Run one more token of every row."""
        return self._run(self._model.embed(torch.from_numpy(ids).to(self._model.device)[:, None]))

    @torch.inference_mode()
    def keep(self, slots: I64) -> None:
        """Drop the other rows."""
        self._cache.reorder_cache(torch.from_numpy(slots).to(self._model.device))  # type: ignore[arg-type]

    def _run(self, x: Tensor) -> Choice:
        return choose(self._model.extend(x, self._cache), (self._stop,))


def find_query(frame: SegmentedPicture, mask: Mask) -> int:
    """Return the query that says a region bool [H, W]: that of the kept segment with an IoU of at
    least .5, else the query whose mask overlaps it best.
    """
    ids = frame.selected.ids.numpy()
    small = _resize(mask, ids.shape)
    best = max(frame.selected.kept, key=lambda one: _iou(ids == one.number, small), default=None)
    if best is not None and _iou(ids == best.number, small) >= _SAME:
        return best.query
    masks = frame.queries.masks > 0
    wanted = torch.from_numpy(_resize(mask, tuple(masks.shape[1:]))).to(masks.device)
    common = (masks & wanted).sum((1, 2)).float()
    return int((common / (masks | wanted).sum((1, 2)).clamp_min(1)).argmax())


def _resize(mask: Mask, size: tuple[int, ...]) -> Mask:
    height, width = size
    small = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small > 0, np.bool_)


def _iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def _find_box(mask: Mask) -> tuple[float, float, float, float]:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return float(x), float(y), float(x + width), float(y + height)


def open_pix2cap(folder: Path, *, device: str = "auto") -> Pix2CapEngine:
    """Open a checkpoint. Raises `WeightsError` for what is missing, damaged or does not fit."""
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    model = load_pix2cap(folder, device=where)
    package = __import__("transformers")
    info = EngineInfo(
        model=model.config.name,
        runtime=f"transformers {package.__version__} torch {torch.__version__} {where}",
        precision="fp32",
        bundle_sha=hash_pix2cap(folder),
        max_regions=model.config.max_regions,
        max_new_tokens=model.config.max_new_tokens,
    )
    return Pix2CapEngine(model, TextTokenizer.load(folder / TOKENIZER), info=info)
