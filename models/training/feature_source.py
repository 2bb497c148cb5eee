"""Provides the trunk's maps from two sources: the disk cache of a frozen trunk, or the trunk in
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ureca.models.data.regions import ImageStore
from ureca.models.nano.network import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.preprocess import Grid, make_pixel_tiles
from ureca.models.training.config import TrainConfig
from ureca.models.training.features import FeatureCache, FrozenLayers, open_cache

Picture = tuple[str, bool]
"""A picture's key, and whether it is seen in a mirror."""


class MapSource(Protocol):
    """Returns the trunk's maps for the images of a batch."""

    def __call__(self, pictures: Sequence[Picture]) -> Raw:
        """Return maps [B, C, h, w] on the training device; see `Raw`."""


def make_cached_source(
    layers: FrozenLayers,
    images: ImageStore,
    *,
    shards: Mapping[tuple[int, str], Sequence[str]],
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Fill the caches and return a source that reads them.

    `shards` holds the image keys of every (data source, shard). Each has its own cache, and one
    more if the source is mirrored, so new data costs only its own maps.
    """
    home: dict[Picture, FeatureCache] = {}
    count = 4 if layers.detector is None else 7
    for (source, _), names in shards.items():
        for mirrored in (False, True) if config.data[source].mirror else (False,):
            cache = open_cache(
                Path(config.cache),
                layers=layers,
                vision=config.model.vision,
                keys=names,
                mirrored=mirrored,
                faulty=config.data[source].faulty,
            )
            cache.fill(layers, images)
            home.update(((key, mirrored), cache) for key in cache.keys)

    def maps(pictures: Sequence[Picture]) -> Raw:
        levels = (
            np.stack([home[picture].level(level, picture[0]) for picture in pictures])
            for level in range(count)
        )
        return tuple(torch.from_numpy(level.astype(np.float32)).to(device) for level in levels)

    return maps


def make_trunk_source(
    model: Captioner,
    images: ImageStore,
    *,
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Return a source that runs the trunk on every batch, so that gradients reach it. It caches
    nothing.
    """
    vision = config.model.vision

    def maps(pictures: Sequence[Picture]) -> Raw:
        seen = [images.read(key)[:, :: -1 if mirrored else 1] for key, mirrored in pictures]
        pixels = np.concatenate([make_pixel_tiles(p, Grid(1, 1), vision) for p in seen])
        return model.encode_frozen(torch.from_numpy(pixels).to(device))

    return maps
