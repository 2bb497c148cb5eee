"""`ureca eval masks`: masks of clicks, of boxes and of everything against true masks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore
from ureca.models.evaluation.masks.cases import read_cases
from ureca.models.evaluation.masks.run import Results, evaluate_picture, open_segmenter, summarise
from ureca.models.evaluation.options import parse_positive

_EPILOG = """examples:
  ureca eval masks --bundle runs/masks-a/checkpoint --data ../shared/data --data ../shared/data2 \\
      --data runs/worlds-dev --json
  ureca eval masks --bundle bundle --data ../shared/data --json
  ureca eval masks --bundle ~/.cache/ureca/sam2-hiera-tiny --data ../shared/data --limit 40

A bundle with a mask head (ureca export masks) is measured as the node runs it: in ONNX Runtime,
without torch. A checkpoint is measured in torch.

Only regions with true masks count. Of training pictures those are taken whose photograph or series
is held out. click: the best of three answers to the innermost pixel; click_chosen: the surest one;
box: the tight true box; tidy: after two rounds of GrabCut; everything: 64 masks of a picture.

Exit status: 0 done, 2 it could not be run."""
_COLUMNS = (
    "n",
    "click_iou",
    "click_chosen_iou",
    "click_tidy_iou",
    "box_iou",
    "box_tidy_iou",
    "everything_recall_50",
    "everything_ar",
)


def main(argv: Sequence[str]) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    segmenter = open_segmenter(
        options.bundle,
        trunk_weights=options.trunk_weights,
        proposals=not options.no_proposals,
        canvas_px=options.canvas,
        threads=options.threads,
    )
    cases = read_cases(options.data, every=options.held_out_every, limit=options.limit)
    images = ImageStore(root / "images" for root in options.data)
    results = Results()
    for case in tqdm(cases, desc="eval masks", unit="picture", disable=None):
        image = images.read(case.image_key)
        evaluate_picture(segmenter, image, case, results, with_tidy=not options.no_tidy)
    figures = {"segmenter": segmenter.name, "pictures": len(cases), **summarise(results)}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=1) + "\n", "utf8")
    sys.stdout.write((json.dumps(figures) if options.json else format_table(figures)) + "\n")
    return 0


def format_table(figures: dict[str, Any]) -> str:
    """Figures for people: one line for each source and kind, then what belongs to pictures."""
    rows = {**figures["by_source"], **figures["by_size"], "all": figures}
    wide = max(map(len, rows))
    lines = [
        " " * wide + " " + " ".join(f"{name.removesuffix('_iou')[:13]:>13}" for name in _COLUMNS)
    ]
    for name, row in rows.items():
        shown = ("" if row[column] is None else row[column] for column in _COLUMNS)
        lines.append(f"{name:<{wide}} " + " ".join(f"{value:>13}" for value in shown))
    for name in ("panoptic_quality", "panoptic_filled", "coverage"):
        values = ", ".join(f"{source} {value}" for source, value in figures[name].items())
        lines.append(f"{name}: {values or 'none'}")
    return "\n".join(lines)


def _parse_canvas(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text!r}") from None
    return height, width


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval masks",
        description="Masks of clicks, of boxes and of everything against true masks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="exported bundle, checkpoint, or SAM 2's folder")
    add("--data", type=Path, action="append", required=True, help="data folder; repeatable")
    add("--limit", type=parse_positive, metavar="N", help="only N pictures of every source")
    add("--held-out-every", type=parse_positive, default=HELD_OUT_EVERY, help="[%(default)s]")
    add("--no-tidy", action="store_true", help="leave out the rows with GrabCut")
    add("--no-proposals", action="store_true", help="without the boxes that the trunk detects")
    add(
        "--canvas",
        type=_parse_canvas,
        metavar="WIDTHxHEIGHT",
        help="another canvas than the head's",
    )
    add("--trunk-weights", default="", metavar="DIR", help="folder of yolox-nano.bin [the cache]")
    add("--threads", type=parse_positive, default=1, help="CPU threads [%(default)s]")
    add("-o", "--out", type=Path, metavar="FILE", help="also write the figures to this JSON file")
    add("--json", action="store_true", help="one JSON object on the last line")
    return parser
