"""From captions to figures: every measure of every region, and their aggregates per group.

Figures of one region stay in a `Scored` and are averaged; corpus measures (METEOR, BLEU, distinct
ratio) are computed from a group's captions together. What a missing package would have measured is
None, with the remedy in `missing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from ureca.errors import MissingExtraError
from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.measures.retrieval import find_own, of_same_type, similarities, stack
from ureca.models.evaluation.measures.similarity import Embedder
from ureca.models.evaluation.test_set import EvaluationCase, References, by_picture, groups_of
from ureca.models.evaluation.text import ngrams
from ureca.models.evaluation.text.phrase_parsing import is_headed_by, names_it, normal

Figures = dict[str, float | int | None]
Made = TypeVar("Made")

MEANS = (
    "meteor_mean", "cider", "rouge_l", "sim_max", "sim_mean", "head", "head_own", "unique",
    "unique_chance", "unique_type", "unique_type_chance", "words",
)  # fmt: skip
"""Figures that are plain means over regions."""
COUNTED = ("head", "unique", "unique_type")
"""Means whose number of regions differs from `n`."""
WITH_ERROR = ("meteor_mean", "cider", "head", "unique")


@dataclass(slots=True)
class Scored:
    """One captioned region: its normalised caption and references, and its own figures."""

    case: EvaluationCase
    caption: str
    references: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)
    meteor: str = ""
    """METEOR's match counts, from which any group's corpus figure is made."""


@dataclass
class Tools:
    """The measures that need other programs; build it with `open_tools`."""

    meteor: Meteor | None
    embedder: Embedder | None
    missing: dict[str, str]


def open_tools(
    stack: ExitStack, *, embedder: Callable[[], Embedder] | None, meteor: bool = True
) -> Tools:
    """Start what is installed; the remedy for each absent piece goes into `missing`.

    The stack ends METEOR's Java process.
    """
    missing: dict[str, str] = {}
    java = _if_there("meteor", Meteor, missing) if meteor else None
    if java is not None:
        stack.enter_context(java)
    model = _if_there("similarity", embedder, missing) if embedder is not None else None
    _if_there("bleu, rouge_l, cider", _ngram_packages, missing)
    return Tools(java, model, missing)


def _if_there(name: str, make: Callable[[], Made], missing: dict[str, str]) -> Made | None:
    try:
        return make()
    except MissingExtraError as error:
        missing[name] = str(error)
        return None


def _ngram_packages() -> None:
    ngrams.bleu(["a"], [["a"]])


def score(
    cases: Sequence[EvaluationCase],
    captions: Mapping[str, str],
    tools: Tools,
    *,
    pool: Sequence[EvaluationCase],
    references: References,
) -> list[Scored]:
    """Every captioned case with its figures.

    `pool` holds all regions of the pictures: the candidates of the retrieval.
    """
    scored = [
        Scored(case, normal(captions[case.region_id]), case.references(references))
        for case in cases
        if case.region_id in captions
    ]
    _score_names(scored, references)
    told = [item for item in scored if item.references]
    for item in told:
        item.figures["words"] = len(item.caption.split())
    _score_ngrams(told, tools)
    if tools.meteor is not None and told:
        _score_meteor(told, tools.meteor)
    if tools.embedder is not None and told:
        _score_meaning(told, pool, tools.embedder, references)
    return scored


def _score_names(scored: Iterable[Scored], references: References) -> None:
    for item in scored:
        accepted = item.case.accepted(references)
        if accepted:
            item.figures["head"] = float(names_it(item.caption, accepted))
            item.figures["head_own"] = float(is_headed_by(item.caption, accepted))


def _score_ngrams(told: Sequence[Scored], tools: Tools) -> None:
    if any("bleu" in name for name in tools.missing):
        return
    captions = {item.case.region_id: item.caption for item in told}
    texts = {item.case.region_id: item.references for item in told}
    consensus, overlap = ngrams.cider(captions, texts), ngrams.rouge_l(captions, texts)
    for item in told:
        item.figures["cider"] = consensus[item.case.region_id]
        item.figures["rouge_l"] = overlap[item.case.region_id]


def _score_meteor(told: Sequence[Scored], meteor: Meteor) -> None:
    for item in told:
        item.meteor = meteor.statistics(item.caption, item.references)
    each, _ = meteor.evaluate([item.meteor for item in told])
    for item, value in zip(told, each, strict=True):
        item.figures["meteor_mean"] = value


def _score_meaning(
    told: Sequence[Scored],
    pool: Sequence[EvaluationCase],
    embedder: Embedder,
    references: References,
) -> None:
    pictures = {item.case.image_key for item in told}
    shown = [case for case in pool if case.image_key in pictures]
    texts = {case.region_id: case.references(references) for case in shown}
    texts = {key: value for key, value in texts.items() if value}
    neighbours = by_picture(case for case in shown if case.region_id in texts)
    said = [item.caption for item in told]
    vectors = embedder.embed([*said, *(text for value in texts.values() for text in value)])
    known = {key: stack(value, vectors) for key, value in texts.items()}
    for item in told:
        own, near = item.case.region_id, neighbours[item.case.image_key]
        caption = vectors[item.caption]
        most, mean = similarities(caption, known[own])
        item.figures |= {"sim_max": most, "sim_mean": mean}
        everyone = [case.region_id for case in near]
        for name, candidates in (
            ("unique", everyone),
            ("unique_type", of_same_type(item.case, near)),
        ):
            found = find_own(caption, own, candidates, known)
            if found is not None:
                item.figures |= {name: found.hit, f"{name}_chance": found.chance}


def by_group(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Scored regions by group name, in the order of the report: "all" first."""
    groups: dict[str, list[Scored]] = {"all": []}
    for item in scored:
        for name in groups_of(item.case):
            groups.setdefault(name, []).append(item)
    return {name: groups[name] for name in sorted(groups, key=_place)}


