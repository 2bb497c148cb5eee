"""`ureca curate masks`: outlines by teachers that must agree."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ureca.errors import ConfigError
from ureca.models.curation.masks.agreement import AgreementRule
from ureca.models.curation.masks.answer_files import FileTeacher
from ureca.models.curation.masks.pipeline import MaskJob, curate_masks
from ureca.models.curation.masks.sheet import write_sheet
from ureca.models.curation.masks.teachers import MaskTeacher
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key, read_regions

_EPILOG = """examples:
  ureca curate masks ../shared/data -o runs/masks --sheet 60 \\
      --answers ../shared/data2/regions-sam2-pseudo.jsonl.gz \\
      --answers ../shared/data2/regions-things-pseudo.jsonl.gz
  ureca curate masks ../shared/data -o runs/masks-more --limit 500 --everything \\
      --teacher sam2 --teacher deeplab-voc --teacher bodypix
  ureca curate masks ../shared/data -o runs/things --only-found \\
      --teacher detector.onnx --alone 0.65

Regions with a true mask are not asked for. A region is kept when two outlines agree (an outline of
a known teacher that the record has already counts as one), or when one alone is trusted enough.
Start the same command again to go on."""


def main(argv: Sequence[str]) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    pictures = _read_asked(options.data, options.shards, options.limit)
    ids = frozenset(region.region_id for rows in pictures.values() for region in rows)
    teachers: list[MaskTeacher] = [FileTeacher(path, asked=ids) for path in options.answers]
    if options.teacher:
        from ureca.models.curation.masks.open_teachers import open_teacher

        teachers += [
            open_teacher(name, weights=options.weights, everything=options.everything)
            for name in options.teacher
        ]
    if not teachers:
        raise ConfigError("nobody answers: give --answers FILE or --teacher NAME")
    job = MaskJob(
        pictures=pictures,
        images=ImageStore([options.data / "images"]),
        teachers=teachers,
        rule=AgreementRule(agree=options.agree, alone=options.alone),
        only_found=options.only_found,
    )
    settings = {
        "data": str(options.data),
        "answers": [path.name for path in options.answers],
        "teachers": options.teacher,
        "everything": options.everything,
    }
    settings |= {"only_found": True} if options.only_found else {}
    report = curate_masks(job, options.out, settings=settings)
    if options.sheet:
        report["sheet"] = str(write_sheet(options.out, job.images, options.sheet))
    print(json.dumps(report) if options.json else json.dumps(report, indent=1))
    return 0


def _read_asked(
    data: Path, shards: Sequence[str], limit: int | None
) -> dict[str, list[RegionRecord]]:
    """Regions by picture, in the order of the pictures' hashes."""
    found: dict[str, list[RegionRecord]] = {}
    for path in sorted(data.glob("regions-*.jsonl*")):
        for record in read_regions(path):
            chosen = not shards or record.shard.startswith(tuple(shards))
            if chosen and record.for_training:
                found.setdefault(record.image_key, []).append(record)
    if not found:
        raise ConfigError(f"{data} has no regions-*.jsonl[.gz] with regions to ask for")
    return {key: found[key] for key in sorted(found, key=hash_image_key)[:limit]}


def _build_parser() -> argparse.ArgumentParser:
    rule = AgreementRule()
    parser = argparse.ArgumentParser(
        prog="ureca curate masks",
        description="Outlines for regions that have a box only, by teachers that must agree.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, help="data folder in the common format")
    add("-o", "--out", type=Path, required=True, help="output folder of this run")
    add(
        "--answers",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="answers that a teacher gave before: regions-*-pseudo.jsonl.gz; repeatable",
    )
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="NAME",
        help="sam2, deeplab-voc, deeplab-ade20k, bodypix, or a detector's PATH.onnx; repeatable",
    )
    add("--weights", type=Path, metavar="DIR", help="folder of the small networks' files")
    add("--everything", action="store_true", help="also keep what teachers find without a box")
    add("--only-found", action="store_true", help="keep only what nobody asked for")
    add("--shards", action="append", default=[], help="only shards that begin so; repeatable")
    add("--limit", type=int, metavar="N", help="only the first N pictures (by hash: a sample)")
    add("--agree", type=float, default=rule.agree, help="IoU of two that agree [%(default)s]")
    add("--alone", type=float, default=rule.alone, help="trust of one alone [%(default)s]")
    add("--sheet", type=int, metavar="N", help="a contact sheet of N kept regions")
    add("--json", action="store_true", help="one JSON object on the last line")
    return parser
