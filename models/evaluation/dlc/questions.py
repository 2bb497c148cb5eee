"""The questions of DLC-Bench, the judge's prompt, and the score of an answer.

The rule is the published one (Describe Anything, section 5 and its evaluation program): every
question is multiple choice with a score for each choice. The first asks whether the description is
of the right kind of object; if it is not, no other question of the region scores above 0. The
wording of the prompt and of that first question is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

import msgspec

from ureca.errors import ConfigError, SourceError
from ureca.models.data.readers.core import load_json
from ureca.models.evaluation.measures.scores import compute_mean, compute_standard_error

PROMPT = """Below is a description of one thing in a picture that you cannot see, and a question \
about the description with several answers.

Description:
{caption}

{question}

Choose the answer that fits the description best; it need not fit word for word. Reply with the \
letter and the text of that one answer, and with nothing else."""

_PLACES = re.compile(r"(\{caption\}|\{question\})")
_LABEL = re.compile(r"\(?([a-z])(?:[.):]|\s|$)")


class DlcQuestion(msgspec.Struct, frozen=True):
    """One of `qa.json`: choices with their scores in -1..1."""

    question: str
    choices: tuple[tuple[str, float], ...]
    type: Literal["recognition", "positive", "negative"]


@dataclass(frozen=True, slots=True)
class RegionScore:
    """A region's mean over its questions of each kind, None if there are none of the kind."""

    positive: float | None
    negative: float | None
    recognised: bool
    unread: int
    """Answers in which no choice could be found; they count 0."""


def read_questions(qa: Path, names: Path) -> dict[str, tuple[DlcQuestion, ...]]:
    """Read questions by annotation id, the one on the kind of object first. Raises
    `SourceError`.
    """
    asked = load_json(qa, dict[str, list[DlcQuestion]])
    kinds = load_json(names, dict[str, str])
    missing = sorted(asked.keys() - kinds.keys())
    if missing or not asked:
        raise SourceError(f"{names} has no name for the regions {missing[:5]} of {qa}")
    found = {key: (make_recognition_question(kinds[key]), *rows) for key, rows in asked.items()}
    for key, rows in found.items():
        if not all(2 <= len(row.choices) <= len(ascii_uppercase) for row in rows):
            raise SourceError(f"{qa}: region {key}: expected 2 to 26 choices to every question")
    return found


def make_recognition_question(kind: str) -> DlcQuestion:
    """Return the question whether a description is of this kind of object."""
    text = (
        f'Could what is described be this: "{kind}", or something of a similar kind? It need not '
        "be exactly that."
    )
    return DlcQuestion(text, (("Yes", 1.0), ("No", 0.0)), "recognition")


def make_prompt(template: str, caption: str, question: DlcQuestion) -> str:
    """Return the judge's prompt. Raises `ConfigError` for a template without its two
    placeholders.
    """
    if "{caption}" not in template or "{question}" not in template:
        raise ConfigError("a prompt needs the places {caption} and {question}")
    letters = zip(ascii_uppercase, question.choices, strict=False)
    lines = [question.question, *(f"{letter}. {text}" for letter, (text, _) in letters)]
    places = {"{caption}": caption, "{question}": "\n".join(lines)}
    return "".join(places.get(part, part) for part in _PLACES.split(template))


def find_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Return the choice that an answer selects: by its text or letter, else the only choice that it
    contains, else its leading letter, else the last choice in it, else the choice that contains the
    answer.
    """
    said = answer.strip().lower()
    texts = [choice.strip().lower() for choice in choices]
    for number, text in enumerate(texts):
        letter = ascii_uppercase[number].lower()
        if said in {text, letter, f"{letter}.", f"{letter}. {text}"}:
            return number
    inside = [(said.rfind(text), len(text), number) for number, text in enumerate(texts)]
    inside = [each for each in inside if each[0] >= 0]
    if len(inside) == 1:
        return inside[0][2]
    label = _LABEL.match(said)
    if label and ascii_uppercase.lower().index(label[1]) < len(texts):
        return ascii_uppercase.lower().index(label[1])
    if inside:
        return max(inside)[2]
    around = [(len(text), number) for number, text in enumerate(texts) if said and said in text]
    return max(around)[1] if around else None


def score_region(questions: Sequence[DlcQuestion], answers: Sequence[str]) -> RegionScore:
    """Return the score of a region from the judge's answers, in the order of its questions."""
    picks = [
        find_choice(answer, [text for text, _ in question.choices])
        for question, answer in zip(questions, answers, strict=True)
    ]
    points = [
        0.0 if pick is None else question.choices[pick][1]
        for question, pick in zip(questions, picks, strict=True)
    ]
    recognised = points[0] > 0
    by_type: dict[str, list[float]] = {"positive": [], "negative": []}
    for question, value in zip(questions[1:], points[1:], strict=True):
        by_type[question.type].append(value if recognised else min(0.0, value))
    return RegionScore(
        compute_mean(by_type["positive"]),
        compute_mean(by_type["negative"]),
        recognised,
        picks.count(None),
    )


def compute_means(scores: Mapping[str, RegionScore]) -> dict[str, float | int | None]:
    """Return means over regions in -1..1, their mean, and counts."""
    positive = [s.positive for s in scores.values() if s.positive is not None]
    negative = [s.negative for s in scores.values() if s.negative is not None]
    both = (compute_mean(positive), compute_mean(negative))
    return {
        "positive": both[0],
        "negative": both[1],
        "average": None if both[0] is None or both[1] is None else (both[0] + both[1]) / 2,
        "positive_se": compute_standard_error(positive),
        "negative_se": compute_standard_error(negative),
        "regions": len(scores),
        "recognised": sum(s.recognised for s in scores.values()),
        "unread": sum(s.unread for s in scores.values()),
    }
