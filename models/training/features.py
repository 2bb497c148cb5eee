"""Feature maps of a frozen trunk, computed once per picture and kept on disk.

On two CPU cores the trunk costs more than everything behind it, and frozen it gives the same answer
every epoch. The cache is four memory-mapped float16 arrays (features at strides 8, 16, 32, colour
at 4) and an index, in a folder named by what they depend on. A run that is killed goes on where it
stopped.
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
from ureca.models.nano.pyramid import colour_map
from ureca.models.nano.trunk import Trunk
from ureca.models.preprocess import Grid, pixel_tiles

_LEVELS = {8: TRUNK_CHANNELS[0], 16: TRUNK_CHANNELS[1], 32: TRUNK_CHANNELS[2], 4: 3}
_BATCH = 8


class FeatureCache:
    """Maps of the pictures `keys`, one row each; `mirrored` holds them left to right."""

    def __init__(
        self, folder: Path, *, keys: Sequence[str], vision: VisionConfig, mirrored: bool
    ) -> None:
        if vision.max_tiles != 1:
            raise ConfigError(
                f"the feature cache holds one tile a picture, got max_tiles={vision.max_tiles}"
            )
        self.folder, self.keys, self._vision = folder, list(keys), vision
        self.mirrored = mirrored
        self.row = {key: index for index, key in enumerate(self.keys)}
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = [self._open(stride) for stride in _LEVELS]

    def _open(self, stride: int) -> npt.NDArray[np.float16]:
        side = self._vision.tile_px // stride
        path = self.folder / f"stride{stride}.f16"
        shape = (len(self.keys), _LEVELS[stride], side, side)
        return np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=shape)

    def level(self, level: int, image_key: str) -> npt.NDArray[np.float16]:
        """A map of one picture, f16 [C, h, w]: strides 8, 16, 32 and colour are levels 0 to 3."""
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
        pictures = [images.read(key)[:, :: -1 if self.mirrored else 1] for key in self.keys[rows]]
        pixels = np.concatenate([pixel_tiles(p, one, self._vision) for p in pictures])
        batch = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        for level, seen in enumerate((*trunk(batch), colour_map(batch))):
            self._maps[level][rows] = seen.numpy().astype(np.float16)

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
    trunk: Trunk,
    vision: VisionConfig,
    keys: Sequence[str],
    mirrored: bool = False,
) -> FeatureCache:
    """The cache of this trunk, tile size and list of pictures, in a folder of its own."""
    digest = hashlib.sha256(repr((vision, mirrored)).encode())
    digest.update("\n".join(keys).encode())
    for tensor in trunk.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    folder = root / digest.hexdigest()[:16]
    return FeatureCache(folder, keys=keys, vision=vision, mirrored=mirrored)
