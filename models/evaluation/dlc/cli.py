"""`ureca eval dlc`: DLC-Bench with a language model behind an OpenAI-compatible server as judge."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ureca.errors import ConfigError, SourceError
from ureca.models.data.folders import read_folders
from ureca.models.data.readers.core import load_json
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.caption import Captioned, caption_records
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.captioners.from_options import read_captions
from ureca.models.evaluation.dlc.questions import (
    PROMPT,
    DlcQuestion,
    compute_means,
    make_prompt,
    read_questions,
    score_region,
)
from ureca.models.evaluation.judging import (
    add_judge_options,
    collect_answers,
    open_judge,
    read_prompt,
)
from ureca.models.evaluation.measures.scores import compute_mean
from ureca.models.runtime.server.client import KEY_VARIABLE

_EPILOG = f"""examples:
  ureca data import coco DLC-bench/annotations.json --pictures DLC-bench/images \\
      --split test --name dlc -o data/dlc
  ureca eval dlc BUNDLE --data data/dlc --bench DLC-bench --judge http://127.0.0.1:9000/v1 \\
      --judge-model meta-llama/Meta-Llama-3.1-8B-Instruct -o runs/dlc
  ureca eval dlc --captions outputs.json --bench DLC-bench --judge http://127.0.0.1:9000/v1 \\
      --judge-model meta-llama/Meta-Llama-3.1-8B-Instruct -o runs/dlc-other

The judge reads the caption and sees no picture. Its name and the hash of the prompt are in
metrics.json: figures of other judges or prompts are other figures. Answers are kept in OUT/answers;
start again to go on. The server's key comes from {KEY_VARIABLE}.

