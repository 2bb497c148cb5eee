"""Region tokens of a bundle, computed once and kept in files, so that a fit can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.datatypes import Mask, RegionInput, Rle
from ureca.engine import Engine
from ureca.errors import BundleError
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.evaluation.attributes.cases import AttributeCase, group_cases
from ureca.models.runtime.batch_engine import BatchEngine
from ureca.protocol import rle

F16 = npt.NDArray[np.float16]
_CHUNK: Final = 250
"""Pictures of one file."""
_MOST_REGIONS: Final = 32


def decode_mask(record: RegionRecord) -> Mask:
    """The mask of a record, bool [H, W]."""
    return rle.decode(Rle((record.height, record.width), record.counts))


def keep_tokens(
    engine: Engine, root: Path, cases: Sequence[AttributeCase], cache: Path, *, pictures: int
) -> None:
    """Write the tokens of the first `pictures` of a folder to `cache`; finished ones are kept."""
    if not isinstance(engine, BatchEngine):
        raise BundleError("attributes are fitted on the region tokens of an exported bundle")
    cache.mkdir(parents=True, exist_ok=True)
    known = load_tokens(cache)
    store = ImageStore([root / "images"])
    todo = [
        group[:_MOST_REGIONS]
        for key, group in list(group_cases(cases).items())[:pictures]
        if key in store and not any(case.record.region_id in known for case in group)
    ]
    first = len(list(cache.glob("*.npz")))
    for number, start in enumerate(tqdm(range(0, len(todo), _CHUNK), unit="chunk")):
        found = [_read(engine, store, group) for group in todo[start : start + _CHUNK]]
        ids = [name for names, _ in found for name in names]
        tokens = np.concatenate([rows for _, rows in found])
        draft = cache / f".{root.name}.part.npz"
        np.savez(draft, ids=np.array(ids), tokens=tokens)
        draft.replace(cache / f"{root.name}-{first + number:03d}.npz")


def load_tokens(cache: Path) -> Mapping[str, F16]:
    """Tokens f16 [K, d] by region."""
    found: dict[str, F16] = {}
    for path in sorted(cache.glob("[!.]*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found |= dict(zip(file["ids"].tolist(), file["tokens"], strict=True))
    return found


def _read(
    engine: BatchEngine[Any, Any], store: ImageStore, group: Sequence[AttributeCase]
) -> tuple[list[str], F16]:
    image = store.read(group[0].record.image_key)
    masks = [(case.record.region_id, decode_mask(case.record)) for case in group]
    kept = [(name, m) for name, m in masks if m.any() and m.shape == image.shape[:2]]
    if not kept:
        return [], np.empty((0, 0, 0), np.float16)
    regions = [RegionInput(mask) for _, mask in kept]
    tokens = engine.read_tokens(engine.encode(image), regions)
    return [name for name, _ in kept], tokens.astype(np.float16)
