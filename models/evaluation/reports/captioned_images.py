"""`ureca caption --render`: draws each image with the captions of its regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ureca.datatypes import Rle
from ureca.errors import ConfigError, UrecaError
from ureca.extras import require
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.evaluation.caption import Captioned, FailedCaption
from ureca.protocol import rle
from ureca.visualization.files import save
from ureca.visualization.text import EXTRA


def render_captions(
    results: Iterable[Captioned | FailedCaption],
    records: Sequence[RegionRecord],
    store: ImageStore,
    folder: Path,
) -> Iterator[Captioned | FailedCaption]:
    """Pass the results on, and write each image after its last region.

    Raises `MissingExtraError` without the `render` extra, `ConfigError` for a folder that cannot
    be made.
    """
    require("PIL.ImageFont", extra=EXTRA)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write pictures to {folder}: {error.strerror}") from error
    by_id = {record.region_id: record for record in records}
    said: list[tuple[RegionRecord, str]] = []
    for result in results:
        record = by_id[result.region_id]
        if said and said[0][0].image_key != record.image_key:
            _write(said, store, folder)
            said = []
        if isinstance(result, Captioned):
            said.append((record, result.caption))
        yield result
    if said:
        _write(said, store, folder)


def _write(said: Sequence[tuple[RegionRecord, str]], store: ImageStore, folder: Path) -> None:
    key = said[0][0].image_key
    try:
        image = store.read(key)
    except UrecaError:  # reported already as the failure of its regions
        return
    masks = [rle.decode(Rle((r.height, r.width), r.counts)) for r, _ in said]
    name = re.sub(r"[^\w.-]+", "_", key)
    save(folder / f"{name}.png", image, masks, [text for _, text in said])
