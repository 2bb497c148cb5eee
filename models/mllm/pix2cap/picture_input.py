"""Pictures and masks as a segmenter takes them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import Image, Mask
from ureca.errors import RegionError
from ureca.models.mllm.pix2cap.config import PictureInput


def choose_size(height: int, width: int, config: PictureInput) -> tuple[int, int]:
    """Return the (height, width) to which a picture is resized."""
    if config.square_px:
        return config.square_px, config.square_px
    scale = min(config.short_px / min(height, width), config.long_px / max(height, width))
    step = config.step_px
    down, right = (max(step, round(side * scale / step) * step) for side in (height, width))
    return down, right


def make_pixels(image: Image, config: PictureInput) -> Tensor:
    """u8 [H, W, 3] RGB -> f32 [1, 3, h, w], normalised. Raises `RegionError` for another shape."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise RegionError(
            f"expected an RGB image u8 [H, W, 3], got {image.dtype} {list(image.shape)}"
        )
    height, width = choose_size(image.shape[0], image.shape[1], config)
    is_smaller = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    small = cv2.resize(image, (width, height), interpolation=how).astype(np.float32) / 255
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(((small - mean) / std).transpose(2, 0, 1)))[None]


def make_mask_labels(masks: Sequence[Mask], size: tuple[int, int]) -> Tensor:
    """N masks bool [H, W] of a picture -> f32 [N, h, w] of 0 and 1, by nearest neighbour."""
    height, width = size
    small = [
        cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for mask in masks
    ]
    return torch.from_numpy(np.stack(small).astype(np.float32))
