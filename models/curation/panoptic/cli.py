"""`ureca curate panoptic`: captions for all segments of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.models.curation import output
from ureca.models.curation.options import (
    add_captioner_options,
    add_run_options,
    make_server,
    tell_report,
)
from ureca.models.curation.panoptic.output import JSON, save_image, write_panoptic
from ureca.models.curation.panoptic.sources import SegmentSource, read_segments
from ureca.models.curation.panoptic.stages import SegmentWorker
from ureca.models.curation.pipeline import CurationSettings, curate
from ureca.models.curation.stages import CurationConfig
from ureca.models.runtime.server.client import KEY_VARIABLE

_EPILOG = f"""examples:
  ureca curate panoptic panoptic_train2017.json --images train2017 -o runs/pix2cap \\
      --url http://127.0.0.1:8000/v1 --model internvl --threads 8 --per-minute 300
  ureca curate panoptic ../shared/data2 --also ../shared/data -o runs/pan --limit 20 --copy-images
  ureca panoptic photos -o segments                   (segments of pictures that have none)
  ureca curate panoptic segments/panoptic.json --images photos -o runs/photos --local MODEL_FOLDER

Writes OUT/panoptic.json with a `description` for every segment, and OUT/panoptic/KEY.png, as
Pix2Cap-COCO has them; OUT/regions-curated.jsonl.gz has the same as regions. With --copy-images, OUT
is a data folder for `ureca mllm train`. Of data folders, training pictures are taken.

Start the same command again to go on: what was answered is not asked twice. The key of a server
comes from {KEY_VARIABLE}. Exit status 1: some pictures could not be done."""


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(CurationSettings):
    """The settings of a run over segments."""

    images: tuple[Path, ...] = ()


def main(argv: Sequence[str]) -> int:
    """Return 0 when every picture is done, 1 otherwise."""
    options = _build_parser().parse_args(argv)
    source = read_segments(
        options.source, images=options.images, also=options.also, limit=options.limit
    )
    settings = SegmentSettings(
        roots=(options.source,),
        out=options.out,
        config=CurationConfig(verify=not options.no_verify),
        bundle=str(options.bundle),
        server=make_server(options),
        local=options.local or "",
        budget=options.max_questions,
        images=tuple(options.images),
    )
    report = curate(
        source.pictures,
        settings,
        threads=options.threads,
        worker=lambda given: SegmentWorker(given, source.images),
    )
    report |= _publish(options, source)
    output.write_report(options.out, report)
    return tell_report(report, options, "ureca curate panoptic")


def _publish(options: argparse.Namespace, source: SegmentSource) -> dict[str, int]:
    keys = [picture.image_key for picture in source.pictures]
    done = list(output.read_finished(options.out, keys))
    if options.copy_images:
        for picture in done:
            key = picture.image_key
            save_image(options.out, source.files[key], key, source.images)
    counts: dict[str, int] = write_panoptic(options.out, done, source)
    return counts


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca curate panoptic",
        description="Write one checked caption for every segment of pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER|JSON", help="data folder, or COCO's panoptic JSON")
    add("-o", "--out", type=Path, required=True, help=f"output folder of this run: OUT/{JSON}")
    folders: dict[str, Any] = {"type": Path, "action": "append", "default": [], "metavar": "DIR"}
    add("--images", **folders, help="pictures of a JSON: a folder or tar shards; repeatable")
    add("--also", **folders, help="data folder with other keys of the same photographs")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--copy-images", action="store_true", help="also copy the pictures to OUT/images")
    add("--no-verify", action="store_true", help="keep captions without verification")
    add_captioner_options(parser)
    add_run_options(parser)
    return parser
