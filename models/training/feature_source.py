"""Two sources of what the trunk sees: the disk cache of a frozen trunk, or the trunk that is being
trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ureca.models.data.regions import ImageStore
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.nano.trunk import Trunk
from ureca.models.preprocess import Grid, pixel_tiles
from ureca.models.training.config import TrainConfig
from ureca.models.training.features import FeatureCache, open_cache

Picture = tuple[str, bool]
"""A picture's key, and whether it is seen in a mirror."""


class MapSource(Protocol):
    """Where the trunk's maps of a batch's pictures come from."""

    def __call__(self, pictures: Sequence[Picture]) -> Raw:
        """Maps [B, C, h, w] at strides 8, 16, 32 and colour at 4, on the training device."""


def cached_maps(
    trunk: Trunk,
    images: ImageStore,
    *,
    shards: Mapping[tuple[int, str], Sequence[str]],
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Fill the caches and read from them.

    `shards` holds the picture keys of every (data source, shard). Each has a cache of its own, one
    more where the source is mirrored: data that grows costs only what is new.
    """
    home: dict[Picture, FeatureCache] = {}
    for (source, _), names in shards.items():
        for mirrored in (False, True) if config.data[source].mirror else (False,):
            cache = open_cache(
                Path(config.cache),
                trunk=trunk,
                vision=config.model.vision,
                keys=names,
                mirrored=mirrored,
            )
            cache.fill(trunk, images)
            home.update(((key, mirrored), cache) for key in cache.keys)

    def maps(pictures: Sequence[Picture]) -> Raw:
        levels = (
            np.stack([home[picture].level(level, picture[0]) for picture in pictures])
            for level in range(4)
        )
        tensors = [torch.from_numpy(level.astype(np.float32)).to(device) for level in levels]
        return tensors[0], tensors[1], tensors[2], tensors[3]

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

    def maps(pictures: Sequence[Picture]) -> Raw:
        seen = [images.read(key)[:, :: -1 if mirrored else 1] for key, mirrored in pictures]
        pixels = np.concatenate([pixel_tiles(p, Grid(1, 1), vision) for p in seen])
        return model.see(torch.from_numpy(pixels).to(device))

    return maps
