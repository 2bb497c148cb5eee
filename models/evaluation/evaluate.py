"""One evaluation: captions of a data set in one style, their figures, and the folder they go to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.datatypes import Style
from ureca.models.evaluation.caption import Captioned, Failed
from ureca.models.evaluation.measures.failure_rates import (
    commonest_template,
    long_faults,
    short_faults,
)
from ureca.models.evaluation.measures.scores import (
    Figures,
    Scored,
    Tools,
    aggregate,
    by_group,
    score,
)
from ureca.models.evaluation.test_set import EvaluationCase, References, TestSet

REFERENCES: dict[Style, References] = {"short": "both", "long": "long"}
"""What a style is judged by: a short phrase may be found in any wording."""


@dataclass(frozen=True, slots=True)
class CaptionResults:
    """The captions of one pass, with their scores, and the regions that have none."""

    captions: Mapping[str, str]
    confidence: Mapping[str, float]
    failed: Mapping[str, str]

    @classmethod
    def collect(cls, results: Iterable[Captioned | Failed]) -> CaptionResults:
        """Sort the results of a captioner."""
        captions: dict[str, str] = {}
        confidence: dict[str, float] = {}
        failed: dict[str, str] = {}
        for result in results:
            if isinstance(result, Failed):
                failed[result.region_id] = result.reason
                continue
            captions[result.region_id] = result.caption
            confidence[result.region_id] = result.score
        return cls(captions, confidence, failed)


@dataclass(frozen=True)
class EvaluationPart:
    """One data set in one style, judged."""

    data: TestSet
    style: Style
    scored: list[Scored]
    groups: dict[str, Figures]
    faults: dict[str, Figures]
    template: str
    said: CaptionResults

    @property
    def name(self) -> str:
        """The key in `metrics.json`, as in "data/short"."""
        return f"{self.data.name}/{self.style}"


def cases_for(data: TestSet, style: Style) -> list[EvaluationCase]:
    """Long captions are asked only where people wrote some."""
    if style == "short":
        return list(data.cases)
    return [case for case in data.cases if case.references("long")]


def judge(data: TestSet, style: Style, said: CaptionResults, tools: Tools) -> EvaluationPart:
    """Score what was said, by group and by fault."""
    which = REFERENCES[style]
    scored = score(data.cases, said.captions, tools, pool=data.cases, references=which)
    sorted_ = by_group(scored)
    groups = {name: aggregate(items, tools) for name, items in sorted_.items()}
    faults = {
        name: _faults(items, data, style)
        for name, items in sorted_.items()
        if name == "all" or _is_family(name)
    }
    name, _ = commonest_template(item.caption for item in scored)
    return EvaluationPart(data, style, scored, groups, faults, name, said)


def _faults(items: Sequence[Scored], data: TestSet, style: Style) -> Figures:
    if style == "long":
        return long_faults(items)
    return short_faults(items, data.cases, data.training, references=REFERENCES[style])


def _is_family(name: str) -> bool:
    return name.startswith("family=") and "|" not in name


def part_json(part: EvaluationPart) -> dict[str, Any]:  # JSON
    """What `metrics.json` says of a part."""
    return {
        "captions": len(part.scored),
        "failed": len(part.said.failed),
        "references": REFERENCES[part.style],
        "commonest_template": part.template,
        "groups": {name: rounded(figures) for name, figures in part.groups.items()},
        "faults": {name: rounded(figures) for name, figures in part.faults.items()},
    }


def rounded(figures: Figures) -> Figures:
    """Five decimals: more would be noise."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}


def write_captions(path: Path, part: EvaluationPart) -> None:
    """One line per caption with its references and own figures."""
    with path.open("w", encoding="utf8") as out:
        for item in part.scored:
            out.write(json.dumps(_caption_row(item, part)) + "\n")


def _caption_row(item: Scored, part: EvaluationPart) -> dict[str, Any]:  # JSON
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


def captions_path(out: Path, part: EvaluationPart, *, several: bool) -> Path:
    """`captions.jsonl` for the short ones, `captions-long.jsonl`; with the root's name if many."""
    words = ["captions", *([part.data.name] if several else [])]
    words += ["long"] if part.style == "long" else []
    return out / ("-".join(words) + ".jsonl")


def failures(parts: Sequence[EvaluationPart]) -> dict[str, str]:
    """Every region without a caption, and why."""
    return {key: reason for part in parts for key, reason in part.said.failed.items()}
