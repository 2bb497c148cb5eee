"""Two sources of feature maps: the disk cache of a frozen trunk, or the trunk that is being
trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ureca.models.data.regions import ImageStore
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.regions import Maps
from ureca.models.preprocess import Grid, pixel_tiles
from ureca.models.training.config import TrainConfig
from ureca.models.training.features import open_cache
from ureca.models.training.step import MapSource


def cached_maps(
    model: Captioner,
    images: ImageStore,
    *,
    keys: Sequence[Sequence[str]],
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Fill the caches (one per data source, once) and read batches from them."""
    caches = [
        open_cache(Path(config.cache), trunk=model.trunk, vision=config.model.vision, keys=k)
        for k in keys
    ]
    for cache in caches:
        cache.fill(model.trunk, images)
    home = {key: cache for cache in caches for key in cache.keys}

    def maps(image_keys: tuple[str, ...]) -> Maps:
        levels = [
            np.stack([home[k].level(i, k) for k in image_keys]).astype(np.float32) for i in range(3)
        ]
        fine, middle, coarse = (torch.from_numpy(level).to(device) for level in levels)
        return fine, middle, coarse

    return maps


def trunk_maps(
    model: Captioner,
    images: ImageStore,
    *,
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Run the trunk on every batch, so that gradients reach it; nothing is kept."""
    vision = config.model.vision

    def maps(image_keys: tuple[str, ...]) -> Maps:
        pixels = np.concatenate(
            [pixel_tiles(images.read(k), Grid(1, 1), vision) for k in image_keys]
        )
        return model.trunk(torch.from_numpy(pixels).to(device))

    return maps
