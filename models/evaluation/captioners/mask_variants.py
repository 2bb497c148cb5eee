"""Replaces true masks by other masks, to measure the effect on a captioner.

An edit is a pure function of the mask and the region's id, so every model gets exactly the same
wrong masks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np

from ureca.datatypes import Mask
from ureca.models.data.mask_noise import make_noisy_mask

MaskKind = Literal["true", "noisy", "box", "crop", "image"]
MASK_KINDS: Final[tuple[MaskKind, ...]] = get_args(MaskKind)

MaskEdit = Callable[[Mask, str], Mask]
"""Maps a true mask bool [H, W] and a region id to the mask that the model gets."""


def make_mask_edit(kind: MaskKind, *, seed: int = 0) -> MaskEdit:
    """Return the edit of a kind: the mask itself, a tracker's (IoU about 0.7), its box, the whole
    image.

    A `crop` fills the box as well; `caption_crops` removes its surroundings.
    """

    def noisy(mask: Mask, region_id: str) -> Mask:
        return make_noisy_mask(mask, np.random.default_rng([seed, zlib.crc32(region_id.encode())]))

    edits: dict[MaskKind, MaskEdit] = {
        "true": keep_mask,
        "noisy": noisy,
        "box": lambda mask, _: fill_box(mask),
        "crop": lambda mask, _: fill_box(mask),
        "image": lambda mask, _: np.ones_like(mask),
    }
    return edits[kind]


def keep_mask(mask: Mask, region_id: str) -> Mask:  # noqa: ARG001  (the signature of `MaskEdit`)
    """Return the true mask."""
    return mask


def fill_box(mask: Mask) -> Mask:
    """Return the filled tight box of a mask bool [H, W] with pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def compute_iou(mask: Mask, other: Mask) -> float:
    """Return the intersection over union of two masks bool [H, W]."""
    union = int((mask | other).sum())
    return int((mask & other).sum()) / union if union else 1.0
