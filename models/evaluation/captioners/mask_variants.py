"""Masks other than the true one, to see what a captioner makes of them.

An edit is a pure function of the mask and the region's id, so that every model is tested with
exactly the same wrong masks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np

from ureca.datatypes import Mask
from ureca.models.data.mask_noise import noisy_mask

MaskKind = Literal["true", "noisy", "box", "crop", "image"]
MASK_KINDS: Final[tuple[MaskKind, ...]] = get_args(MaskKind)

MaskEdit = Callable[[Mask, str], Mask]
"""From a true mask bool [H, W] and a region id to the mask that is shown."""


def mask_edit(kind: MaskKind, *, seed: int = 0) -> MaskEdit:
    """The edit of a kind: the mask itself, a tracker's (IoU about 0.7), its box, the picture.

    A `crop` fills the box as well; that its surroundings are cut away is `caption_crops`' doing.
    """

    def noisy(mask: Mask, region_id: str) -> Mask:
        return noisy_mask(mask, np.random.default_rng([seed, zlib.crc32(region_id.encode())]))

    edits: dict[MaskKind, MaskEdit] = {
        "true": unchanged,
        "noisy": noisy,
        "box": lambda mask, _: box_mask(mask),
        "crop": lambda mask, _: box_mask(mask),
        "image": lambda mask, _: np.ones_like(mask),
    }
    return edits[kind]


def unchanged(mask: Mask, region_id: str) -> Mask:  # noqa: ARG001  (the signature of `MaskEdit`)
    """The true mask."""
    return mask


def box_mask(mask: Mask) -> Mask:
    """The tight box of a mask bool [H, W] with pixels, filled."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def overlap(mask: Mask, other: Mask) -> float:
    """Intersection over union of two masks bool [H, W]."""
    union = int((mask | other).sum())
    return int((mask & other).sum()) / union if union else 1.0
