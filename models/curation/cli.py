"""`ureca curate`: writes captions for images with masks, by a larger model or by our own
captioner.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ureca.models.curation import output
from ureca.models.curation.options import (
    add_captioner_options,
    add_run_options,
    make_server,
    tell_report,
)
from ureca.models.curation.pipeline import CurationSettings, curate, curate_on_ray
from ureca.models.curation.sources import read_images, read_pictures
from ureca.models.curation.stages import CurationConfig
from ureca.models.curation.tree import TreeConfig
from ureca.models.runtime.server.client import KEY_VARIABLE

_EPILOG = f"""examples:
  ureca curate ../shared/data -o runs/curated --limit 200
  ureca curate SA1B_FOLDER -o runs/sa1b --url http://127.0.0.1:8000/v1 --model internvl \\
      --min-depth 3 --threads 8 --per-minute 300 --max-questions 5000
  ureca curate ../shared/data -o runs/local --local MODEL_FOLDER
  ureca curate masks --help                      (outlines instead of captions)
  ureca curate panoptic --help                   (every segment of pictures, as Pix2Cap has them)
  ureca curate parts --help                      (texts about parts and wholes, as MRES has them)

Start the same command again to go on: what was answered is not asked twice. The key of a server
comes from {KEY_VARIABLE}. Exit status 1: some pictures could not be done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when every image is done, 1 otherwise. `masks` as the first word: outlines;
    `panoptic`: captions of all segments of pictures; `parts`: texts about parts.
    """
    if argv and argv[0] == "panoptic":
        from ureca.models.curation.panoptic.cli import main as curate_panoptic

        return curate_panoptic(argv[1:])
    if argv and argv[0] == "parts":
        from ureca.models.curation.parts.cli import main as curate_parts

        return curate_parts(argv[1:])
    if argv and argv[0] == "masks":
        from ureca.models.curation.masks.cli import main as curate_masks

        return curate_masks(argv[1:])
    options = _build_parser().parse_args(argv)
    pictures = read_pictures(options.data, limit=options.limit)
    settings = _make_settings(options)
    if options.ray:
        report = curate_on_ray(pictures, settings, workers=options.ray)
    else:
        report = curate(pictures, settings, threads=options.threads)
    if options.sheet:
        done = list(output.read_finished(settings.out, (p.image_key for p in pictures)))
        pages = output.write_contact_sheets(
            settings.out, done, read_images(options.data), options.sheet
        )
        report["sheets"] = [str(page) for page in pages]
    return tell_report(report, options, "ureca curate")


def _make_settings(options: argparse.Namespace) -> CurationSettings:
    tree = TreeConfig(
        min_share=options.min_share, max_share=options.max_share, min_depth=options.min_depth
    )
    return CurationSettings(
        roots=tuple(options.data),
        out=options.out,
        config=CurationConfig(tree=tree, similar=options.similar, verify=not options.no_verify),
        bundle=str(options.bundle),
        server=make_server(options),
        local=options.local or "",
        budget=options.max_questions,
    )


def _build_parser() -> argparse.ArgumentParser:
    tree, config = TreeConfig(), CurationConfig()
    parser = argparse.ArgumentParser(
        prog="ureca curate",
        description="Write short and long captions for every mask of many images, and verify them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="+", type=Path, help="data folders, ours or SA-1B's")
    parser.add_argument("-o", "--out", type=Path, required=True, help="output folder of this run")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    add_captioner_options(parser)
    rules = parser.add_argument_group("rules")
    rules.add_argument("--min-share", type=float, default=tree.min_share, help="[%(default)s]")
    rules.add_argument("--max-share", type=float, default=tree.max_share, help="[%(default)s]")
    rules.add_argument("--min-depth", type=int, default=tree.min_depth, help="[%(default)s]")
    rules.add_argument("--similar", type=float, default=config.similar, help="[%(default)s]")
    rules.add_argument(
        "--no-verify", action="store_true", help="keep captions without verification"
    )
    add_run_options(parser)
    parser.add_argument("--ray", type=int, metavar="N", help="use N workers of Ray Data")
    parser.add_argument("--sheet", type=int, metavar="N", help="contact sheets of N regions")
    return parser
