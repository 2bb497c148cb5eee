"""The common part of all formats: images and regions of a reader, limits, and the conversion to our
records.

A reader only returns the content of its files. This module finds the images, compares sizes, checks
masks and texts; invalid ones are left out and counted by reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from ureca.datatypes import Rle
from ureca.errors import ConfigError, RegionError, SourceError, WireError
from ureca.models.data.check import compute_tight_box
from ureca.models.data.images import ImageRecord
from ureca.models.data.queries import QueryKind, QueryRecord
from ureca.models.data.regions import RegionRecord
from ureca.models.data.shards import NAME, ShardSample, find_suffix
from ureca.protocol import rle
from ureca.protocol.image_header import measure, measure_head

MAX_FILE_BYTES = 2 << 30
"""Of an annotation file; the largest that is read, Visual Genome's, has 0.7 GB."""
MAX_PICTURE_BYTES = 64 << 20
MAX_TEXT_CHARS = 2000
SHORT_WORDS = 5
"""Texts of up to so many words are phrases (`short`), longer ones `long`."""
_COCO_FILE = re.compile(r"(?:COCO_\w+?_)?(\d{12})\.jpg")

T = TypeVar("T")


class Rejected(Exception):  # noqa: N818  (it is counted, not raised to the user)
    """An image or region that is left out, and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRegion:
    """One region in a format's terms."""

    region_id: str
    draw: Callable[[int, int], Rle]
    """Its mask for a picture of that height and width; raises `RegionError`."""
    mask_source: str
    texts: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    """Texts that are long whatever their length."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Texts about one attribute each."""
    category: str = ""
    types: tuple[str, ...] = ()
    part: bool = False
    stuff: bool = False
    group: bool = False
    expr_source: str = "human_phrase"


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """One text and the `region_id`s that it means, as a format has them; none: not there."""

    text: str
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One image in a format's terms; `size` is width, height if the format has it."""

    key: str
    file: str
    regions: Sequence[SourceRegion]
    folder: Path | None = None
    """Where the file lies, if that is not in the folders that were given."""
    size: tuple[int, int] | None = None
    split: str = ""
    license: str = ""
    photo_id: str = ""
    captions: tuple[str, ...] = ()
    queries: Sequence[SourceQuery] = ()


@dataclass(frozen=True, kw_only=True)
class ImportJob:
    """One import: its options, and the regions left out so far."""

    name: str
    pictures: tuple[Path, ...] = ()
    split: str = ""
    license: str = ""
    rejected: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str, count: int = 1) -> None:
        """Count regions that are left out."""
        self.rejected[reason] += count

    def parse_rows(self, rows: Iterable[msgspec.Raw], kind: type[T]) -> Iterator[T]:
        """Return rows of JSON as `kind`; invalid ones are counted."""
        for row in rows:
            try:
                yield msgspec.json.decode(row, type=kind)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # noqa: PERF203
                self.reject("malformed")


def load_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as `kind`. Raises `SourceError` if it is too large or of another form."""
    data = read_file(path, MAX_FILE_BYTES)
    if data[:1] == b"\x80" or path.suffix in {".p", ".pkl", ".pickle"}:
        raise SourceError(
            f"{path} is a pickle, which runs code when it is read: convert it to JSON where you "
            "trust it (docs/data.md, RefCOCO)"
        )
    return parse_json(path, data, kind)


def parse_json(path: Path, data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Parse a part of a JSON file as `kind`. Raises `SourceError` if it is of another form."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is not of this format: {error}") from error


def is_list(content: msgspec.Raw) -> bool:
    """Whether a piece of JSON is a list."""
    return bytes(memoryview(content)[:1]) == b"["


def read_file(path: Path, most: int) -> bytes:
    """Read a file. Raises `SourceError` if it is larger than `most`, or unreadable."""
    try:
        size = path.stat().st_size
        if size > most:
            raise SourceError(f"{path} has {size} bytes, at most {most} are read")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from error


def join_inside(folder: Path, name: str) -> Path:
    """Join `name` to `folder`. Raises `Rejected` for a name that would leave it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Rejected("bad picture name")
    return folder / path


def make_picture_key(name: str, file: str) -> str:
    """Return an image's key. COCO's images have one key in all of its data sets."""
    coco = _COCO_FILE.fullmatch(PurePosixPath(file).name)
    if coco:
        return f"mscoco_{coco[1]}"
    return re.sub(r"[^\w+-]", "_", f"{name}_{PurePosixPath(file).stem}", flags=re.ASCII)


def make_samples(found: Iterable[SourcePicture], job: ImportJob) -> Iterator[ShardSample]:
    """Yield every usable image with its usable regions. Raises `ConfigError` if the files do not
    have the split `job.split`.
    """
    others: set[str] = set()
    kept = 0
    for picture in found:
        split = picture.split or job.split or "train"
        if job.split not in {"", split}:
            others.add(split)
            continue
        kept += 1
        if not picture.regions:
            continue
        try:
            sample = _make_sample(picture, split, job)
        except Rejected as reason:
            job.reject(str(reason), max(1, len(picture.regions)))
            continue
        if sample.regions:
            yield sample
    if others and not kept:
        raise ConfigError(f"no picture of split {job.split!r}: the files have {sorted(others)}")


