"""`ureca data import` converts another data set to our format; `ureca data shards` writes
shards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ureca.errors import ConfigError
from ureca.models.data.folders import read_folders
from ureca.models.data.images import ImageRecord
from ureca.models.data.queries import QueryRecord, query_files, read_queries
from ureca.models.data.readers.core import ImportJob
from ureca.models.data.readers.formats import FORMATS
from ureca.models.data.regions import ImageStore
from ureca.models.data.shards import (
    NAME,
    SHARD_BYTES,
    FolderWriter,
    ShardSample,
    group_by_picture,
)

NOTE = "import.json"
_IMPORT_EPILOG = """formats and their files:
{formats}

examples:
  ureca data import coco instances_val2017.json captions_val2017.json --pictures val2017 \\
      --split val -o data/coco
  ureca data import refcoco 'refs(umd).json' instances.json --pictures train2014 \\
      --name refcocog -o data/refcocog
  ureca data import grefcoco 'grefs(unc).json' instances.json --pictures train2014 \\
      --split val -o data/grefcoco
  ureca data import vg region_descriptions.json image_data.json \\
      --pictures VG_100K VG_100K_2 -o data/vg
  ureca data import ureca train.jsonl SA1B_FOLDER -o data/ureca

The folder appears when everything is in it; a run that is stopped leaves none. What is left out is
counted by its reason, on the terminal and in import.json. Exit status 2: nothing could be kept."""
_SHARDS_EPILOG = """examples:
  ureca data shards ../shared/data -o shards
  ureca data import webdataset shards/images -o data/again

Every sample of images/*.tar is <key>.<jpg|png|webp> and <key>.json, for the package `webdataset`.
The folder is a data folder as before."""


def add_import(commands: Any) -> None:  # argparse's own type has no public name
    """Add the options of `ureca data import`."""
    formats = "\n".join(f"  {name:<11}{one.files}" for name, one in FORMATS.items())
    parser = commands.add_parser(
        "import",
        help="read another data set into a data folder",
        description="Read another data set into a data folder.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_IMPORT_EPILOG.format(formats=formats),
    )
    add = parser.add_argument
    add("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    add(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="files and folders of the data set, in any order",
    )
    add("--pictures", nargs="+", type=Path, default=[], metavar="DIR", help="folders of pictures")
    add("--name", help="name of the source; part of every region id [FORMAT]")
    add(
        "--split",
        default="",
        help="import only this split; if the files name none, the name for all [train]",
    )
    add("--license", metavar="TEXT", help="licence of images that name none")
    _add_output(parser, webdataset=True)
    parser.set_defaults(run=run_import)


def add_shards(commands: Any) -> None:  # argparse's own type has no public name
    """Add the options of `ureca data shards`."""
    parser = commands.add_parser(
        "shards",
        help="write data folders as WebDataset shards",
        description="Write data folders as WebDataset shards.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_SHARDS_EPILOG,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="a data folder")
    _add_output(parser, webdataset=False)
    parser.set_defaults(run=run_shards)


def _add_output(parser: argparse.ArgumentParser, *, webdataset: bool) -> None:
    add = parser.add_argument
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder; must not exist",
    )
    add("--limit", type=_parse_positive, metavar="N", help="at most N pictures")
    add(
        "--shard-mb",
        type=_parse_positive,
        default=SHARD_BYTES >> 20,
        metavar="N",
        help="[%(default)s]",
    )
    add("--json", action="store_true", help="one JSON object")
    if webdataset:
        add("--webdataset", action="store_true", help="shards as `ureca data shards` writes them")


def run_import(options: argparse.Namespace) -> int:
    """Return 0 when regions were written."""
    chosen = FORMATS[options.format]
    if not options.pictures and not chosen.brings_pictures:
        raise ConfigError(f"{options.format} needs --pictures DIR, the folder of its pictures")
    missing = [str(path) for path in (*options.paths, *options.pictures) if not path.exists()]
    if missing:
        raise ConfigError(f"not found: {', '.join(missing)}")
    for option, value in (("--name", options.name), ("--split", options.split)):
        if value and not NAME.fullmatch(value):
            raise ConfigError(f"{option}: expected letters, digits, '_', '-', '+', got {value!r}")
    job = ImportJob(
        name=options.name or options.format,
        pictures=tuple(options.pictures),
        split=options.split,
        license=chosen.license if options.license is None else options.license,
    )
    writer = _make_writer(options, job.name, webdataset=options.webdataset)
    made = {"format": options.format, "files": [path.name for path in options.paths]}
    return _write_samples(writer, chosen.samples(options.paths, job), options, job, made=made)


def run_shards(options: argparse.Namespace) -> int:
    """Return 0 when regions were written."""
    job = ImportJob(name=options.root.resolve().name)
    writer = _make_writer(options, job.name, webdataset=True)
    scenes = sorted(options.root.glob("scenes-*.jsonl.gz"))
    return _write_samples(
        writer, read_folder_samples(options.root, job), options, job, copied=scenes
    )


def read_folder_samples(root: Path, job: ImportJob) -> Iterator[ShardSample]:
    """Read everything in a data folder image by image; unreadable lines are counted."""
    data = read_folders([root])
    job.reject("malformed", len(data.unreadable))
    store = ImageStore([root / "images"])
    images = {image.image_key: image for image in data.images}
    asked: dict[str, list[QueryRecord]] = {}
    for query in (query for path in query_files(root) for query in read_queries(path)):
        asked.setdefault(query.image_key, []).append(query)
    for key, records in group_by_picture(data.records).items():
        if key not in store:
            job.reject("no such picture", len(records))
            continue
        head = records[0]
        image = images.get(key) or ImageRecord(
            key, head.shard, head.source, head.width, head.height, split=head.split
        )
        encoded = store.read_encoded(key)
        yield ShardSample(image, encoded, tuple(records), tuple(asked.get(key, ())))


def _make_writer(options: argparse.Namespace, name: str, *, webdataset: bool) -> FolderWriter:
    _print_leftovers(options.out)
    size = options.shard_mb << 20
    return FolderWriter(options.out, name=name, shard_bytes=size, webdataset=webdataset)


def _print_leftovers(out: Path) -> None:
    for place in sorted(out.parent.glob(f".{out.name}.part-*")):
        sys.stderr.write(f"{place} is left of a run that was killed, or of one that goes on\n")


def _write_samples(
    writer: FolderWriter,
    found: Iterable[ShardSample],
    options: argparse.Namespace,
    job: ImportJob,
    *,
    made: Mapping[str, Any] | None = None,
    copied: Iterable[Path] = (),
) -> int:
    bar = tqdm(islice(found, options.limit), desc=job.name, unit="picture", disable=None)
    with writer:
        for sample in bar:
            writer.add(sample)
        rejected = dict(job.rejected.most_common())
        report = {
            **(made or {}),
            **writer.counts,
            "left_out": {k: n for k, n in rejected.items() if n},
        }
        if made:
            writer.write_json(NOTE, {**report, "name": job.name, "license": job.license})
        for path in copied:
            writer.copy_file(path)
        if not writer.counts["regions"]:
            raise ConfigError(f"no region could be kept; left out: {report['left_out'] or 'none'}")
    sys.stdout.write(
        json.dumps(report) + "\n" if options.json else _format_table(report, options.out)
    )
    return 0


def _parse_positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _format_table(report: dict[str, Any], out: Path) -> str:
    left = "".join(f"  left out {n:>9,}  {reason}\n" for reason, n in report["left_out"].items())
    return f"{out}: {report['pictures']:,} pictures, {report['regions']:,} regions\n{left}"
