"""What a query captioner learns from a picture: words of matched queries, and in stage 2 the
segmenter's own losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.mllm.pix2cap.config import Pix2CapTrainConfig
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.picture_input import make_mask_labels, make_pixels
from ureca.models.mllm.pix2cap.segmenters import Queries
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.staged.learner import set_trainable
from ureca.models.mllm.staged.pictures import PictureRows, read_picture

CAPTION, SEGMENTATION = "caption", "segmentation"
_IGNORED = -100


@dataclass(frozen=True)
class SegmentsExample:
    """One picture: pixels f32 [1, 3, h, w], masks f32 [N, h, w] and classes i64 [N] of its segments
    (-1: of no class of the segmenter), and the ids of their captions (empty: none).
    """

    pixels: Tensor
    masks: Tensor
    labels: Tensor
    captions: tuple[Tensor, ...]


class Pix2CapTask:
    """Implements `StageTask`."""

    def __init__(
        self,
        model: Pix2Cap,
        words: TextTokenizer,
        images: ImageStore,
        config: Pix2CapTrainConfig,
    ) -> None:
        self.model, self._words, self._images, self._config = model, words, images, config
        self._stop = words.id_of(model.config.stop)
        known = model.segmenter.config.id2label
        self._labels = {str(name): int(label) for label, name in known.items()}

    @property
    def weights(self) -> Mapping[str, float]:
        """See `StageTask`."""
        if self._config.stage == 1:
            return {CAPTION: 1.0}
        return {CAPTION: self._config.caption_weight, SEGMENTATION: 1.0}

    def read(self, rows: PictureRows, seed: int) -> SegmentsExample:
        """See `StageTask`; of a segment with several captions one is drawn."""
        image, masks = read_picture(rows, self._images)
        pixels = make_pixels(image, self.model.config.picture)
        draw = np.random.default_rng(seed)
        return SegmentsExample(
            pixels,
            make_mask_labels(masks, (pixels.shape[2], pixels.shape[3])),
            torch.tensor([self._labels.get(row.category, -1) for row in rows.regions]),
            tuple(self._encode(row, draw) for row in rows.regions),
        )

    def count(self, example: SegmentsExample) -> Mapping[str, float]:
        """Words that are taught, and one picture."""
        words = float(sum(map(len, example.captions)))
        return {CAPTION: words, SEGMENTATION: float(bool((example.labels >= 0).any()))}

    def compute(self, example: SegmentsExample) -> Mapping[str, Tensor]:
        """See `StageTask`."""
        model, found = self.model, {}
        known = example.labels >= 0
        labels: dict[str, Any] = {}
        if self._config.stage == 2 and bool(known.any()):
            labels = {
                "mask_labels": [example.masks[known].to(model.device)],
                "class_labels": [example.labels[known].to(model.device)],
            }
        with torch.set_grad_enabled(self._config.stage == 2):
            queries, output = model.segment(example.pixels, **labels)
        if labels:
            found[SEGMENTATION] = output.loss.reshape(())
        said = [n for n, ids in enumerate(example.captions) if len(ids)]
        if said:
            taken = match_queries(queries, example.masks, example.labels, self._config)
            captions = [example.captions[n] for n in said]
            found[CAPTION] = self._compute_words(queries, [taken[n] for n in said], captions)
        return found

    def _compute_words(
        self, queries: Queries, rows: Sequence[int], captions: Sequence[Tensor]
    ) -> Tensor:
        """Cross-entropy in nats, summed over the words of all captions. A segment that no query is
        left for teaches nothing.
        """
        pairs = [(row, ids) for row, ids in zip(rows, captions, strict=True) if row >= 0]
        model = self.model
        if not pairs:
            return torch.zeros((), device=model.device)
        ids = nn.utils.rnn.pad_sequence(
            [one for _, one in pairs], batch_first=True, padding_value=_IGNORED
        ).to(model.device)
        prefix = model.make_prefix(
            queries, torch.tensor([row for row, _ in pairs], device=model.device)
        )
        x = torch.cat([prefix, model.embed(ids[:, :-1].clamp_min(0))], dim=1)
        mask = torch.cat([torch.ones_like(ids[:, :1]), (ids != _IGNORED).long()], dim=1)
        logits = model(x, mask)[:, 1:].float()
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), ids.flatten(), ignore_index=_IGNORED, reduction="sum"
        )

    def _encode(self, record: RegionRecord, draw: np.random.Generator) -> Tensor:
        texts = record.long or record.short
        if not texts:
            return torch.zeros(0, dtype=torch.long)
        ids = self._words.encode(texts[int(draw.integers(len(texts)))])[: self._config.max_words]
        return torch.tensor([*ids, self._stop])


@torch.no_grad()
def match_queries(
    queries: Queries, masks: Tensor, labels: Tensor, config: Pix2CapTrainConfig
) -> list[int]:
    """Return the query of each of N segments, -1 where there are more segments than queries.

    Costs are those of the segmenters' own matchers (class probability, mask, dice), over all cells
    of the map instead of drawn points, so that the same picture always has the same pairs.
    """
    package = require("scipy.optimize", extra="train")
    seen = queries.masks.flatten(1)
    size = queries.masks.shape[1], queries.masks.shape[2]
    true = nn.functional.adaptive_avg_pool2d(masks[:, None].to(seen.device), size).flatten(1)
    inside = seen.sigmoid()
    positive = nn.functional.softplus(-seen) @ true.T
    negative = nn.functional.softplus(seen) @ (1 - true).T
    cost_mask = (positive + negative) / seen.shape[1]
    total = inside.sum(1)[:, None] + true.sum(1)[None]
    cost_dice = 1 - (2 * inside @ true.T + 1) / (total + 1)
    known = labels.to(seen.device).clamp_min(0)
    cost_class = -queries.classes.softmax(-1)[:, known] * (labels.to(seen.device) >= 0)
    cost = (
        config.class_weight * cost_class
        + config.mask_weight * cost_mask
        + config.dice_weight * cost_dice
    )
    rows, columns = package.linear_sum_assignment(cost.float().cpu().numpy())
    taken = [-1] * len(labels)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        taken[column] = row
    return taken


def freeze_pix2cap(model: Pix2Cap, config: Pix2CapTrainConfig) -> list[str]:
    """Enable gradients for exactly the stage's parts; return their names. Raises `ConfigError` when
    the segmenter's weights of losses cannot be set.
    """
    frozen = tuple(f"segmenter.{begin}" for begin in model.family.frozen)
    names = []
    for name, parameter in model.named_parameters():
        in_segmenter = name.startswith("segmenter.")
        learns = not in_segmenter or (config.stage == 2 and not name.startswith(frozen))
        if learns and parameter.is_floating_point():
            names.append(name)
    if config.stage == 2:
        set_loss_weights(model, config)
    return set_trainable(model, names)


def set_loss_weights(model: Pix2Cap, config: Pix2CapTrainConfig) -> None:
    """Set the weights of the segmenter's own losses. Raises `ConfigError` for one without any."""
    known = getattr(model.segmenter, "weight_dict", None)
    if not isinstance(known, dict):
        raise ConfigError(f"{type(model.segmenter).__name__} has no losses of its own")
    known["loss_cross_entropy"] = config.class_weight
    known["loss_mask"], known["loss_dice"] = config.mask_weight, config.dice_weight
