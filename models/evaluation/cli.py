"""`ureca eval`: captions held-out regions, measures the captions, and writes a folder with the
results.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm

from ureca.datatypes import Style
from ureca.engine import Engine
from ureca.errors import ConfigError, MissingExtraError
from ureca.models.evaluation.captioners.baselines import Captioner, read_region_mask
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.captioners.from_options import make_captioner
from ureca.models.evaluation.captioners.mask_variants import compute_iou, make_mask_edit
from ureca.models.evaluation.evaluate import (
    CaptionResults,
    EvaluationPart,
    describe_part,
    list_failures,
    make_captions_path,
    round_figures,
    score_captions,
    select_cases,
    write_captions,
)
from ureca.models.evaluation.measures import flicker, scenes
from ureca.models.evaluation.measures.scores import Tools, compute_mean, open_tools
from ureca.models.evaluation.measures.similarity import Embedder, MiniLM
from ureca.models.evaluation.options import Options, parse_options
from ureca.models.evaluation.reports.compare import write_comparison
from ureca.models.evaluation.reports.report import write_report
from ureca.models.evaluation.reports.tables import format_summary
from ureca.models.evaluation.test_set import TestSet, limit_cases, read_data

Json = dict[str, Any]  # JSON values
_OTHERS = {
    name: f"ureca.models.evaluation.{name}.cli"
    for name in ("attributes", "dlc", "masks", "panoptic", "res", "vip")
}
"""Commands with a first word of their own: `ureca eval dlc`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    if argv and argv[0] in _OTHERS:
        other = importlib.import_module(_OTHERS[argv[0]])
        return int(other.main(argv[1:]))
    options = parse_options(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.compare:
        print(write_comparison(options.compare, options.out, seed=options.seed))
        return 0
    with ExitStack() as stack:
        tools = open_tools(stack, embedder=_open_embedder(options), meteor=options.meteor)
        for name, remedy in tools.missing.items():
            sys.stderr.write(f"no {name}: {remedy}\n")
        parts, metrics = _run_evaluation(options, tools)
    _write(options, parts, metrics)
    failed = list_failures(parts)
    for region_id, reason in failed.items():
        sys.stderr.write(f"{region_id}: {reason}\n")
    print(json.dumps(metrics) if options.json else format_summary(metrics))
    return 1 if failed else 0


def _open_embedder(options: Options) -> Callable[[], Embedder] | None:
    return (lambda: MiniLM(vocab=options.vocab)) if options.similarity else None


def _run_evaluation(options: Options, tools: Tools) -> tuple[list[EvaluationPart], Json]:
    engine = open_engine(options.model, threads=options.threads) if options.model else None
    parts: list[EvaluationPart] = []
    for root in options.data:
        learns = options.baseline in {"frequent", "neighbours"}
        data = read_data(root, every=options.held_out_every, keep_training=learns)
        captioner = make_captioner(data, options, engine)
        made = [
            _evaluate_part(data, style, captioner, tools, options.limit) for style in options.styles
        ]
        parts += [part for part in made if part is not None]
    worlds, missing = _judge_worlds(parts)
    metrics = {
        **_describe_setting(options, engine),
        "missing": {**tools.missing, **missing},
        "parts": {part.name: describe_part(part) for part in parts},
        "worlds": worlds,
        "mask_iou": _measure_mask_iou(parts, options),
        "flicker": _measure_flicker(options, engine),
    }
    return parts, metrics


def _evaluate_part(
    data: TestSet, style: Style, captioner: Captioner, tools: Tools, limit: int | None
) -> EvaluationPart | None:
    cases = limit_cases(select_cases(data, style), limit)
    if not cases:
        return None
    results = captioner(cases, style)
    bar = tqdm(results, total=len(cases), desc=f"{data.name} {style}", unit="region", disable=None)
    return score_captions(data, style, CaptionResults.collect(bar), tools)


def _describe_setting(options: Options, engine: Engine | None) -> Json:
    """Describe what was evaluated, so that the folder documents itself."""
    info = engine.info if engine is not None else None
    return {
        "model": info.model if info else options.baseline or str(options.captions),
        "runtime": info.runtime if info else "",
        "precision": info.precision if info else "",
        "bundle_sha": info.bundle_sha if info else "",
        "masks": options.masks,
        "held_out_every": options.held_out_every,
        "limit": options.limit,
        "seed": options.seed,
    }


def _judge_worlds(parts: Sequence[EvaluationPart]) -> tuple[Json, dict[str, str]]:
    """Return the figures of every part of synthetic worlds, and the remedy if the judge is not
    installed.
    """
    try:
        return {part.name: found for part in parts if (found := _judge_slots(part))}, {}
    except MissingExtraError as error:
        sys.stderr.write(f"no worlds: {error}\n")
        return {}, {"worlds": str(error)}


def _judge_slots(part: EvaluationPart) -> Json:
    paths = scenes.list_scene_files(part.data.root)
    if not paths:
        return {}
    views = scenes.read_views(paths, (item.case.image_key for item in part.scored))
    cases = [item.case for item in part.scored]
    judged = scenes.judge_all(cases, part.said.captions, views)
    return {
        name: round_figures(figures)
        for name, figures in scenes.compute_slot_figures(judged).items()
    }


def _measure_mask_iou(parts: Sequence[EvaluationPart], options: Options) -> float | None:
    """Return the mean overlap of the masks that the model got with the true ones."""
    if options.captions is not None:
        return None
    edit = make_mask_edit(options.masks, seed=options.seed)
    cases = {item.case.region_id: item.case for part in parts for item in part.scored}
    masks = ((key, read_region_mask(case.record)) for key, case in cases.items())
    return compute_mean([compute_iou(mask, edit(mask, key)) for key, mask in masks])


def _measure_flicker(options: Options, engine: Engine | None) -> Json:
    if not options.video:
        return {}
    if engine is None:
        raise ConfigError("--video needs a bundle or a checkpoint")
    paths = flicker.list_clips(options.data[0] / "videos")[: options.limit]
    clips = []
    for path in tqdm(paths, desc="clips", unit="clip", disable=None):
        clip = flicker.AnnotatedClip(path)
        masks = (
            flicker.read_tracker_masks(options.masks_from, clip.name)
            if options.masks_from
            else None
        )
        clips.append(
            flicker.caption_clip(engine, clip, masks or clip.mask, every=options.video_every)
        )
    figures = {name: round_figures(found) for name, found in flicker.measure_flicker(clips).items()}
    said = {clip.clip: list(zip(clip.frames, clip.captions, strict=True)) for clip in clips}
    return {"every": options.video_every, "figures": figures, "captions": said}


def _write(options: Options, parts: Sequence[EvaluationPart], metrics: Json) -> None:
    several = len({part.data.root for part in parts}) > 1
    for part in parts:
        write_captions(make_captions_path(options.out, part, several=several), part)
    text = json.dumps(metrics, indent=1) + "\n"
    (options.out / "metrics.json").write_text(text, encoding="utf8")
    if options.report:
        edit = make_mask_edit(options.masks, seed=options.seed)
        try:
            write_report(
                options.out, parts, metrics, edit, samples=options.samples, seed=options.seed
            )
        except MissingExtraError as error:
            sys.stderr.write(f"no report.html: {error}\n")
