"""Features of the ImageNet trunk for the baselines: no word of it was learnt on regions.

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
from ureca.models.nano.trunk import Trunk, head_conv, load_imagenet
from ureca.models.preprocess import Grid, pixel_tiles

F32 = npt.NDArray[np.float32]

CLASSES = 1000
_PICTURE = VisionConfig()
_CROP = VisionConfig(tile_px=256, mask_px=128)
_CROP_MARGIN = 0.1


class ImageNetTrunk:
    """EfficientNet-Lite0 as ImageNet left it."""

    def __init__(self) -> None:
        """Raises `MissingExtraError` without the weights' package."""
        self._trunk, self._head = Trunk(), head_conv()
        self._classifier = nn.Linear(self._head.out_channels, CLASSES)
        load_imagenet(self._trunk, self._head, self._classifier)
        self._trunk.eval()

    @torch.inference_mode()
    def pooled(self, image: Image, masks: Sequence[Mask]) -> F32:
        """Head features averaged inside each mask: f32 [N, 1280], each of length 1.

        image u8 [H, W, 3] RGB; masks bool [H, W] with pixels.
        """
        cells = self._map(image, _PICTURE)
        side = cells.shape[-1]
        weights = torch.from_numpy(np.stack([_coverage(mask, side) for mask in masks]))
        sums = torch.einsum("nyx,cyx->nc", weights, cells)
        return np.asarray(F.normalize(sums, dim=1).numpy())

    @torch.inference_mode()
    def classify(self, image: Image, mask: Mask) -> int:
        """The ImageNet class of the region's box, a little enlarged."""
        cells = self._map(crop(image, mask), _CROP)
        return int(self._classifier(cells.mean(dim=(1, 2))).argmax())

    def _map(self, image: Image, vision: VisionConfig) -> Tensor:
        """Head features [1280, cells, cells] of a picture squashed to a square."""
        pixels = torch.from_numpy(pixel_tiles(image, Grid(1, 1), vision))
        *_, last = self._trunk(pixels)
        return F.relu6(self._head(last))[0]


def crop(image: Image, mask: Mask) -> Image:
    """The box of a mask with a margin, cut out of the picture."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    dx, dy = round(width * _CROP_MARGIN), round(height * _CROP_MARGIN)
    cut = image[max(0, y - dy) : y + height + dy, max(0, x - dx) : x + width + dx]
    return np.ascontiguousarray(cut)


def _coverage(mask: Mask, side: int) -> F32:
    """How much of each of side x side cells a mask covers; sums to 1."""
    cells = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cells / cells.sum(), np.float32)
