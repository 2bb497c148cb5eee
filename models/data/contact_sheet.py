"""Draws contact sheets: random regions on their images, with outline and texts."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Rle
from ureca.errors import RegionError, SourceError
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.data.text_augmentation import make_class_phrase
from ureca.protocol import rle

U8 = npt.NDArray[np.uint8]

_PICTURE = (320, 240)  # width and height of a cell's picture, px
_LINES, _LINE_PX, _CHARACTERS = 5, 15, 52
_COLUMNS, _ROWS = 5, 4
_INK, _PAPER = (30, 30, 30), 255
_OUTLINE, _HALO = (255, 40, 40), (255, 255, 255)


def choose_regions(records: Sequence[RegionRecord], number: int, seed: int) -> list[RegionRecord]:
    """Choose `number` random regions in turn from every kind of source and mask."""
    groups: dict[tuple[str, str], list[RegionRecord]] = defaultdict(list)
    for record in records:
        groups[record.shard.split("-")[0] or record.source, record.mask_source[:9]].append(record)
    rng = np.random.default_rng(seed)
    drawn = (
        [group[i] for i in rng.permutation(len(group))[:number]]
        for _, group in sorted(groups.items())
    )
    in_turn = (record for turn in zip_longest(*drawn) for record in turn if record is not None)
    return list(islice(in_turn, number))


def write_sheets(
    records: Sequence[RegionRecord], store: ImageStore, folder: Path
) -> Iterator[Path]:
    """Write PNG pages `sheet-<n>.png` of the given regions.

    Regions whose picture or mask cannot be decoded get a grey cell. Raises `SourceError` when a
    page cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = _COLUMNS * _ROWS
    for page, start in enumerate(range(0, len(records), size)):
        cells = [_make_cell(record, store) for record in records[start : start + size]]
        path = folder / f"sheet-{page:02d}.png"
        if not cv2.imwrite(str(path), cv2.cvtColor(_make_page(cells), cv2.COLOR_RGB2BGR)):
            raise SourceError(f"cannot write {path}")
        yield path


def _make_page(cells: Sequence[U8]) -> U8:
    blank = np.full_like(cells[0], _PAPER)
    full = [*cells, *[blank] * (-len(cells) % _COLUMNS)]
    rows = [np.hstack(full[i : i + _COLUMNS]) for i in range(0, len(full), _COLUMNS)]
    return np.asarray(np.vstack(rows), np.uint8)


def _make_cell(record: RegionRecord, store: ImageStore) -> U8:
    width, height = _PICTURE
    cell = np.full((height + _LINES * _LINE_PX + 10, width + 8, 3), _PAPER, np.uint8)
    try:
        picture = _draw_region(store.read(record.image_key), record)
    except (SourceError, RegionError):
        picture = np.full((height, width, 3), 128, np.uint8)
    cell[4 : 4 + picture.shape[0], 4 : 4 + picture.shape[1]] = picture
    for number, text in enumerate(islice(_format_words(record), _LINES)):
        at = (4, height + (number + 1) * _LINE_PX + 2)
        cv2.putText(cell, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, _INK, 1, cv2.LINE_AA)
    return cell


def _draw_region(image: U8, record: RegionRecord) -> U8:
    """Draw the image as large as fits, with the region's outline and the rest slightly darker."""
    mask = rle.decode(Rle(size=(record.height, record.width), counts=record.counts))
    scale = min(_PICTURE[0] / image.shape[1], _PICTURE[1] / image.shape[0])
    size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    picture = np.where(small[..., None] > 0, picture, picture // 4 * 3).astype(np.uint8)
    found = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    for colour, thickness in ((_HALO, 3), (_OUTLINE, 1)):
        cv2.drawContours(picture, found, -1, colour, thickness)
    return picture


def _format_words(record: RegionRecord) -> Iterable[str]:
    """Return lines of text under an image: source, short texts, long texts."""
    flags = [name for name in ("part", "stuff", "group") if getattr(record, name)]
    head = [record.shard.split("-")[0] or record.source, record.mask_source[:14], *flags]
    texts = [" / ".join(record.short), *record.long]
    if not any(texts):
        texts = [f"(class: {make_class_phrase(record.category, record.source) or record.category})"]
    yield "  ".join(head)
    for text in filter(None, texts):
        yield from textwrap.wrap(text, _CHARACTERS)
