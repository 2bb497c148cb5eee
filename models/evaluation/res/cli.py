"""`ureca eval res`: texts to regions. Which one, several or none?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ureca.bundle import GroundingWeights
from ureca.datatypes import Image
from ureca.engine import EncodedFrame, ScoringEngine, supports_scoring
from ureca.errors import BundleError, ConfigError, SourceError
from ureca.models.data.regions import ImageStore, hash_image_key
from ureca.models.data.statements import read_statements
from ureca.models.evaluation.res.answers import (
    Grounders,
    GroundingAnswer,
    ViewedPicture,
    answer_at_best,
    answer_from,
    answer_given,
    bag_choices,
    view,
)
from ureca.models.evaluation.res.candidates import cut_candidates, open_segmenter
from ureca.models.evaluation.res.cases import GroundingPicture, read_pictures
from ureca.models.evaluation.res.memo import RememberingEngine
from ureca.models.evaluation.res.metrics import figures
from ureca.models.evaluation.res.options import CandidateSource, ResOptions, parse
from ureca.models.evaluation.res.statements import judge_statements, statement_figures
from ureca.models.evaluation.res.tables import tables
from ureca.models.evaluation.res.text_masks import TextMaskRig
from ureca.models.runtime.grounding import Grounder, load_weights
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_text_segmenter,
    open_text_segmenter,
)

Json = dict[str, Any]
Columns = dict[CandidateSource, list[GroundingAnswer]]


@dataclass(frozen=True)
class Rig:
    """The engine and the two grounders over it; a segmenter when a column needs one."""

    engine: RememberingEngine
    grounders: Grounders
    weights: GroundingWeights
    segmenter: Segmenter | None

    @classmethod
    def over(cls, engine: ScoringEngine, weights: GroundingWeights, options: ResOptions) -> Rig:
        """Over an engine. Raises `WeightsError` when the segmenter's files are not there."""
        segmenter = None
        if {"segmenter", "oracle"} & set(options.candidates):
            threads, folder = options.threads or 1, options.segmenter_folder
            segmenter = open_segmenter(
                options.segmenter, bundle=options.bundle, folder=folder, threads=threads
            )
        memo = RememberingEngine(engine)
        forced = msgspec.structs.replace(weights, min_present=0.0)
        grounders = Grounders(Grounder(memo, weights), Grounder(memo, forced))
        return cls(memo, grounders, weights, segmenter)

    def encode(self, image: Image) -> EncodedFrame:
        """Encode a picture."""
        return self.engine.encode(image)

    def columns(
        self, seen: ViewedPicture, options: ResOptions
    ) -> Iterator[tuple[CandidateSource, list[GroundingAnswer]]]:
        """The answers about one picture, by where the candidates come from."""
        if "given" in options.candidates:
            answers = list(answer_given(seen, self.grounders))
            if options.bag:
                choices = bag_choices(self.engine, seen)
                answers = [
                    replace(answer, bag_right=right)
                    for answer, right in zip(answers, choices, strict=True)
                ]
            yield "given", answers
        if self.segmenter is None:
            return
        candidates = cut_candidates(self.segmenter, seen.image)
        if "segmenter" in options.candidates:
            yield "segmenter", list(answer_from(seen, candidates, self.grounders))
        if "oracle" in options.candidates:
            yield "oracle", list(answer_at_best(seen, candidates))

    def describe(self) -> Json:
        """What was evaluated, so that the figures explain themselves."""
        return {
            "model": self.engine.info.model,
            "runtime": self.engine.info.runtime,
            "bundle_sha": self.engine.info.bundle_sha,
            "weights": msgspec.to_builtins(self.weights),
            "segmenter": self.segmenter.name if self.segmenter else "",
        }


AnyRig = Rig | TextMaskRig


def open_scoring(options: ResOptions) -> tuple[ScoringEngine, GroundingWeights]:
    """The bundle's engine and weights. Raises `BundleError` when it cannot score texts."""
    weights = load_weights(options.bundle)
    engine = load_engine(options.bundle, threads=options.threads)
    if weights is None or not supports_scoring(engine):
        raise BundleError(
            f"{options.bundle} cannot score texts: its manifest has no section `grounding`; "
            "export the checkpoint again with this version"
        )
    return engine, weights


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = parse(argv)
    if is_text_segmenter(options.bundle):
        return run(TextMaskRig(open_text_segmenter(options.bundle)), _ask_own(options))
    engine, weights = open_scoring(options)
    return run(Rig.over(engine, weights, options), options)


def _ask_own(options: ResOptions) -> ResOptions:
    """The options for a model that has masks of its own. Raises `ConfigError` for others."""
    if options.statements or options.bag or not set(options.candidates) <= {"given", "own"}:
        raise ConfigError(
            f"{options.bundle} answers with masks of its own: leave out --candidates, --bag and "
            "--statements"
        )
    return replace(options, candidates=("own",))


