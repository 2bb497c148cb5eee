"""`ureca eval panoptic`: segments of whole pictures and their captions against the truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ureca.bundle import MANIFEST_NAME
from ureca.errors import ConfigError
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.masks.run import open_segmenter
from ureca.models.evaluation.options import parse_positive
from ureca.models.evaluation.panoptic.cases import PanopticCase, read_panoptic_cases
from ureca.models.evaluation.panoptic.coco_files import (
    make_true_case,
    read_coco_panoptic,
    read_predictions,
)
from ureca.models.evaluation.panoptic.matching import Prediction
from ureca.models.evaluation.panoptic.predicting import predict_picture
from ureca.models.evaluation.panoptic.run import Judged, summarise
from ureca.models.evaluation.panoptic.videos import VideoFrame, judge_videos, read_video_frames
from ureca.models.runtime.segmentation.base import supports_everything

_EPILOG = """examples:
  ureca eval panoptic --data ../shared/data2 --also ../shared/data --bundle bundle --json
  ureca eval panoptic --data runs/worlds-pan-dev --bundle bundle --json
  ureca eval panoptic --coco panoptic_val2017.json --images val2017 --bundle bundle
  ureca eval panoptic --coco pix2cap_coco_val.json --predictions predictions.json --by-class
  ureca eval panoptic --video --coco clip/panoptic.json --predictions run/panoptic.json

Of data folders, only pictures count whose every pixel is annotated (`panoptic: true`), and of
files of training regions only those that are held out. COCO's PNGs are in a folder beside the JSON.

pq, sq, rq: without classes; head_noun: the caption's head noun must be the true class, too;
coverage: share of the pixels with a segment. captions: Pix2Cap's scores of matched pairs, as
released and corrected. over_time (--video, one --predictions for each --coco): VPQ, STQ, kept ids.

Exit status: 0 done, 2 it could not be run."""
Json = dict[str, Any]  # JSON values


def main(argv: Sequence[str]) -> int:
    """The command; see `--help`."""
    parser = _build_parser()
    options = parser.parse_args(argv)
    if not options.data and not options.coco:
        parser.error("expected --data FOLDER or --coco JSON: what is the truth?")
    if not options.bundle and not options.predictions:
        parser.error("expected --bundle DIR or --predictions JSON: what is judged?")
    if options.video and len(options.coco) != len(options.predictions):
        parser.error("expected --predictions JSON for each --coco JSON: --video judges a run")
    figures = _judge_videos(options) if options.video else _judge_pictures(options)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=1) + "\n", "utf8")
    sys.stdout.write((json.dumps(figures) if options.json else format_table(figures)) + "\n")
    return 0


def _judge_pictures(options: argparse.Namespace) -> Json:
    cases = _read_cases(options)
    rows = _read_rows(cases, options) if options.predictions else _predict(cases, options)
    return _report(rows, options)


def _judge_videos(options: argparse.Namespace) -> Json:
    """Frames as pictures, and over time. Frames of a video are alike: there is no interval."""
    frames: list[VideoFrame] = []
    count = 0
    for truth, said in zip(options.coco, options.predictions, strict=True):
        found, n = read_video_frames(truth, said)
        frames += found
        count += n
    figures = _report([(one.case, one.found) for one in frames], options)
    figures["pq_interval"] = figures["head_noun"]["pq_interval"] = None
    figures["over_time"] = judge_videos(frames, by_class=options.by_class)
    return figures | {"frames_true": count}


def _read_cases(options: argparse.Namespace) -> list[PanopticCase]:
    cases = []
    if options.data:
        folders = [*options.data, *options.also]
        cases = read_panoptic_cases(
            options.data,
            every=options.held_out_every,
            limit=options.limit,
            known=folders,
            parts=options.parts,
        )
    for path in options.coco:
        found = (make_true_case(picture) for picture in read_coco_panoptic(path))
        cases += [case for case in found if case.segments][: options.limit]
    if not cases:
        raise ConfigError("the truth has no picture with a segment")
    return cases


def _read_rows(cases: Sequence[PanopticCase], options: argparse.Namespace) -> list[Judged]:
    """A system's own predictions; a picture without one has no segment."""
    found: dict[str, Prediction] = {}
    for path in options.predictions:
        found |= read_predictions(path, cases)
    missing = [case.image_key for case in cases if case.image_key not in found]
    if missing:
        sys.stderr.write(
            f"{len(missing)} of {len(cases)} pictures have no prediction ({missing[0]}, ...): all "
            "of their segments count as missed\n"
        )
    return [(case, found.get(case.image_key, Prediction(case.ids * 0, ()))) for case in cases]


