"""The arrays of scoring: null regions and word means, from the regions that a captioner was trained
on.

    python -m ureca.models.evaluation.res.null_regions --bundle BUNDLE --data DIR -o grounding.npz
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from ureca.bundle import load_manifest
from ureca.datatypes import RegionInput, Rle
from ureca.errors import SourceError
from ureca.extras import require
from ureca.models.data.regions import (
    HELD_OUT_EVERY,
    ImageStore,
    RegionRecord,
    hash_image_key,
    read_regions,
)
from ureca.models.runtime.load import load_backend, make_engine
from ureca.models.runtime.region_inputs import make_region_arrays
from ureca.models.runtime.scoring import ScoringArrays
from ureca.protocol import rle

NULLS: Final = 8
PICTURES: Final = 250
_PER_PICTURE: Final = 8
_NORM: Final = "language.norm.weight"


class NullReader:
    """Reads training regions with a bundle's graphs; `norm` f32 [d] is of its checkpoint."""

    def __init__(self, bundle: Path, norm: Any) -> None:
        manifest = load_manifest(bundle)
        self._backend = load_backend(bundle, manifest, threads=1)
        self._engine = make_engine(self._backend, bundle, manifest)
        self._table = self._backend.embed(np.arange(manifest.model["language"]["vocab_size"]))
        self._norm = norm
        self._chances: list[Any] = []
        self._nulls: list[Any] = []

    def read(self, image: Any, records: Sequence[RegionRecord]) -> None:
        """Count the words of some regions of a picture; one of the first pictures' is a null."""
        frame = self._engine.encode(image)
        masks = [rle.decode(Rle((r.height, r.width), r.counts)) for r in records]
        arrays = make_region_arrays(
            [RegionInput(mask) for mask in masks],
            grid=frame.grid,
            vision=self._engine._vision,  # noqa: SLF001  (evaluation looks inside)
        )
        tokens = self._backend.regions(frame.inner, arrays.masks, arrays.boxes)
        mean = tokens.mean(axis=1)
        scaled = mean / np.sqrt((mean**2).mean(axis=-1, keepdims=True) + 1e-5) * self._norm
        logits = scaled @ self._table.T
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        self._chances.append(powers / powers.sum(axis=1, keepdims=True))
        if len(self._nulls) < NULLS:
            chosen = hash_image_key(records[0].image_key) // HELD_OUT_EVERY % len(records)
            own = self._backend.read(frame.inner, tokens[chosen : chosen + 1])
            pairs = zip(frame.inner.prefix.values(), own.values(), strict=True)
            kv = [np.concatenate([a.numpy(), b.numpy()], axis=2) for a, b in pairs]
            self._nulls.append(np.stack(kv))

    def arrays(self) -> ScoringArrays:
        """What was read."""
        means = np.log(np.concatenate(self._chances).mean(axis=0))
        return ScoringArrays(self._norm, means, np.concatenate(self._nulls, axis=2))


def training_pictures(root: Path, prefix: str = "f8k") -> list[list[RegionRecord]]:
    """Regions with phrases of training pictures whose keys begin so, in the order of their hash."""
    by_key: dict[str, list[RegionRecord]] = defaultdict(list)
    for record in read_regions(root / "regions-train.jsonl.gz"):
        trained = record.image_key.startswith(prefix) and not record.is_held_out(HELD_OUT_EVERY)
        if trained and record.short:
            by_key[record.image_key].append(record)
    if not by_key:
        raise SourceError(f"{root} has no training pictures {prefix}* with phrases")
    return [by_key[key][:_PER_PICTURE] for key in sorted(by_key, key=hash_image_key)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="null_regions", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="with its checkpoint inside")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="grounding.npz")
    options = parser.parse_args(argv)
    tensors = require("safetensors.numpy", extra="train")
    weights = tensors.load_file(options.bundle / "checkpoint" / "model.safetensors")
    reader = NullReader(options.bundle, weights[_NORM].astype(np.float32))
    store = ImageStore([options.data / "images"])
    for records in tqdm(training_pictures(options.data)[:PICTURES], disable=None):
        reader.read(store.read(records[0].image_key), records)
    reader.arrays().save(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
