"""Converts regions to the arrays that every runtime feeds to its graphs, and refuses bad
regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ureca.datatypes import RegionInput
from ureca.errors import EngineError, RegionError
from ureca.models.config import VisionConfig
from ureca.models.preprocess import Grid, compute_box_norm, make_mask_tiles_batch

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RegionArrays:
    """masks f32 [N, T, M, M] of 0 and 1; boxes f32 [N, 4], xyxy in 0..1 of width and height."""

    masks: F32
    boxes: F32


def check_regions(
    regions: Sequence[RegionInput], *, height_px: int, width_px: int, max_regions: int
) -> None:
    """Raise before any work: `EngineError` for too many rows, `RegionError` for a bad one."""
    if len(regions) > max_regions:
        raise EngineError(
            f"expected at most {max_regions} regions in a batch, got {len(regions)}: split the call"
        )
    for row, region in enumerate(regions):
        if region.mask.shape != (height_px, width_px):
            raise RegionError(
                f"row {row}: expected a mask of the image's size [{height_px}, {width_px}], "
                f"got {list(region.mask.shape)}: scale the mask to the encoded image"
            )
        if not region.mask.any():
            raise RegionError(f"row {row}: the mask is empty: a region needs at least one pixel")
        if region.max_new_tokens < 1:
            raise EngineError(
                f"row {row}: max_new_tokens must be >= 1, got {region.max_new_tokens}"
            )


def make_region_arrays(
    regions: Sequence[RegionInput], *, grid: Grid, vision: VisionConfig
) -> RegionArrays:
    """Tile the masks with the image's grid and compute their boxes."""
    masks = make_mask_tiles_batch([region.mask for region in regions], grid, vision)
    boxes = np.stack([compute_box_norm(region.mask) for region in regions])
    return RegionArrays(masks, boxes)
