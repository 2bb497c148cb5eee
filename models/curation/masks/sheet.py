"""A contact sheet of kept outlines, drawn by hash, to look at before training."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Rle
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key
from ureca.protocol import rle

_TILE_PX, _COLUMNS = 200, 10
U8 = npt.NDArray[np.uint8]


def write_sheet(out: Path, images: ImageStore, count: int) -> Path:
    """`sheet.png` of `count` regions of `out/pictures.jsonl`, one a picture at most."""
    rows = [json.loads(line) for line in (out / "pictures.jsonl").read_text("utf8").splitlines()]
    kept = [RegionRecord.from_json(r) for row in rows for r in row["regions"]]
    kept.sort(key=lambda record: hash_image_key(record.region_id))
    one_each = list({record.image_key: record for record in reversed(kept)}.values())[::-1]
    tiles = [_draw_tile(record, images) for record in one_each[:count]]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    lines = [np.hstack(tiles[n : n + _COLUMNS]) for n in range(0, len(tiles), _COLUMNS)]
    path = out / "sheet.png"
    cv2.imwrite(str(path), np.vstack(lines)[..., ::-1])
    return path


def _draw_tile(record: RegionRecord, images: ImageStore) -> U8:
    image = images.read(record.image_key)
    mask = rle.decode(Rle(size=(record.height, record.width), counts=record.counts))
    shown = np.where(mask[..., None], image, image // 4)
    edges = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    shown[edges > 0] = (255, 230, 0)
    scale = (_TILE_PX - 22) / max(image.shape[:2])
    small = cv2.resize(
        shown.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )
    tile = np.zeros((_TILE_PX, _TILE_PX, 3), np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    maker = record.mask_source.removeprefix("teacher:")
    text = f"{record.category[:12]} {maker[:18]} {record.mask_score:.2f}"
    cv2.putText(tile, text, (2, _TILE_PX - 8), cv2.FONT_HERSHEY_PLAIN, 0.75, (255, 255, 255), 1)
    return tile
