"""ViP-Bench's files, the judge's prompt, and the score of its answers.

`vip-bench-meta-data.json` has for each question its answer and what it takes (`capability`);
`bbox/questions.jsonl` and `human/questions.jsonl` its text for pictures with drawn boxes and with
what people drew; `source_image/NAME.json` the outlines of `<obj>` in labelme's form. The rule is
the published one: the judge gives 0 to 1 in tenths; means over questions, by capability and by all
capabilities of a question, times 100. The wording of the prompt is ours.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ureca.errors import ConfigError, SourceError
from ureca.models.data.readers.core import load_json
from ureca.models.data.regions import read_rows

Split = Literal["bbox", "human"]
META, QUESTIONS = "vip-bench-meta-data.json", "questions.jsonl"
PROMPT = """Judge how right an answer to a question about a picture is. You do not see the \
picture; the right answer is given. In it, <AND> joins parts that must all be in the answer, each \
for its share of the points; <OR> joins answers of which one is enough. Other words for the same \
are right.

Question: {question}
Right answer: {truth}
Answer: {answer}

Reply with one number from 0.0 (all wrong) to 1.0 (all right) in steps of 0.1, and nothing else."""
AGAIN = "\nReply with the number only, such as 0.3."
_PLACES = re.compile(r"(\{question\}|\{truth\}|\{answer\})")
_NUMBER = re.compile(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?|\.\d+)(?![\d.]*\d)")


class _Meta(msgspec.Struct):
    image: str
    question: str
    answer: str
    capability: list[str]
    image_source: str = ""


@dataclass(frozen=True, slots=True)
class VipQuestion:
    """One question: its text for the split's pictures and as written for regions (`<obj>`), the
    right answer, what it takes, and its files.
    """

    key: str
    text: str
    about: str
    truth: str
    capabilities: tuple[str, ...]
    image: str
    source: str


def read_vip_questions(bench: Path, split: Split) -> list[VipQuestion]:
    """The questions of a split in the order of their metadata. Raises `SourceError` for files that
    do not fit.
    """
    meta = load_json(bench / META, dict[str, _Meta])
    rows = list(read_rows(bench / split / QUESTIONS))
    texts = {f"v1_{row.get('question_id')}": row.get("text") for row in rows}
    missing = sorted(key for key in meta if not isinstance(texts.get(key), str))
    if missing or not meta:
        raise SourceError(
            f"{bench / split / QUESTIONS} has no text for {len(missing)} of {len(meta)} questions "
            f"of {META}: {missing[:5]}"
        )
    return [
        VipQuestion(
            key=key,
            text=str(texts[key]),
            about=one.question,
            truth=one.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> "),
            capabilities=tuple(sorted(set(one.capability))),
            image=one.image,
            source=one.image_source,
        )
        for key, one in meta.items()
    ]


def make_vip_prompt(template: str, question: VipQuestion, answer: str) -> str:
    """The judge's prompt. Raises `ConfigError` for a template without its places."""
    places = {"{question}": question.text, "{truth}": question.truth, "{answer}": answer}
    missing = [place for place in places if place not in template]
    if missing:
        raise ConfigError(f"a prompt needs the places {', '.join(missing)}")
    return "".join(places.get(part, part) for part in _PLACES.split(template))


def parse_score(answer: str) -> float | None:
    """The number 0..1 of a judge's answer; None if it has none, or several that differ."""
    found = {float(text) for text in _NUMBER.findall(answer)}
    return found.pop() if len(found) == 1 else None


def summarise_scores(
    questions: Sequence[VipQuestion], scores: Mapping[str, Sequence[float]]
) -> dict[str, Any]:  # JSON
    """Means times 100 of the questions with scores (one for each run): `total` with its deviation
    over runs, by capability, and by all capabilities of a question.
    """
    judged = [one for one in questions if one.key in scores]
    if not judged:
        return {"total": None, "total_std": None, "capabilities": {}, "integrations": {}, "n": 0}
    single: defaultdict[str, list[float]] = defaultdict(list)
    joint: defaultdict[str, list[float]] = defaultdict(list)
    for one in judged:
        mean = float(np.mean(scores[one.key]))
        for name in one.capabilities:
            single[name].append(mean)
        joint["_".join(one.capabilities)].append(mean)
    runs = 100 * np.mean([scores[one.key] for one in judged], axis=0)
    return {
        "total": round(float(runs.mean()), 2),
        "total_std": round(float(runs.std()), 2),
        "capabilities": {name: _describe(values) for name, values in sorted(single.items())},
        "integrations": {name: _describe(values) for name, values in sorted(joint.items())},
        "n": len(judged),
    }


def _describe(values: Sequence[float]) -> dict[str, float | int]:
    return {"score": round(100 * float(np.mean(values)), 2), "n": len(values)}
