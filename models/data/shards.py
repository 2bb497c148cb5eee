"""Writes a data folder image by image: tar shards, regions and images, complete or not at all.

With `webdataset` every image in a shard is followed by `<image_key>.json`, its record and those of
its regions: the shards are WebDataset shards as well, and the folder is still a data folder.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ureca.errors import ConfigError, SourceError
from ureca.models.data.images import ImageRecord
from ureca.models.data.queries import QueryRecord
from ureca.models.data.regions import RegionRecord

SHARD_BYTES = 1 << 30
NAME = re.compile(r"[\w+-]{1,90}", re.ASCII)
"""Of pictures, splits and sources: they become file names, and WebDataset ends a key at a dot."""
_SUFFIXES = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


@dataclass(frozen=True, slots=True)
class ShardSample:
    """One image: its record, its encoded file, its regions, and texts about it."""

    image: ImageRecord
    encoded: bytes
    regions: tuple[RegionRecord, ...]
    queries: tuple[QueryRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:  # JSON
        """What stands beside the picture in a WebDataset shard."""
        regions = [region.to_json() for region in self.regions]
        queries = [query.to_json() for query in self.queries]
        found = {"image": self.image.to_json(), "regions": regions}
        return {**found, "queries": queries} if queries else found


class FolderWriter:
    """A data folder in the making; it gets its name when the `with` block ends without an error.

    Records without a `shard` get the name of the one that they are in. Raises `ConfigError` when
    `out` is there already, `SourceError` when it cannot be written.
    """

    def __init__(
        self, out: Path, *, name: str, shard_bytes: int = SHARD_BYTES, webdataset: bool = False
    ) -> None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is there already: choose another name or delete it")
        self._out, self._name = out, name
        self._shard_bytes, self._webdataset = shard_bytes, webdataset
        self._splits: dict[str, _Split] = {}
        self._stack = ExitStack()
        self.counts: Counter[str] = Counter({"pictures": 0, "regions": 0})

    def __enter__(self) -> FolderWriter:
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            place = tempfile.mkdtemp(prefix=f".{self._out.name}.part-", dir=self._out.parent)
        except OSError as error:
            raise SourceError(f"cannot write {self._out}: {error}") from error
        self._draft = Path(place)
        self._draft.chmod(0o755)
        (self._draft / "images").mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
            if kind is None:
                self._draft.rename(self._out)
        except OSError as failure:
            raise SourceError(f"cannot write {self._out}: {failure}") from failure
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)

    def add(self, sample: ShardSample) -> None:
        """Append an image with its regions."""
        key, split = sample.image.image_key, sample.image.split or "train"
        if not NAME.fullmatch(key) or not NAME.fullmatch(split):
            raise SourceError(
                f"picture {key!r} of split {split!r}: expected names of up to 90 letters, digits, "
                "'_', '-' and '+'"
            )
        if split not in self._splits:
            opened = _Split(self._draft, f"{self._name}-{split}", split, self._shard_bytes)
            self._splits[split] = self._stack.enter_context(opened)
        try:
            self._splits[split].add(sample, webdataset=self._webdataset)
        except OSError as error:
            raise SourceError(f"cannot write {self._out}: {error}; make room") from error
        self.counts.update(pictures=1, regions=len(sample.regions))
        if sample.queries:
            self.counts.update(queries=len(sample.queries))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file beside the data."""
        (self._draft / name).write_text(json.dumps(content, indent=1) + "\n", "utf8")

    def copy_file(self, path: Path) -> None:
        """Copy a file of the source folder."""
        shutil.copyfile(path, self._draft / path.name)


class _Split:
    """The open files of one split."""

    def __init__(self, folder: Path, name: str, split: str, shard_bytes: int) -> None:
        self._folder, self._name, self._split, self._shard_bytes = folder, name, split, shard_bytes
        self._number, self._filled = -1, 0
        self._tar: tarfile.TarFile | None = None
        self._queries: _Lines | None = None

    def __enter__(self) -> _Split:
        self._regions = _Lines(self._folder / f"regions-{self._split}.jsonl.gz")
        self._images = _Lines(self._folder / f"images-{self._split}.jsonl.gz")
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._tar, self._regions, self._images, self._queries):
            if file is not None:
                file.close()

    def add(self, sample: ShardSample, *, webdataset: bool) -> None:
        if self._tar is None or self._filled >= self._shard_bytes:
            self._tar = self._next_shard(self._tar)
        tar, shard = self._tar, self._shard
        image = replace(sample.image, shard=sample.image.shard or shard)
        regions = tuple(replace(r, shard=r.shard or shard) for r in sample.regions)
        sample = replace(sample, image=image, regions=regions)
        self._put(tar, f"{image.image_key}.{find_suffix(sample.encoded)}", sample.encoded)
        if webdataset:
            self._put(tar, f"{image.image_key}.json", _encode_json(sample.to_json()))
        self._images.write(_encode_json(image.to_json()) + b"\n")
        for region in regions:
            self._regions.write(_encode_json(region.to_json()) + b"\n")
        for query in sample.queries:
            self._queries = self._queries or _Lines(
                self._folder / f"queries-{self._split}.jsonl.gz"
            )
            self._queries.write(_encode_json(query.to_json()) + b"\n")

    @property
    def _shard(self) -> str:
        return f"{self._name}-{self._number:03d}.tar"

    def _next_shard(self, last: tarfile.TarFile | None) -> tarfile.TarFile:
        if last is not None:
            last.close()
        self._number, self._filled = self._number + 1, 0
        path = self._folder / "images" / self._shard
        return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)

    def _put(self, tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        self._filled += len(data)


def find_suffix(encoded: bytes) -> str:
    """Return `jpg`, `png` or `webp` from an image's first bytes. Raises `SourceError` for
    others.
    """
    for start, suffix in _SUFFIXES:
        if encoded.startswith(start):
            return suffix
    raise SourceError(f"expected a JPEG, PNG or WebP, got bytes that start with {encoded[:8]!r}")


def read_samples(tar_path: Path, *, max_bytes: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield key, image and JSON of every WebDataset sample of a shard, in its order.

    Members of one sample stand next to each other; samples without a picture or without JSON, and
    those with a member over `max_bytes`, come with empty bytes instead. Raises `SourceError` for
    what is no tar.
    """
    parts: dict[str, bytes] = {}
    key = ""
    try:
        with tarfile.open(tar_path) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, suffix = Path(member.name).name.partition(".")
                if stem != key and parts:
                    yield key, *_split_parts(parts)
                    parts = {}
                key = stem
                file = tar.extractfile(member) if member.size <= max_bytes else None
                parts[suffix.lower()] = file.read() if file else b""
        if parts:
            yield key, *_split_parts(parts)
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"cannot read shard {tar_path}: {error}") from error


def _split_parts(parts: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    pictures = [parts[suffix] for suffix in ("jpg", "jpeg", "png", "webp") if suffix in parts]
    return next(iter(pictures), b""), parts.get("json", b"")


class _Lines(gzip.GzipFile):
    """A gzip file that closes the file below it. No name and no time stand in it."""

    def __init__(self, path: Path) -> None:
        self._below = path.open("wb")
        super().__init__(filename="", mode="wb", fileobj=self._below, mtime=0)

    def close(self) -> None:
        super().close()
        self._below.close()


def _encode_json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def group_by_picture(records: Iterable[RegionRecord]) -> dict[str, list[RegionRecord]]:
    """Group records by their image's key, in their order."""
    found: dict[str, list[RegionRecord]] = {}
    for record in records:
        found.setdefault(record.image_key, []).append(record)
    return found