def _place(group: str) -> tuple[int, str]:
    kinds = ("all", "family=", "people", "non-people", "type=", "part", "stuff", "group", "mask=")
    found = (i for i, kind in enumerate(kinds) if group.startswith(kind))
    return next(found, len(kinds)), group


def aggregate(items: Sequence[Scored], tools: Tools) -> Figures:
    """All figures of one group; None where nothing could be measured."""
    told = [item for item in items if item.references]
    figures: Figures = {
        "n": len(told),
        "n_references": sum(len(item.references) for item in told),
        "n_pictures": len({item.case.image_key for item in items}),
        "distinct": _ratio(len({item.caption for item in items}), len(items)),
        "meteor": _corpus_meteor(told, tools),
    }
    figures.update(_corpus_bleu(told, tools))
    for name in MEANS:
        values = [item.figures[name] for item in items if name in item.figures]
        figures[name] = mean(values)
        if name in COUNTED:
            figures[f"n_{name}"] = len(values)
        if name in WITH_ERROR:
            figures[f"{name}_se"] = standard_error(values)
    return figures


def _corpus_meteor(told: Sequence[Scored], tools: Tools) -> float | None:
    if tools.meteor is None or not told:
        return None
    return tools.meteor.evaluate([item.meteor for item in told])[1]


def _corpus_bleu(told: Sequence[Scored], tools: Tools) -> Figures:
    names = [f"bleu{order}" for order in (1, 2, 3, 4)]
    if not told or any("bleu" in name for name in tools.missing):
        return dict.fromkeys(names)
    values = ngrams.bleu([item.caption for item in told], [item.references for item in told])
    return dict(zip(names, values, strict=True))


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return sum(values) / len(values) if values else None


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent values; None of fewer than two."""
    if len(values) < 2:
        return None
    middle = sum(values) / len(values)
    spread = sum((value - middle) ** 2 for value in values)
    return math.sqrt(spread / (len(values) - 1) / len(values))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
