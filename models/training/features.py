"""Caches feature maps of frozen layers, computed once per image, on disk.

On two CPU cores the trunk costs more than all other layers, and a frozen trunk gives the same
result in every epoch. The cache is memory-mapped float16 arrays (the trunk's features at strides 8,
16, 32, colour at 4, and a detector's at 8, 16, 32) and an index, in a folder whose name is a hash
of their inputs. A run that was killed continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from ureca.errors import ConfigError
from ureca.models.config import DETECTOR_CHANNELS, TRUNK_CHANNELS, VisionConfig
from ureca.models.data.picture_faults import add_faults
from ureca.models.data.regions import ImageStore, hash_image_key
from ureca.models.nano.detector import Backbone
from ureca.models.nano.network import encode_frozen
from ureca.models.nano.pyramid import Raw
from ureca.models.nano.trunk import Trunk
from ureca.models.preprocess import Grid, make_pixel_tiles

_STRIDES = (8, 16, 32)
_TRUNK = (*((f"stride{s}", s, c) for s, c in zip(_STRIDES, TRUNK_CHANNELS, strict=True)),)
_LEVELS = (*_TRUNK, ("stride4", 4, 3))
_DETECTOR = (*((f"detector{s}", s, c) for s, c in zip(_STRIDES, DETECTOR_CHANNELS, strict=True)),)
"""File, stride and channels of every map, in the order of `Raw`."""
_BATCH = 8


class FrozenLayers(nn.Module):
    """What a cache holds the maps of: the published trunk, and the detector's backbone if any."""

    def __init__(self, trunk: Trunk, detector: Backbone | None = None) -> None:
        super().__init__()
        self.trunk, self.detector = trunk, detector
        self.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: torch.Tensor) -> Raw:
        """As `Captioner.encode_frozen`."""
        return encode_frozen(self.trunk, self.detector, pixels)


class FeatureCache:
    """Maps of the images `keys`, one row each. `mirrored` images are stored flipped. The part
    `faulty` of them is softened, compressed or lit otherwise first (`picture_faults.py`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        keys: Sequence[str],
        vision: VisionConfig,
        mirrored: bool,
        faulty: float = 0.0,
        detector: bool = False,
    ) -> None:
        if vision.max_tiles != 1:
            raise ConfigError(
                f"the feature cache holds one tile a picture, got max_tiles={vision.max_tiles}"
            )
        self.folder, self.keys, self._vision = folder, list(keys), vision
        self.mirrored, self.faulty = mirrored, faulty
        self.row = {key: index for index, key in enumerate(self.keys)}
        folder.mkdir(parents=True, exist_ok=True)
        levels = (*_LEVELS, *_DETECTOR) if detector else _LEVELS
        self._maps = [self._open(*level) for level in levels]

    def _open(self, name: str, stride: int, channels: int) -> npt.NDArray[np.float16]:
        side = self._vision.tile_px // stride
        path = self.folder / f"{name}.f16"
        shape = (len(self.keys), channels, side, side)
        return np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=shape)

    def level(self, level: int, image_key: str) -> npt.NDArray[np.float16]:
        """Return a map of one image, f16 [C, h, w], in the order of `Raw`."""
        return self._maps[level][self.row[image_key]]

    def fill(self, encode: Callable[[torch.Tensor], Raw], images: ImageStore) -> None:
        """Compute the missing maps with a progress bar. It is safe to interrupt and to repeat."""
        done = self._done()
        steps = tqdm(
            range(done, len(self.keys), _BATCH), desc=f"features {self.folder.name}", unit="batch"
        )
        for start in steps:
            self._fill_batch(encode, images, slice(start, start + _BATCH))
            self._mark(min(start + _BATCH, len(self.keys)))

    @torch.inference_mode()
    def _fill_batch(
        self, encode: Callable[[torch.Tensor], Raw], images: ImageStore, rows: slice
    ) -> None:
        one = Grid(1, 1)
        pictures = [self._read(images, key) for key in self.keys[rows]]
        pixels = np.concatenate([make_pixel_tiles(p, one, self._vision) for p in pictures])
        batch = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        for level, seen in enumerate(encode(batch)):
            self._maps[level][rows] = seen.numpy().astype(np.float16)

    def _read(self, images: ImageStore, key: str) -> npt.NDArray[np.uint8]:
        rng = np.random.default_rng(hash_image_key(f"{key} {self.mirrored}"))
        picture = images.read(key)
        if rng.random() < self.faulty:
            picture = add_faults(picture, rng)
        return picture[:, :: -1 if self.mirrored else 1]

    def _done(self) -> int:
        mark = self.folder / "progress.json"
        return int(json.loads(mark.read_text())["done"]) if mark.exists() else 0

    def _mark(self, done: int) -> None:
        mark = self.folder / "progress.json"
        temporary = mark.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": done}))
        temporary.replace(mark)


def open_cache(
    root: Path,
    *,
    layers: FrozenLayers,
    vision: VisionConfig,
    keys: Sequence[str],
    mirrored: bool = False,
    faulty: float = 0.0,
) -> FeatureCache:
    """Open the cache of these layers, tile size and list of images, in its own folder. Checkpoints
    hold float16, so weights that differ only beyond that share it.
    """
    digest = hashlib.sha256(repr((vision, mirrored, faulty)).encode())
    digest.update("\n".join(keys).encode())
    for tensor in layers.state_dict().values():
        digest.update(tensor.half().contiguous().numpy().tobytes())
    return FeatureCache(
        root / digest.hexdigest()[:16],
        keys=keys,
        vision=vision,
        mirrored=mirrored,
        faulty=faulty,
        detector=layers.detector is not None,
    )
