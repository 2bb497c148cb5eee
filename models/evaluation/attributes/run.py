"""Answers of an engine to the attributes of held-out regions, and their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tqdm import tqdm

from ureca.datatypes import RegionInput
from ureca.engine import AttributeEngine
from ureca.models.data.attributes import NOT_APPLICABLE
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.attributes.cases import AttributeCase, Half, group_cases
from ureca.models.evaluation.attributes.measures import Figures, JudgedAnswer, judge
from ureca.models.evaluation.attributes.tokens import decode_mask
from ureca.models.evaluation.measures.meteor import Meteor

Judged = dict[tuple[str, str], list[JudgedAnswer]]
"""By kind of picture and attribute."""
_MOST_WITHOUT: Final = 4
"""At most so many regions without an attribute are asked for one with it."""


def answer_cases(
    engine: AttributeEngine,
    root: Path,
    cases: Sequence[AttributeCase],
    *,
    half: Half | None = "report",
    limit: int | None = None,
) -> Judged:
    """Ask for every attribute that is known of the held-out regions, picture by picture. `half`
    None takes both halves.
    """
    wanted = (half,) if half else ("calibrate", "report")
    groups = group_cases([case for case in cases if case.half in wanted])
    images = ImageStore([root / "images"])
    keys = [key for key in groups if key in images][:limit]
    judged: Judged = defaultdict(list)
    for key in tqdm(keys, desc=f"attributes of {root.name}", unit="picture", disable=None):
        image = images.read(key)
        asked = [(one, RegionInput(decode_mask(one.record))) for one in groups[key]]
        kept = [(one, r) for one, r in asked if r.mask.any() and r.mask.shape == image.shape[:2]]
        regions = [replace(r, attributes=_list_names(engine, one)) for one, r in kept]
        answers = engine.read_attributes(engine.encode(image), regions)
        for (one, _), told in zip(kept, answers, strict=True):
            for answer in told:
                judged[one.kind, answer.name].append(JudgedAnswer(answer, one.mined[answer.name]))
    return {name: _thin(found) for name, found in sorted(judged.items())}


def _list_names(engine: AttributeEngine, case: AttributeCase) -> tuple[str, ...]:
    return tuple(name for name in engine.attributes if name in case.mined)


def _thin(found: list[JudgedAnswer]) -> list[JudgedAnswer]:
    """Leave out most of the many regions that cannot have the attribute."""
    real = [one for one in found if one.words != {NOT_APPLICABLE}]
    others = [one for one in found if one.words == {NOT_APPLICABLE}]
    return real + others[: max(100, _MOST_WITHOUT * len(real))]


def summarise(judged: Judged, meteor: Meteor | None = None) -> dict[str, dict[str, Figures]]:
    """Figures by kind of picture and attribute."""
    found: dict[str, dict[str, Figures]] = defaultdict(dict)
    for (kind, name), answers in judged.items():
        found[kind][name] = judge(answers, meteor)
    return dict(found)
