"""WebDataset shards of `ureca data shards`: a picture and a JSON of its regions a sample."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ureca.errors import SourceError
from ureca.models.data.check import check_record
from ureca.models.data.images import ImageRecord
from ureca.models.data.queries import QueryRecord
from ureca.models.data.readers.core import MAX_PICTURE_BYTES, ImportJob, Rejected, read_size
from ureca.models.data.regions import RegionRecord
from ureca.models.data.shards import NAME, ShardSample, read_samples


def read_webdataset(paths: Sequence[Path], job: ImportJob) -> Iterator[ShardSample]:
    """The samples of shards, or of all shards in folders. Raises `SourceError` where there is none.

    Records come back as they were packed; regions with a fault (`ureca data check`) are left out.
    """
    shards = [
        p for path in paths for p in (sorted(path.rglob("*.tar")) if path.is_dir() else [path])
    ]
    if not shards:
        raise SourceError(f"no *.tar under {', '.join(map(str, paths))}")
    for shard in shards:
        for _, encoded, text in read_samples(shard, max_bytes=MAX_PICTURE_BYTES):
            try:
                sample = _make_sample(encoded, text, job)
            except Rejected as reason:
                job.reject(str(reason))
                continue
            if sample.regions and job.split in {"", sample.image.split}:
                yield sample


def _make_sample(encoded: bytes, text: bytes, job: ImportJob) -> ShardSample:
    if not encoded or not text:
        raise Rejected("sample without picture or json")
    size = read_size(encoded)
    try:
        row = json.loads(text)
        image = ImageRecord.from_json(row["image"])
        rows = list(row["regions"])
        queries = tuple(map(QueryRecord.from_json, row.get("queries") or ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SourceError):
        raise Rejected("malformed") from None
    if not NAME.fullmatch(image.image_key) or not NAME.fullmatch(image.split or "train"):
        raise Rejected("bad picture name")
    if (image.width, image.height) != size:
        raise Rejected("wrong picture size")
    regions = tuple(_make_regions(rows, image, job))
    kept = {region.region_id for region in regions}
    asked = [query for query in queries if kept.issuperset(query.targets)]
    job.reject("text without its region", len(queries) - len(asked))
    return ShardSample(image, encoded, regions, tuple(asked))


def _make_regions(
    rows: Sequence[object], image: ImageRecord, job: ImportJob
) -> Iterator[RegionRecord]:
    for row in rows:
        try:
            record = RegionRecord.from_json(row)
        except SourceError:
            job.reject("malformed")
            continue
        faults = [finding.kind for finding in check_record(record) if finding.is_fault]
        if (record.width, record.height, record.image_key) != (
            *(image.width, image.height),
            image.image_key,
        ):
            faults.append("wrong picture size")
        if faults:
            job.reject(faults[0])
        else:
            yield record
