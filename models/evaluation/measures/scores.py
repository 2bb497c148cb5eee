"""Computes every measure of every region, and aggregates per group.

Figures of one region stay in a `ScoredCaption` and are averaged. Corpus measures (METEOR, BLEU,
distinct ratio) are computed from a group's captions together. A measure whose package is missing is
None, and `missing` has the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from ureca.errors import MissingExtraError
from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.measures.retrieval import (
    compute_similarities,
    find_own,
    find_same_type,
    stack_vectors,
)
from ureca.models.evaluation.measures.similarity import Embedder
from ureca.models.evaluation.test_set import (
    EvaluationCase,
    References,
    group_by_picture,
    list_groups,
)
from ureca.models.evaluation.text import ngrams
from ureca.models.evaluation.text.phrase_parsing import contains_name, is_headed_by, normalise_text

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
class ScoredCaption:
    """One captioned region: its normalised caption and references, and its own figures."""

    case: EvaluationCase
    caption: str
    references: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)
    meteor: str = ""
    """METEOR's match counts, from which any group's corpus figure is made."""


@dataclass
class Tools:
    """The measures that need other programs; `open_tools` builds it."""

    meteor: Meteor | None
    embedder: Embedder | None
    missing: dict[str, str]


def open_tools(
    stack: ExitStack, *, embedder: Callable[[], Embedder] | None, meteor: bool = True
) -> Tools:
    """Start every installed tool; add the remedy for each missing one to `missing`.

    The stack ends METEOR's Java process.
    """
    missing: dict[str, str] = {}
    java = _open_if_installed("meteor", Meteor, missing) if meteor else None
    if java is not None:
        stack.enter_context(java)
    model = _open_if_installed("similarity", embedder, missing) if embedder is not None else None
    _open_if_installed("bleu, rouge_l, cider", _check_ngram_packages, missing)
    return Tools(java, model, missing)


def _open_if_installed(name: str, make: Callable[[], Made], missing: dict[str, str]) -> Made | None:
    try:
        return make()
    except MissingExtraError as error:
        missing[name] = str(error)
        return None


def _check_ngram_packages() -> None:
    ngrams.compute_bleu(["a"], [["a"]])


def score_cases(
    cases: Sequence[EvaluationCase],
    captions: Mapping[str, str],
    tools: Tools,
    *,
    pool: Sequence[EvaluationCase],
    references: References,
) -> list[ScoredCaption]:
    """Return every captioned case with its figures.

    `pool` holds all regions of the pictures: the candidates of the retrieval.
    """
    scored = [
        ScoredCaption(
            case, normalise_text(captions[case.region_id]), case.list_references(references)
        )
        for case in cases
        if case.region_id in captions
    ]
    _score_names(scored, references)
    described = [item for item in scored if item.references]
    for item in described:
        item.figures["words"] = len(item.caption.split())
    _score_ngrams(described, tools)
    if tools.meteor is not None and described:
        _score_meteor(described, tools.meteor)
    if tools.embedder is not None and described:
        _score_meaning(described, pool, tools.embedder, references)
    return scored


def _score_names(scored: Iterable[ScoredCaption], references: References) -> None:
    for item in scored:
        accepted = item.case.find_accepted_names(references)
        if accepted:
            item.figures["head"] = float(contains_name(item.caption, accepted))
            item.figures["head_own"] = float(is_headed_by(item.caption, accepted))


def _score_ngrams(described: Sequence[ScoredCaption], tools: Tools) -> None:
    if any("bleu" in name for name in tools.missing):
        return
    captions = {item.case.region_id: item.caption for item in described}
    texts = {item.case.region_id: item.references for item in described}
    consensus, overlap = (
        ngrams.compute_cider(captions, texts),
        ngrams.compute_rouge_l(captions, texts),
    )
    for item in described:
        item.figures["cider"] = consensus[item.case.region_id]
        item.figures["rouge_l"] = overlap[item.case.region_id]


def _score_meteor(described: Sequence[ScoredCaption], meteor: Meteor) -> None:
    for item in described:
        item.meteor = meteor.match(item.caption, item.references)
    each, _ = meteor.evaluate([item.meteor for item in described])
    for item, value in zip(described, each, strict=True):
        item.figures["meteor_mean"] = value


def _score_meaning(
    described: Sequence[ScoredCaption],
    pool: Sequence[EvaluationCase],
    embedder: Embedder,
    references: References,
) -> None:
    pictures = {item.case.image_key for item in described}
    shown = [case for case in pool if case.image_key in pictures]
    texts = {case.region_id: case.list_references(references) for case in shown}
    texts = {key: value for key, value in texts.items() if value}
    neighbours = group_by_picture(case for case in shown if case.region_id in texts)
    said = [item.caption for item in described]
    vectors = embedder.embed([*said, *(text for value in texts.values() for text in value)])
    known = {key: stack_vectors(value, vectors) for key, value in texts.items()}
    for item in described:
        own, near = item.case.region_id, neighbours[item.case.image_key]
        caption = vectors[item.caption]
        most, mean = compute_similarities(caption, known[own])
        item.figures |= {"sim_max": most, "sim_mean": mean}
        everyone = [case.region_id for case in near]
        for name, candidates in (
            ("unique", everyone),
            ("unique_type", find_same_type(item.case, near)),
        ):
            found = find_own(caption, own, candidates, known)
            if found is not None:
                item.figures |= {name: found.hit, f"{name}_chance": found.chance}


def group_scores(scored: Sequence[ScoredCaption]) -> dict[str, list[ScoredCaption]]:
    """Group scored regions by group name, in the order of the report: "all" first."""
    groups: dict[str, list[ScoredCaption]] = {"all": []}
    for item in scored:
        for name in list_groups(item.case):
            groups.setdefault(name, []).append(item)
    return {name: groups[name] for name in sorted(groups, key=_rank_group)}


def _rank_group(group: str) -> tuple[int, str]:
    kinds = ("all", "family=", "people", "non-people", "type=", "part", "stuff", "group", "mask=")
    found = (i for i, kind in enumerate(kinds) if group.startswith(kind))
    return next(found, len(kinds)), group


def aggregate_scores(items: Sequence[ScoredCaption], tools: Tools) -> Figures:
    """Return all figures of one group; None for what could not be measured."""
    described = [item for item in items if item.references]
    figures: Figures = {
        "n": len(described),
        "n_references": sum(len(item.references) for item in described),
        "n_pictures": len({item.case.image_key for item in items}),
        "distinct": _compute_ratio(len({item.caption for item in items}), len(items)),
        "meteor": _compute_corpus_meteor(described, tools),
    }
    figures.update(_compute_corpus_bleu(described, tools))
    for name in MEANS:
        values = [item.figures[name] for item in items if name in item.figures]
        figures[name] = compute_mean(values)
        if name in COUNTED:
            figures[f"n_{name}"] = len(values)
        if name in WITH_ERROR:
            figures[f"{name}_se"] = compute_standard_error(values)
    return figures


def _compute_corpus_meteor(described: Sequence[ScoredCaption], tools: Tools) -> float | None:
    if tools.meteor is None or not described:
        return None
    return tools.meteor.evaluate([item.meteor for item in described])[1]


def _compute_corpus_bleu(described: Sequence[ScoredCaption], tools: Tools) -> Figures:
    names = [f"bleu{order}" for order in (1, 2, 3, 4)]
    if not described or any("bleu" in name for name in tools.missing):
        return dict.fromkeys(names)
    values = ngrams.compute_bleu(
        [item.caption for item in described], [item.references for item in described]
    )
    return dict(zip(names, values, strict=True))


def compute_mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None for no values."""
    return sum(values) / len(values) if values else None


def compute_standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    middle = sum(values) / len(values)
    spread = sum((value - middle) ** 2 for value in values)
    return math.sqrt(spread / (len(values) - 1) / len(values))


def _compute_ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
