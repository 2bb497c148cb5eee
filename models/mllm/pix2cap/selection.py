"""From queries to segments that do not overlap, as `transformers` post-processes its panoptic
models; here every segment remembers its query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.models.mllm.pix2cap.config import SelectionConfig
from ureca.models.mllm.pix2cap.segmenters import Queries
from ureca.models.runtime.segmentation.panoptic.segments import MOST_SEGMENTS

_SIDE = 384
"""Side to which `transformers` enlarges masks before it compares them."""


@dataclass(frozen=True, slots=True)
class KeptQuery:
    """One segment: its number from 1 on in the map, the query that says it (of several that were
    joined the surest), its class and score 0..1.
    """

    number: int
    query: int
    label: int
    score: float


@dataclass(frozen=True, slots=True)
class SelectedSegments:
    """The segments of one picture, the surest first; `ids` u8 [H, W] holds their numbers, 0
    elsewhere.
    """

    ids: Tensor
    kept: tuple[KeptQuery, ...]


@torch.no_grad()
def select_segments(
    queries: Queries, size: tuple[int, int], config: SelectionConfig
) -> SelectedSegments:
    """Select the segments of a picture, drawn at `size` (height, width)."""
    scores, labels = queries.classes.softmax(-1).max(-1)
    nothing = queries.classes.shape[-1] - 1
    sure = ((labels != nothing) & (scores > config.object_score)).nonzero()[:, 0]
    if not len(sure):
        return SelectedSegments(torch.zeros(size, dtype=torch.uint8), ())
    inside = _enlarge(queries.masks[sure], (_SIDE, _SIDE)).sigmoid()
    inside = _enlarge(inside, size) * scores[sure, None, None]
    owner = inside.argmax(0)
    own = torch.bincount(owner.flatten(), minlength=len(sure))
    whole = (inside >= config.mask).sum((1, 2))
    is_kept = (own > 0) & (whole > 0) & (own > config.overlap * whole)
    order = torch.argsort(-scores[sure], stable=True)
    rows = [row for row in order.tolist() if bool(is_kept[row])]
    return _number(rows, owner, queries=sure, labels=labels, scores=scores, stuff=config.stuff)


def _number(
    rows: list[int],
    owner: Tensor,
    *,
    queries: Tensor,
    labels: Tensor,
    scores: Tensor,
    stuff: tuple[int, ...],
) -> SelectedSegments:
    """Number the kept rows; rows of one class of stuff have one number."""
    ids = torch.zeros(owner.shape, dtype=torch.uint8, device=owner.device)
    kept: list[KeptQuery] = []
    of_stuff: dict[int, int] = {}
    for row in rows:
        query = int(queries[row])
        label = int(labels[query])
        number = of_stuff.get(label) if label in stuff else None
        if number is None:
            if len(kept) == MOST_SEGMENTS:
                continue
            number = len(kept) + 1
            kept.append(KeptQuery(number, query, label, float(scores[query])))
            of_stuff[label] = number
        ids[owner == row] = number
    return SelectedSegments(ids.cpu(), tuple(kept))


def _enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps [N, h, w] bilinearly."""
    return nn.functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
