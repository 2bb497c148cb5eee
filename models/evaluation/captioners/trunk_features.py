"""Computes features of the ImageNet trunk for the baselines. No part of it was trained on
regions.

Imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.datatypes import Image, Mask
from ureca.models.config import VisionConfig
from ureca.models.nano.trunk import Trunk, load_imagenet, make_head_conv
from ureca.models.preprocess import Grid, make_pixel_tiles

F32 = npt.NDArray[np.float32]

CLASSES = 1000
_PICTURE = VisionConfig()
_CROP = VisionConfig(tile_px=256, mask_px=128)
_CROP_MARGIN = 0.1


class ImageNetTrunk:
    """EfficientNet-Lite0 with ImageNet weights."""

    def __init__(self) -> None:
        """Load the weights. Raises `MissingExtraError` without their package."""
        self._trunk, self._head = Trunk(), make_head_conv()
        self._classifier = nn.Linear(self._head.out_channels, CLASSES)
        load_imagenet(self._trunk, self._head, self._classifier)
        self._trunk.eval()

    @torch.inference_mode()
    def pool(self, image: Image, masks: Sequence[Mask]) -> F32:
        """Average head features inside each mask: f32 [N, 1280], each of length 1.

        image u8 [H, W, 3] RGB; masks bool [H, W] with pixels.
        """
        cells = self._compute_map(image, _PICTURE)
        side = cells.shape[-1]
        weights = torch.from_numpy(np.stack([_compute_coverage(mask, side) for mask in masks]))
        sums = torch.einsum("nyx,cyx->nc", weights, cells)
        return np.asarray(F.normalize(sums, dim=1).numpy())

    @torch.inference_mode()
    def classify(self, image: Image, mask: Mask) -> int:
        """Return the ImageNet class of the region's box, slightly enlarged."""
        cells = self._compute_map(crop_to_mask(image, mask), _CROP)
        return int(self._classifier(cells.mean(dim=(1, 2))).argmax())

    def _compute_map(self, image: Image, vision: VisionConfig) -> Tensor:
        """Compute head features [1280, cells, cells] of an image resized to a square."""
        pixels = torch.from_numpy(make_pixel_tiles(image, Grid(1, 1), vision))
        *_, last = self._trunk(pixels)
        return F.relu6(self._head(last))[0]


def crop_to_mask(image: Image, mask: Mask) -> Image:
    """Cut the box of a mask with a margin out of the image."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    dx, dy = round(width * _CROP_MARGIN), round(height * _CROP_MARGIN)
    cut = image[max(0, y - dy) : y + height + dy, max(0, x - dx) : x + width + dx]
    return np.ascontiguousarray(cut)


def _compute_coverage(mask: Mask, side: int) -> F32:
    """Compute how much of each of side x side cells a mask covers; sums to 1."""
    cells = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cells / cells.sum(), np.float32)
