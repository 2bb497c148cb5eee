"""Whole pictures of data folders in our common format, and the order in which a stage sees them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ureca.datatypes import Image, Mask, Rle
from ureca.errors import ConfigError, SourceError
from ureca.models.data.queries import QueryRecord, query_files, read_queries
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.mllm.staged.config import StageConfig
from ureca.models.training.loop import Plan
from ureca.protocol import rle


@dataclass(frozen=True)
class PictureRows:
    """All regions of one picture, and the texts that are asked about it, if its folder has any."""

    image_key: str
    regions: tuple[RegionRecord, ...]
    queries: tuple[QueryRecord, ...] = ()
    share: float = 1.0
    """How often one epoch visits it."""

    def make_seed(self, seed: int, step: int) -> int:
        """Return the seed of everything random about this picture in one step."""
        return zlib.crc32(f"{seed}/{step}/{self.image_key}".encode())


class PicturePlan(Plan[PictureRows]):
    """Makes epochs of pictures."""

    def __init__(self, pictures: Sequence[PictureRows], config: StageConfig) -> None:
        self._pictures, self._config = pictures, config

    def epoch(self, epoch: int) -> list[list[PictureRows]]:
        """Return the batches of one epoch. Pictures that fill no batch wait for another epoch."""
        draw = random.Random(f"{self._config.seed}/{epoch}")
        found = [
            picture
            for picture in self._pictures
            for _ in range(int(picture.share) + (draw.random() < picture.share % 1))
        ]
        draw.shuffle(found)
        size = self._config.pictures_per_step
        while found and len(found) < size:
            found += found[: size - len(found)]
        return [found[at : at + size] for at in range(0, len(found) - size + 1, size)]


def load_pictures(
    config: StageConfig, *, is_wanted: Callable[[PictureRows], bool]
) -> list[PictureRows]:
    """Read all pictures of the data that are not held out and that `is_wanted` accepts.

    Raises `ConfigError` for a folder without any.
    """
    found: list[PictureRows] = []
    for source in config.data:
        rows = list(_read_folder(Path(source.root), source.shards, source.share, config))
        kept = [picture for picture in rows if is_wanted(picture)]
        if not kept:
            raise ConfigError(
                f"data root {source.root!r}: none of its {len(rows)} pictures has what this stage "
                "learns from (regions-*.jsonl[.gz], docs/data.md)"
            )
        found += kept
    return found


def _read_folder(
    root: Path, shards: tuple[str, ...], share: float, config: StageConfig
) -> Iterator[PictureRows]:
    regions: dict[str, list[RegionRecord]] = {}
    for path in sorted(root.glob("regions-*.jsonl*")):
        for record in read_regions(path):
            if _is_free(record, shards, config.held_out_every):
                regions.setdefault(record.image_key, []).append(record)
    queries: dict[str, list[QueryRecord]] = {}
    for path in query_files(root):
        for query in read_queries(path):
            queries.setdefault(query.image_key, []).append(query)
    for key, rows in regions.items():
        yield PictureRows(key, tuple(rows), tuple(queries.get(key, ())), share)


def _is_free(record: RegionRecord, shards: tuple[str, ...], every: int) -> bool:
    in_shard = not shards or record.shard.startswith(shards)
    held = bool(every) and record.is_held_out(every)
    return in_shard and record.for_training and not held and record.mask_source != "full_image"


def read_picture(rows: PictureRows, images: ImageStore) -> tuple[Image, list[Mask]]:
    """Read the picture u8 [H, W, 3] and the masks bool [H, W] of its regions. Raises `SourceError`
    when they do not fit.
    """
    image = images.read(rows.image_key)
    masks = [_decode(record) for record in rows.regions]
    for record, mask in zip(rows.regions, masks, strict=True):
        if mask.shape != image.shape[:2]:
            raise SourceError(
                f"region {record.region_id!r}: the picture is {list(image.shape[:2])}, its mask "
                f"{list(mask.shape)}: expected one size"
            )
    return image, masks


def _decode(record: RegionRecord) -> Mask:
    return np.asarray(rle.decode(Rle((record.height, record.width), record.counts)), np.bool_)
