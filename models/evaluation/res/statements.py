"""Hard statements about whole pictures: does the likelihood know which one is true?

Statements are those of `models/data/statements.py`. The region is the whole picture. A pair is
right if the true caption fits better; single statements are taken for true above a threshold that
the other half of the pictures chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ureca.datatypes import RegionInput
from ureca.engine import ScoringEngine
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, hash_image_key
from ureca.models.data.statements import StatementRecord
from ureca.models.evaluation.res.intervals import area_under_curve, mean_interval

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedStatement:
    """A statement and how well it and its variant fit the whole picture; NaN: not computed."""

    record: StatementRecord
    fit: tuple[float, float]
    """Nats per token above the text's own probability: of the caption, of the negative."""
    bag: tuple[float, float]


def judge_statements(
    engine: ScoringEngine, store: ImageStore, records: Sequence[StatementRecord]
) -> Iterator[JudgedStatement]:
    """Every statement whose picture is there, picture by picture."""
    by_picture: dict[str, list[StatementRecord]] = {}
    for record in records:
        by_picture.setdefault(record.image_key, []).append(record)
    for key, rows in by_picture.items():
        if key not in store:
            continue
        image = store.read(key)
        frame = engine.encode(image)
        whole = RegionInput(np.ones(image.shape[:2], np.bool_), "long")
        texts = list(dict.fromkeys(t for row in rows for t in (row.caption, row.negative) if t))
        scores = engine.score(frame, [whole], texts, max_fit=1)
        fit = dict(zip(texts, scores.fit[:, 0].tolist(), strict=True))
        bag = dict(zip(texts, scores.bag[:, 0].tolist(), strict=True))
        for row in rows:
            other = row.negative or row.caption
            yield JudgedStatement(
                row, (fit[row.caption], fit[other]), (bag[row.caption], bag[other])
            )


def statement_figures(judged: Sequence[JudgedStatement], *, seed: int) -> Json:
    """Accuracy by kind with 95 % intervals over pictures, and whether it is chance."""
    kinds = sorted({one.record.kind for one in judged})
    found = {kind: _kind([j for j in judged if j.record.kind == kind], seed) for kind in kinds}
    pairs = [one for one in judged if one.record.negative]
    if pairs:
        found["all pairs"] = _kind(pairs, seed)
    return found


def _kind(judged: Sequence[JudgedStatement], seed: int) -> Json:
    known = [one for one in judged if np.isfinite(one.fit).all()]
    found: Json = {"n": len(known), "not_scored": len(judged) - len(known)}
    if not known:
        return found
    paired = bool(known[0].record.negative)
    right = _pairs_right if paired else _labels_right
    pictures, values = zip(*right(known, lambda one: one.fit), strict=True)
    chance, interval = _chance(known), mean_interval(pictures, values, seed=seed)
    found |= {
        "accuracy": sum(values) / len(values),
        "interval": interval,
        "chance": chance,
        "verdict": _verdict(interval, chance),
        "bag_accuracy": float(np.mean([hit for _, hit in right(known, lambda one: one.bag)])),
    }
    if not paired:
        labels = [bool(one.record.label) for one in known]
        found["auc"] = area_under_curve([one.fit[0] for one in known], labels)
    return found


def _verdict(interval: tuple[float, float] | None, chance: float) -> str:
    if interval is None or interval[0] <= chance <= interval[1]:
        return "chance"
    return "above chance" if interval[0] > chance else "below chance"


_Scores = Callable[[JudgedStatement], tuple[float, float]]
_Hits = list[tuple[str, float]]
"""Pictures, and 1 for right, 0 for wrong, 0.5 for a tie."""


def _pairs_right(judged: Sequence[JudgedStatement], scores: _Scores) -> _Hits:
    return [(one.record.image_key, _better(*scores(one))) for one in judged]


def _better(true: float, false: float) -> float:
    return 0.5 if true == false else float(true > false)


def _labels_right(judged: Sequence[JudgedStatement], scores: _Scores) -> _Hits:
    """Each half of the pictures is judged by the threshold that is best on the other one."""
    halves: tuple[list[JudgedStatement], list[JudgedStatement]] = ([], [])
    for one in judged:
        halves[hash_image_key(one.record.image_key) // HELD_OUT_EVERY % 2].append(one)
    found: _Hits = []
    for half, other in (halves, halves[::-1]):
        cut = _threshold([(scores(one)[0], bool(one.record.label)) for one in other])
        said = [(one, scores(one)[0] >= cut) for one in half]
        found += [(one.record.image_key, float(true == one.record.label)) for one, true in said]
    return found


def _threshold(rows: Sequence[tuple[float, bool]]) -> float:
    """The score from which on "true" is right most often; minus infinity for no rows."""
    cuts = [-np.inf, *(score for score, _ in rows)]
    return max(cuts, key=lambda cut: sum((score >= cut) == label for score, label in rows))


def _chance(judged: Sequence[JudgedStatement]) -> float:
    """Half for pairs; for labels the share of the more frequent one."""
    if judged[0].record.negative:
        return 0.5
    share = float(np.mean([bool(one.record.label) for one in judged]))
    return max(share, 1 - share)