Exit status: 0 done, 1 some regions could not be captioned or judged, 2 it could not be run."""


def main(argv: Sequence[str]) -> int:
    """Run the command; see `--help`."""
    options = _build_parser().parse_args(argv)
    if (options.model is None) == (options.captions is None):
        raise ConfigError("give one of BUNDLE_OR_CHECKPOINT (with --data) and --captions")
    template = read_prompt(options.prompt) if options.prompt else PROMPT
    asked = read_questions(options.bench / "qa.json", options.bench / "class_names.json")
    make_prompt(template, "", next(iter(asked.values()))[0])
    captions = _load_captions(options, asked)
    judged = _judge_captions(options, asked, captions, template)
    metrics = {**_describe_setting(options, template), **judged.metrics()}
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", "utf8")
    with (options.out / "judged.jsonl").open("w", encoding="utf8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in judged.rows())
    print(json.dumps(metrics) if options.json else _format_table(metrics))
    return int(bool(metrics["without_caption"] or metrics["not_judged"]))


@dataclass(frozen=True, kw_only=True)
class JudgedRun:
    """A finished run."""

    judge: str
    asked: Mapping[str, tuple[DlcQuestion, ...]]
    captions: Mapping[str, str]
    answers: Mapping[str, list[str]]
    counts: Mapping[str, int]

    def metrics(self) -> dict[str, Any]:  # JSON
        """Return the figures and their settings."""
        scores = {key: score_region(self.asked[key], said) for key, said in self.answers.items()}
        return {
            "judge": self.judge,
            **compute_means(scores),
            "questions": sum(len(self.asked[key]) - 1 for key in scores),
            "without_caption": sum(not self.captions[key] for key in self.asked),
            "not_judged": len(self.asked) - len(scores),
            "words": compute_mean([len(self.captions[key].split()) for key in self.asked]),
            "asked": self.counts["asked"],
            "tokens": [self.counts["tokens_in"], self.counts["tokens_out"]],
        }

    def rows(self) -> Iterator[dict[str, Any]]:  # JSON
        """Return a row per region, with every answer."""
        for key, answers in self.answers.items():
            score = score_region(self.asked[key], answers)
            pairs = zip(self.asked[key], answers, strict=True)
            yield {
                "region": key,
                "caption": self.captions[key],
                "positive": score.positive,
                "negative": score.negative,
                "recognised": score.recognised,
                "answers": [
                    {"question": q.question, "type": q.type, "answer": a} for q, a in pairs
                ],
            }


def _describe_setting(options: argparse.Namespace, template: str) -> dict[str, Any]:  # JSON
    return {
        "bench": "DLC-Bench",
        "model": str(options.model or options.captions),
        "judge_sees_picture": False,
        "prompt": options.prompt.name if options.prompt else "ours",
        "prompt_sha256": hashlib.sha256(template.encode()).hexdigest(),
    }


def _judge_captions(
    options: argparse.Namespace,
    asked: Mapping[str, tuple[DlcQuestion, ...]],
    captions: Mapping[str, str],
    template: str,
) -> JudgedRun:
    options.out.mkdir(parents=True, exist_ok=True)
    ledger = open_judge(options)
    prompts = {
        key: [make_prompt(template, captions[key], question) for question in questions]
        for key, questions in asked.items()
    }
    try:
        answers = dict(collect_answers(ledger, prompts, options.threads))
    finally:
        ledger.close()
    return JudgedRun(
        judge=ledger.model, asked=asked, captions=captions, answers=answers, counts=ledger.counts
    )


def _load_captions(
    options: argparse.Namespace, asked: Mapping[str, tuple[DlcQuestion, ...]]
) -> dict[str, str]:
    """Return a caption for every region with questions; empty if the model gave none."""
    said = dict(
        _read_captions(options.captions) if options.captions else _generate_captions(options, asked)
    )
    missing = sorted(asked.keys() - said.keys())
    if len(missing) == len(asked):
        raise SourceError(f"no caption is of a region of {options.bench / 'qa.json'}")
    for key in missing:
        sys.stderr.write(f"{key}: no caption\n")
    return {key: said.get(key, "") for key in asked}


def _read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Read captions by annotation id: a JSON object, or the lines of `ureca eval` and `ureca
    caption`.
    """
    if path.suffix == ".json":
        yield from load_json(path, dict[str, str]).items()
        return
    for region_id, found in read_captions(path).items():
        yield _parse_annotation_id(region_id), found.caption


def _generate_captions(
    options: argparse.Namespace, asked: Mapping[str, tuple[DlcQuestion, ...]]
) -> Iterator[tuple[str, str]]:
    if options.data is None:
        raise ConfigError("--data is needed: the folder that `ureca data import coco` made")
    records = [
        r
        for r in read_folders([options.data]).records
        if _parse_annotation_id(r.region_id) in asked
    ]
    engine = open_engine(options.model)
    store = ImageStore([options.data / "images"])
    results = caption_records(engine, store, records, style="long")
    for result in tqdm(results, total=len(records), desc="captions", unit="region", disable=None):
        if isinstance(result, Captioned):
            yield _parse_annotation_id(result.region_id), result.caption


def _parse_annotation_id(region_id: str) -> str:
    """Return the benchmark's number of an imported region."""
    return region_id.rpartition("_")[2]


def _format_table(metrics: Mapping[str, Any]) -> str:
    def shown(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return "\n".join(f"{name:<20} {shown(value)}" for name, value in metrics.items())


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval dlc",
        description="DLC-Bench: detailed captions, judged by a language model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="BUNDLE_OR_CHECKPOINT")
    add("--data", type=Path, metavar="DIR", help="the benchmark's pictures and masks, imported")
    add("--captions", type=Path, metavar="FILE", help="score an existing file of captions")
    add("--bench", type=Path, required=True, metavar="DIR", help="qa.json and class_names.json")
    add_judge_options(parser, "contains {caption} and {question}")
    add("-o", "--out", type=Path, required=True, help="folder for the results")
    add("--json", action="store_true", help="print metrics.json instead of a table")
    return parser
