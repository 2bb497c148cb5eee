"""Feature maps of a frozen trunk, computed once per picture and kept on disk.

On two CPU cores the trunk costs more than everything behind it, and frozen it gives the same answer
every epoch. The cache is three memory-mapped float16 arrays (strides 8, 16, 32) and an index, in a
folder named by what they depend on. A run that is killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ureca.errors import ConfigError
from ureca.models.config import TRUNK_CHANNELS, VisionConfig
from ureca.models.data.regions import ImageStore
from ureca.models.nano.trunk import Trunk
from ureca.models.preprocess import Grid, pixel_tiles

_STRIDES = (8, 16, 32)
_BATCH = 8


class FeatureCache:
    """Maps of the pictures `keys`, one row each."""

    def __init__(self, folder: Path, *, keys: Sequence[str], vision: VisionConfig) -> None:
        if vision.max_tiles != 1:
            raise ConfigError(
                f"the feature cache holds one tile a picture, got max_tiles={vision.max_tiles}"
            )
        self.folder, self.keys, self._vision = folder, list(keys), vision
        self.row = {key: index for index, key in enumerate(self.keys)}
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = [self._open(level) for level in range(3)]

    def _open(self, level: int) -> npt.NDArray[np.float16]:
        side = self._vision.tile_px // _STRIDES[level]
        path = self.folder / f"stride{_STRIDES[level]}.f16"
        shape = (len(self.keys), TRUNK_CHANNELS[level], side, side)
        return np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=shape)

    def level(self, level: int, image_key: str) -> npt.NDArray[np.float16]:
        """The map of one picture, f16 [C, h, w], at strides 8, 16, 32 for levels 0, 1, 2."""
        return self._maps[level][self.row[image_key]]

    def fill(self, trunk: Trunk, images: ImageStore) -> None:
        """Compute what is still missing, with a progress bar; safe to interrupt and to repeat."""
        done = self._done()
        steps = tqdm(
            range(done, len(self.keys), _BATCH), desc=f"features {self.folder.name}", unit="batch"
        )
        trunk = trunk.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for start in steps:
            self._fill_batch(trunk, images, slice(start, start + _BATCH))
            self._mark(min(start + _BATCH, len(self.keys)))

    @torch.inference_mode()
    def _fill_batch(self, trunk: Trunk, images: ImageStore, rows: slice) -> None:
        one = Grid(1, 1)
        pixels = np.concatenate(
            [pixel_tiles(images.read(k), one, self._vision) for k in self.keys[rows]]
        )
        batch = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        for level, feature_map in enumerate(trunk(batch)):
            self._maps[level][rows] = feature_map.numpy().astype(np.float16)

    def _done(self) -> int:
        mark = self.folder / "progress.json"
        return int(json.loads(mark.read_text())["done"]) if mark.exists() else 0

    def _mark(self, done: int) -> None:
        mark = self.folder / "progress.json"
        temporary = mark.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": done}))
        temporary.replace(mark)


def open_cache(
    root: Path, *, trunk: Trunk, vision: VisionConfig, keys: Sequence[str]
) -> FeatureCache:
    """The cache of this trunk, tile size and list of pictures, in a folder of its own."""
    digest = hashlib.sha256(repr(vision).encode())
    digest.update("\n".join(keys).encode())
    for tensor in trunk.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return FeatureCache(root / digest.hexdigest()[:16], keys=keys, vision=vision)