def run(rig: AnyRig, options: ResOptions) -> int:
    """Measure and print: tables, or one line of JSON."""
    report = measure(rig, options)
    sys.stdout.write(f"{json.dumps(report)}\n" if options.json else tables(report))
    return 0


def measure(rig: AnyRig, options: ResOptions) -> Json:
    """Everything that was asked for; written to `options.out` if that is given."""
    pictures = [_pictures(root, options) for root in options.data]
    by_root = {
        _name(root, options): _answered(root, asked, rig, options)
        for root, asked in zip(options.data, pictures, strict=True)
    }
    report = _report(by_root, rig, options)
    if options.statements and isinstance(rig, Rig):
        report["statements"] = _statements(rig, options)
    if options.out is not None:
        _write(options.out, report, by_root)
    return report


def _pictures(root: Path, options: ResOptions) -> list[GroundingPicture]:
    found = read_pictures(
        root, every=options.held_out_every, half=options.half, texts=options.texts
    )
    found.sort(key=lambda picture: hash_image_key(picture.image_key))
    return found[: options.limit]


def _name(root: Path, options: ResOptions) -> str:
    """The folder's name, or its path where two folders have one name."""
    names = Counter(one.resolve().name for one in options.data)
    name = root.resolve().name
    return name if names[name] == 1 else str(root)


def _answered(
    root: Path, pictures: Sequence[GroundingPicture], rig: AnyRig, options: ResOptions
) -> Columns:
    store = ImageStore([root / "images"])
    absent = [picture.image_key for picture in pictures if picture.image_key not in store]
    if absent:
        sys.stderr.write(
            f"{root}: {len(absent)} of {len(pictures)} pictures are in none of its shards "
            f"({absent[0]}, ...) and are left out\n"
        )
    if len(absent) == len(pictures):
        raise SourceError(f"{root} has regions of pictures, but none of these pictures")
    columns: Columns = {name: [] for name in options.candidates}
    bar = tqdm(pictures, desc=root.resolve().name, unit="picture", disable=None)
    for picture in bar:
        if picture.image_key in store:
            image = store.read(picture.image_key)
            seen = view(picture, image, rig.encode(image))
            for name, answers in rig.columns(seen, options):
                columns[name] += answers
    return columns


def _report(by_root: dict[str, Columns], rig: AnyRig, options: ResOptions) -> Json:
    """All folders together, the first column at the top; then by column and by folder."""
    together: Columns = {
        name: [answer for columns in by_root.values() for answer in columns[name]]
        for name in options.candidates
    }
    columns = {name: figures(answers, seed=options.seed) for name, answers in together.items()}
    by_folder = {
        root: {name: figures(answers, seed=options.seed) for name, answers in found.items()}
        for root, found in by_root.items()
    }
    return {
        **columns[options.candidates[0]],
        "candidates": options.candidates[0],
        "columns": columns,
        "data": by_folder if len(by_root) > 1 else {},
        "setting": _setting(rig, options),
    }


def _setting(rig: AnyRig, options: ResOptions) -> Json:
    return {
        **rig.describe(),
        "data": [str(root) for root in options.data],
        "texts": options.texts,
        "half": options.half,
        "held_out_every": options.held_out_every,
        "limit": options.limit,
        "seed": options.seed,
    }


def _statements(rig: Rig, options: ResOptions) -> Json:
    store = ImageStore(root / "images" for root in options.data)
    records = [
        record
        for path in options.statements
        for record in read_statements(path)
        if record.image_key in store
        # What is made for testing counts whole.
        and ("-train" not in path.name or record.held_out(options.held_out_every))
    ]
    if not records:
        names = ", ".join(map(str, options.statements))
        raise ConfigError(
            f"{names}: no statement is about a held-out picture of the data folders; give the "
            "folder of its pictures with --data, or a smaller --held-out-every"
        )
    judged = judge_statements(rig.engine, store, records)
    bar = tqdm(judged, total=len(records), desc="statements", unit="statement", disable=None)
    return statement_figures(list(bar), seed=options.seed)


def _write(out: Path, report: Json, by_root: dict[str, Columns]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "res.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    with (out / "answers.jsonl").open("w", encoding="utf8") as file:
        for root, columns in by_root.items():
            for name, answers in columns.items():
                for answer in answers:
                    file.write(json.dumps(_row(root, name, answer)) + "\n")


def _row(root: str, column: str, answer: GroundingAnswer) -> Json:
    return {
        "data": root,
        "candidates": column,
        "image_key": answer.image_key,
        "text": answer.case.text,
        "type": answer.case.type,
        "tags": list(answer.case.tags),
        "targets": len(answer.case.targets),
        "empty": answer.empty,
        "present": round(answer.present, 4),
        "right": answer.right,
        "iou": round(answer.iou, 4),
    }