def _make_sample(picture: SourcePicture, split: str, job: ImportJob) -> ShardSample:
    if not NAME.fullmatch(split) or not NAME.fullmatch(picture.key):
        raise Rejected("bad picture name")
    encoded = _read_encoded(picture.file, (picture.folder,) if picture.folder else job.pictures)
    size = read_size(encoded)
    if picture.size not in {None, size}:
        raise Rejected("wrong picture size")
    license_ = picture.license or job.license
    image = ImageRecord(
        image_key=picture.key,
        shard="",
        source=job.name,
        width=size[0],
        height=size[1],
        photo_id=picture.photo_id,
        captions=tuple(filter(None, map(clean_text, picture.captions))),
        split=split,
        license=license_,
    )
    records = tuple(_make_records(picture.regions, image, job))
    return ShardSample(
        image, encoded, records, tuple(_make_queries(picture.queries, image, records, job))
    )


def _make_queries(
    found: Sequence[SourceQuery],
    image: ImageRecord,
    records: Sequence[RegionRecord],
    job: ImportJob,
) -> Iterator[QueryRecord]:
    kept = {record.region_id for record in records}
    parts = {record.region_id for record in records if record.part}
    for number, query in enumerate(found):
        targets = tuple(f"{job.name}_{region}" for region in query.regions)
        if not clean_text(query.text):
            continue
        if not kept.issuperset(targets):
            job.reject("text without its region")
            continue
        yield QueryRecord(
            query_id=f"{job.name}_{image.image_key}_{image.split}_q{number}",
            image_key=image.image_key,
            text=clean_text(query.text),
            targets=targets,
            kind=_find_kind(targets, parts),
            split=image.split,
        )


def _find_kind(targets: Sequence[str], parts: set[str]) -> QueryKind:
    if len(targets) != 1:
        return "several" if targets else "none"
    return "part" if targets[0] in parts else "thing"


def _read_encoded(name: str, folders: Sequence[Path]) -> bytes:
    """Return the image's bytes; COCO's are also found under the name of another release."""
    for folder in folders:
        path = join_inside(folder, name)
        bare = path.with_name(re.sub(r"^COCO_\w+?_(?=\d{12}\.jpg$)", "", path.name))
        for place in (path, bare):
            if place.is_file():
                try:
                    return read_file(place, MAX_PICTURE_BYTES)
                except SourceError:
                    raise Rejected("broken picture") from None
    raise Rejected("no such picture")


def read_size(encoded: bytes) -> tuple[int, int]:
    """Return width and height of an image. Raises `Rejected` if it is invalid or too large."""
    try:
        find_suffix(encoded)
        head = measure_head(encoded)
        if head.width * head.height > rle.MAX_PIXELS:
            raise Rejected("picture too large")
        facts = measure(encoded)
    except (SourceError, WireError):
        raise Rejected("broken picture") from None
    if not facts.width * facts.height:
        raise Rejected("broken picture")
    return facts.width, facts.height


def _make_records(
    found: Iterable[SourceRegion], image: ImageRecord, job: ImportJob
) -> Iterator[RegionRecord]:
    ids: set[str] = set()
    for region in found:
        try:
            record = _make_record(region, image, job)
        except Rejected as reason:
            job.reject(str(reason))
            continue
        if record.region_id in ids:
            job.reject("duplicate region")
        else:
            ids.add(record.region_id)
            yield record


def _make_record(region: SourceRegion, image: ImageRecord, job: ImportJob) -> RegionRecord:
    texts = list(filter(None, map(clean_text, region.texts)))
    long = list(filter(None, map(clean_text, region.long)))
    told = {name: _clean_texts(texts) for name, texts in region.attributes.items()}
    attributes = tuple((name, texts) for name, texts in told.items() if texts)
    if not (texts or long or attributes or region.category):
        raise Rejected("nothing said")
    try:
        code = region.draw(image.height, image.width)
        box = compute_tight_box(rle.check(code), image.height)
    except RegionError:
        raise Rejected("bad mask") from None
    if box is None:
        raise Rejected("empty mask")
    long = [*(text for text in texts if len(text.split()) > SHORT_WORDS), *long]
    return RegionRecord(
        region_id=f"{job.name}_{region.region_id}",
        image_key=image.image_key,
        shard="",
        source=job.name,
        height=image.height,
        width=image.width,
        counts=code.counts,
        box_xywh_px=(box[0], box[1], box[2] - box[0], box[3] - box[1]),
        mask_source=region.mask_source,
        category=region.category,
        short=tuple(dict.fromkeys(t for t in texts if len(t.split()) <= SHORT_WORDS)),
        long=tuple(dict.fromkeys(long)),
        attributes=attributes,
        types=region.types,
        part=region.part,
        stuff=region.stuff,
        group=region.group,
        expr_source=region.expr_source if texts or long or attributes else "none",
        split=image.split,
        license=image.license,
    )


def _clean_texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean_text, texts))))


def clean_text(text: str) -> str:
    """Return a text on one line without control characters; empty if it is too long for a
    caption.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_TEXT_CHARS else ""
