"""Stores shards of rendered scenes: images in a tar, records beside it, one joint index.

Layout of a folder: `images/<shard>.tar`, with `--pan` also `pan/<shard>.tar` (id maps of the same
images), `shards/<shard>.json.gz` (the shard's records, which make a run resumable) and the joint
`images-<split>.jsonl.gz`, `regions-<split>.jsonl.gz` and `scenes-<split>.jsonl.gz` (the truth
for the judge of captions). Every file is written under another name first and then moved
into place.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PAN = "pan"
"""Folder of the id maps, beside `images`."""


@dataclass
class Rendered:
    """One finished scene: encoded pictures by member name, and the records."""

    scene: int
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    regions: list[Row] = field(default_factory=list)
    truth: list[Row] = field(default_factory=list)
    maps: list[tuple[str, bytes]] = field(default_factory=list)
    """PNG id maps by member name: what lies at every pixel (`rendering/id_maps.py`)."""


@dataclass(frozen=True)
class Totals:
    """What a folder holds of one split."""

    shards: int
    images: int
    regions: int


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _make_tar(pictures: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in pictures:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _encode_lines(rows: Iterable[Row]) -> bytes:
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    return gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)


def _make_records_path(root: Path, shard: str) -> Path:
    return root / "shards" / f"{shard}.json.gz"


def read_lines(path: Path) -> list[Row]:
    """Rows of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_shard(root: Path, shard: str, scenes: Iterable[Rendered]) -> None:
    """Write a shard's tar and then its records; only the records make it count as done."""
    ordered = sorted(scenes, key=lambda one: one.scene)
    pictures = [picture for one in ordered for picture in one.pictures]
    _write_atomically(root / "images" / f"{shard}.tar", _make_tar(pictures))
    maps = [one for scene in ordered for one in scene.maps]
    if maps:
        _write_atomically(root / PAN / f"{shard}.tar", _make_tar(maps))
    records = {
        "scenes": [one.scene for one in ordered],
        "images": [row for one in ordered for row in one.images],
        "regions": [row for one in ordered for row in one.regions],
        "truth": [row for one in ordered for row in one.truth],
    }
    data = gzip.compress(json.dumps(records, separators=(",", ":")).encode(), 6, mtime=0)
    _write_atomically(_make_records_path(root, shard), data)


def list_finished_scenes(root: Path, shard: str, *, pan: bool = False) -> list[int]:
    """Scene numbers a shard already holds; empty if it is missing or half written. `pan`: its id
    maps must be there, too.
    """
    path = _make_records_path(root, shard)
    folders = ("images", PAN) if pan else ("images",)
    if not path.exists() or not all((root / each / f"{shard}.tar").exists() for each in folders):
        return []
    return [int(scene) for scene in json.loads(gzip.decompress(path.read_bytes()))["scenes"]]


def write_index(root: Path, prefix: str, split: str) -> Totals:
    """Join the records of all shards of a split into the three index files."""
    paths = sorted((root / "shards").glob(f"{prefix}-[0-9]*.json.gz"))
    images: list[Row] = []
    regions: list[Row] = []
    truth: list[Row] = []
    for path in paths:
        records = json.loads(gzip.decompress(path.read_bytes()))
        images += records["images"]
        regions += records["regions"]
        truth += records["truth"]
    _write_atomically(root / f"scenes-{split}.jsonl.gz", _encode_lines(truth))
    _write_atomically(root / f"regions-{split}.jsonl.gz", _encode_lines(regions))
    _write_atomically(root / f"images-{split}.jsonl.gz", _encode_lines(images))
    return Totals(len(paths), len(images), len(regions))