def _predict(cases: Sequence[PanopticCase], options: argparse.Namespace) -> list[Judged]:
    segmenter = open_segmenter(options.bundle, threads=options.threads)
    if not supports_everything(segmenter):
        raise ConfigError(f"{segmenter.name} cannot say everything in an image: give a bundle")
    has_captioner = (options.bundle / MANIFEST_NAME).is_file() and not options.no_captions
    engine = open_engine(options.bundle, threads=options.threads) if has_captioner else None
    folders = [root / "images" for root in options.data] + list(options.images)
    if not folders:
        raise ConfigError("expected --images FOLDER: where are the pictures of the COCO file?")
    images = ImageStore(folders)
    rows = []
    for case in tqdm(cases, desc="eval panoptic", unit="picture", disable=None):
        image = images.read(case.image_key)
        if image.shape[:2] != case.ids.shape:
            raise ConfigError(
                f"{case.image_key} has {list(image.shape[:2])} pixels, its annotation "
                f"{list(case.ids.shape)}"
            )
        rows.append((case, predict_picture(segmenter, engine, image, parts=options.parts)))
    return rows


def _report(rows: Sequence[Judged], options: argparse.Namespace) -> Json:
    """All pictures at the top; then by source, where there are several."""
    given = {"seed": options.seed, "meteor": not options.no_meteor, "by_class": options.by_class}
    groups: dict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        groups[row[0].source].append(row)
    several = {name: summarise(group, **given) for name, group in sorted(groups.items())}
    return {**summarise(rows, **given), "by_source": several if len(several) > 1 else {}}


def format_table(figures: Json) -> str:
    """Figures for people."""
    lines = [f"{'':<24}{'pq':>8}{'sq':>8}{'rq':>8}{'matched':>9}{'missed':>8}{'invented':>10}"]
    named = {"all": figures, **figures["by_source"]}
    for source, row in named.items():
        parts = {
            source: row,
            "  things": row["things"],
            "  stuff": row["stuff"],
            "  head noun": row["head_noun"],
        }
        for name, one in parts.items():
            shown = "".join(f"{'' if one[k] is None else one[k]:>8}" for k in ("pq", "sq", "rq"))
            lines.append(
                f"{name[:23]:<24}{shown}{one['matched']:>9}{one['missed']:>8}{one['invented']:>10}"
            )
        segments = row["segments"]
        lines.append(
            f"  {row['n']} pictures, PQ interval {row['pq_interval']}, coverage {row['coverage']}, "
            f"{segments['captioned']} of {segments['predicted']} segments captioned"
        )
    lines += _format_over_time(figures)
    captions = figures["captions"]
    for name in ("official", "corrected"):
        row = captions[name]
        keys = ("bleu_4", "rouge_l", "cider", "meteor", "map")
        shown = ", ".join(f"{key} {'none' if row[key] is None else row[key]}" for key in keys)
        lines.append(f"captions, {name}: {shown}")
    return "\n".join(lines)


def _format_over_time(figures: Json) -> list[str]:
    if not (row := figures.get("over_time")):
        return []
    windows = ", ".join(f"{k} frames {one['pq']}" for k, one in row["vpq_windows"].items())
    kept = [f"{kind} {one['share']} of {one['found']}" for kind, one in row["ids_kept"].items()]
    return [
        f"{row['videos']} videos, {figures['n']} of {figures['frames_true']} frames have a map",
        f"VPQ {row['vpq']} ({windows}), STQ {row['stq']} (AQ {row['aq']}, SQ {row['sq_classes']})",
        f"ids kept: {', '.join(kept)}",
    ]


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval panoptic",
        description="Segments of whole pictures and their captions against the truth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    folders: dict[str, Any] = {"type": Path, "action": "append", "default": [], "metavar": "DIR"}
    add("--data", **folders, help="data folder in the common format; repeatable")
    add("--also", **folders, help="data folder with other keys of the same photographs")
    add("--coco", **folders | {"metavar": "JSON"}, help="panoptic JSON as the truth; repeatable")
    add("--images", **folders, help="pictures of --coco: a folder or tar shards")
    add("--bundle", type=Path, metavar="DIR", help="bundle with a mask head, or its checkpoint")
    add("--predictions", **folders | {"metavar": "JSON"}, help="a system's panoptic JSON")
    add("--video", action="store_true", help="frames of videos: ids over time count (VPQ, STQ)")
    add("--by-class", action="store_true", help="caption scores of pairs whose classes agree")
    add("--parts", action="store_true", help="parts of things instead of whole segments")
    add("--no-captions", action="store_true", help="segments only")
    add("--no-meteor", action="store_true", help="leave METEOR out (it needs Java)")
    add("--limit", type=parse_positive, metavar="N", help="at most N pictures of each folder")
    add("--held-out-every", type=parse_positive, default=HELD_OUT_EVERY, help="[%(default)s]")
    add("--threads", type=parse_positive, default=1, help="CPU threads [%(default)s]")
    add("--seed", type=int, default=0, help="random seed of the intervals [%(default)s]")
    add("-o", "--out", type=Path, metavar="FILE", help="also write the figures to this JSON file")
    add("--json", action="store_true", help="one JSON object on the last line")
    return parser
