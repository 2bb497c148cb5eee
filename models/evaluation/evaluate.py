"""Evaluates a data set in one style: captions, figures, and the result folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.datatypes import Style
from ureca.models.evaluation.caption import Captioned, FailedCaption
from ureca.models.evaluation.measures.failure_rates import (
    find_commonest_template,
    measure_long_faults,
    measure_short_faults,
)
from ureca.models.evaluation.measures.scores import (
    Figures,
    ScoredCaption,
    Tools,
    aggregate_scores,
    group_scores,
    score_cases,
)
from ureca.models.evaluation.test_set import EvaluationCase, References, TestSet

REFERENCES: dict[Style, References] = {"short": "both", "long": "long"}
"""What a style is judged by: a short phrase may be found in any wording."""


@dataclass(frozen=True, slots=True)
class CaptionResults:
    """The captions of one pass with their scores, and the regions without a caption."""

    captions: Mapping[str, str]
    confidence: Mapping[str, float]
    failed: Mapping[str, str]

    @classmethod
    def collect(cls, results: Iterable[Captioned | FailedCaption]) -> CaptionResults:
        """Sort the results of a captioner."""
        captions: dict[str, str] = {}
        confidence: dict[str, float] = {}
        failed: dict[str, str] = {}
        for result in results:
            if isinstance(result, FailedCaption):
                failed[result.region_id] = result.reason
                continue
            captions[result.region_id] = result.caption
            confidence[result.region_id] = result.score
        return cls(captions, confidence, failed)


@dataclass(frozen=True)
class EvaluationPart:
    """One data set in one style, with its figures."""

    data: TestSet
    style: Style
    scored: list[ScoredCaption]
    groups: dict[str, Figures]
    faults: dict[str, Figures]
    template: str
    said: CaptionResults

    @property
    def name(self) -> str:
        """The key in `metrics.json`, as in "data/short"."""
        return f"{self.data.name}/{self.style}"


def select_cases(data: TestSet, style: Style) -> list[EvaluationCase]:
    """Select the cases of a style. Long captions need sentences that people wrote."""
    if style == "short":
        return list(data.cases)
    return [case for case in data.cases if case.list_references("long")]


def score_captions(
    data: TestSet, style: Style, said: CaptionResults, tools: Tools
) -> EvaluationPart:
    """Score the captions, by group and by fault."""
    which = REFERENCES[style]
    scored = score_cases(data.cases, said.captions, tools, pool=data.cases, references=which)
    sorted_ = group_scores(scored)
    groups = {name: aggregate_scores(items, tools) for name, items in sorted_.items()}
    faults = {
        name: _measure_faults(items, data, style)
        for name, items in sorted_.items()
        if name == "all" or _is_family(name)
    }
    name, _ = find_commonest_template(item.caption for item in scored)
    return EvaluationPart(data, style, scored, groups, faults, name, said)


def _measure_faults(items: Sequence[ScoredCaption], data: TestSet, style: Style) -> Figures:
    if style == "long":
        return measure_long_faults(items)
    return measure_short_faults(items, data.cases, data.training, references=REFERENCES[style])


def _is_family(name: str) -> bool:
    return name.startswith("family=") and "|" not in name


def describe_part(part: EvaluationPart) -> dict[str, Any]:  # JSON
    """Return a part's entry in `metrics.json`."""
    return {
        "captions": len(part.scored),
        "failed": len(part.said.failed),
        "references": REFERENCES[part.style],
        "commonest_template": part.template,
        "groups": {name: round_figures(figures) for name, figures in part.groups.items()},
        "faults": {name: round_figures(figures) for name, figures in part.faults.items()},
    }


def round_figures(figures: Figures) -> Figures:
    """Round to five decimals."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}


def write_captions(path: Path, part: EvaluationPart) -> None:
    """Write one line per caption with its references and figures."""
    with path.open("w", encoding="utf8") as out:
        for item in part.scored:
            out.write(json.dumps(_make_caption_row(item, part)) + "\n")


def _make_caption_row(item: ScoredCaption, part: EvaluationPart) -> dict[str, Any]:  # JSON
    key = item.case.region_id
    return {
        "region_id": key,
        "image_key": item.case.image_key,
        "source": item.case.record.source,
        "caption": part.said.captions[key],
        "score": round(part.said.confidence.get(key, 0.0), 5),
        "references": list(item.references),
        "figures": {name: round(value, 5) for name, value in item.figures.items()},
    }


def make_captions_path(out: Path, part: EvaluationPart, *, several: bool) -> Path:
    """Return `captions.jsonl` for short captions, `captions-long.jsonl` for long ones; with several
    roots, the name contains the root.
    """
    words = ["captions", *([part.data.name] if several else [])]
    words += ["long"] if part.style == "long" else []
    return out / ("-".join(words) + ".jsonl")


def list_failures(parts: Sequence[EvaluationPart]) -> dict[str, str]:
    """List every region without a caption, and the reason."""
    return {key: reason for part in parts for key, reason in part.said.failed.items()}
