"""A text segmenter at work: an image is encoded once, each text is a question behind its prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import EngineInfo, Image
from ureca.errors import EngineError
from ureca.models.mllm.backend import SuffixBatch
from ureca.models.mllm.network.prefix_attention import Prefix
from ureca.models.mllm.unires.checkpoint import hash_unires, load_unires, make_reader
from ureca.models.mllm.unires.network import NONE, SEG, Unires
from ureca.models.mllm.unires.picture_input import UniresReader
from ureca.models.runtime.segmentation.open_checkpoints import TextMask, TextMasks

_BATCH = 16
"""Texts that are asked at once."""


@dataclass(frozen=True, slots=True)
class UniresPicture:
    """One encoded image: keys and values of its prefix, the decoder's maps, its (height, width)."""

    prefix: Prefix
    goes_on: int
    maps: list[Tensor]
    size: tuple[int, int]


class UniresEngine:
    """Implements `TextSegmenter`. From one thread at a time."""

    def __init__(self, model: Unires, reader: UniresReader, *, info: EngineInfo) -> None:
        self.model, self._reader, self.info = model.eval(), reader, info
        self.name = info.model
        self._stop = reader.prompt.stop_ids[0]

    @torch.inference_mode()
    def encode(self, image: Image) -> UniresPicture:
        """See `TextSegmenter`. Raises `EngineError` for numbers that are not finite."""
        picture = self._reader.read_picture(image)
        opening = self.model.open_prompt(self._reader.prompt, picture)
        if not bool(torch.isfinite(opening.x).all()):
            raise EngineError("the towers gave numbers that are not finite")
        prefix = self.model.mllm.make_prefix(opening)
        maps = self.model.encode_masks(picture)
        return UniresPicture(prefix, opening.goes_on, maps, (image.shape[0], image.shape[1]))

    def find_masks(
        self, encoded: UniresPicture, texts: Sequence[str], *, min_present: float | None = None
    ) -> list[TextMasks]:
        """See `TextSegmenter`."""
        least = self.model.config.min_present if min_present is None else min_present
        found: list[TextMasks] = []
        for begin in range(0, len(texts), _BATCH):
            found += self._ask(encoded, texts[begin : begin + _BATCH], least)
        return found

    @torch.inference_mode()
    def _ask(self, encoded: UniresPicture, texts: Sequence[str], least: float) -> list[TextMasks]:
        model = self.model
        ids = [self._reader.encode_question(text).to(model.device) for text in texts]
        rows = SuffixBatch(model.mllm, encoded.prefix, encoded.goes_on)
        hidden = rows.extend(rows.pad([model.mllm.embed(one[None]) for one in ids]))
        absent = self._compare(hidden, NONE, SEG).cpu().numpy()
        told = [TextMasks(text, float(p)) for text, p in zip(texts, absent, strict=True)]
        there = [n for n, chance in enumerate(absent) if 1 - chance >= least]
        if there:
            rows.keep(np.array(there, np.int64))
            states = self._collect(rows, count=len(there))
            for place, own in zip(there, states, strict=True):
                masks = self._draw(encoded, own)
                told[place] = TextMasks(texts[place], float(absent[place]), masks)
        return told

    def _collect(self, rows: SuffixBatch, *, count: int) -> list[Tensor]:
        """Append `[SEG]`s until the stop token is likelier; return the states [n, d] of each."""
        model = self.model
        found: list[list[Tensor]] = [[] for _ in range(count)]
        places = list(range(count))
        while places:
            seg = torch.full((len(places), 1), SEG, device=model.device)
            hidden = rows.extend(model.embed_answers(seg))
            for place, state in zip(places, hidden, strict=True):
                found[place].append(state)
            goes_on = self._compare_stop(hidden).cpu().numpy()
            alive = [
                slot
                for slot, place in enumerate(places)
                if goes_on[slot] and len(found[place]) < model.config.max_masks
            ]
            places = [places[slot] for slot in alive]
            if places:
                rows.keep(np.array(alive, np.int64))
        return [torch.stack(states) for states in found]

    def _compare(self, hidden: Tensor, one: int, other: int) -> Tensor:
        """Probability f32 [N] of an answer against another one."""
        logits = self.model.logits(hidden)[:, -2:]
        return torch.sigmoid(logits[:, one] - logits[:, other])

    def _compare_stop(self, hidden: Tensor) -> Tensor:
        """Whether one more `[SEG]` is likelier than the stop token, bool [N]."""
        logits = self.model.logits(hidden)
        return logits[:, -2 + SEG] > logits[:, self._stop]

    def _draw(self, encoded: UniresPicture, states: Tensor) -> tuple[TextMask, ...]:
        """The masks of states that have a pixel, in the image's size."""
        logits, scores = self.model.decode_masks(encoded.maps, states)
        height, width = encoded.size
        found = []
        for one, score in zip(logits.cpu().numpy(), scores.tolist(), strict=True):
            large = cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR)
            mask = np.asarray(large > 0, np.bool_)
            if mask.any():
                found.append(TextMask(mask, min(max(score, 0.0), 1.0)))
        return tuple(found)


def open_unires(folder: Path, *, device: str = "auto") -> UniresEngine:
    """Open a checkpoint. Raises `WeightsError` for what is missing, damaged or does not fit."""
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    model = load_unires(folder, device=where)
    package = __import__("transformers")
    info = EngineInfo(
        model=model.config.name,
        runtime=f"transformers {package.__version__} torch {torch.__version__} {where}",
        precision=model.mllm.config.precision,
        bundle_sha=hash_unires(folder),
        max_regions=model.config.max_masks,
        max_new_tokens=model.config.max_masks,
    )
    return UniresEngine(model, make_reader(model, folder), info=info)
