"""Tables of several evaluations side by side: a row each, the first table with the headline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ureca.models.evaluation.measures.scenes import SLOTS
from ureca.models.evaluation.reports.tables import COLUMNS, HEADLINE, Table, cell

Json = Mapping[str, Any]  # JSON values
ByName = Mapping[str, Json]
"""The contents of `metrics.json` by the evaluation's name."""

_CHOSEN: Final = (
    ("flickr", "family=flickr", ("n", "meteor", "cider", "head", "unique", "distinct")),
    ("coco", "family=coco", ("n_head", "head")),
    ("coco other", "family=coco|non-people", ("n_head", "head")),
)
_WORLD_ROWS: Final = ("all", "object", "part", "known look", "held-back look")
_WORLD_KEYS: Final = (*SLOTS, "true", "unique")


def figure_tables(metrics: ByName) -> list[Table]:
    """Headline, then every part by headline group with its faults, worlds and flicker."""
    tables = list(_headlines(metrics))
    for part in dict.fromkeys(part for found in metrics.values() for part in found["parts"]):
        tables += _group_tables(metrics, part)
        tables += _fault_tables(metrics, part)
    return [*tables, *_world_tables(metrics), *_flicker_table(metrics)]


def _headlines(metrics: ByName) -> Iterator[Table]:
    """One row per evaluation with the figures that decide, for every part that has them."""
    parts = dict.fromkeys(part for found in metrics.values() for part in found["parts"])
    for part in parts:
        rows = [
            (name, cell(found.get("mask_iou")), *_headline(found["parts"][part]["groups"]))
            for name, found in metrics.items()
            if part in found["parts"]
        ]
        heads = [f"{label} {COLUMNS.get(k, k)}" for label, _, keys in _CHOSEN for k in keys]
        yield Table(f"{part}: headline", ("evaluation", "mask IoU", *heads), tuple(rows))


def _headline(groups: Json) -> list[str]:
    return [cell(groups.get(group, {}).get(key)) for _, group, keys in _CHOSEN for key in keys]


def _group_tables(metrics: ByName, part: str) -> Iterator[Table]:
    for group in HEADLINE:
        rows = []
        for name, found in metrics.items():
            figures = found["parts"].get(part, {}).get("groups", {}).get(group)
            if figures is not None:
                rows.append((name, *(cell(figures.get(key)) for key in COLUMNS)))
        if rows:
            yield Table(f"{part}, {group}", ("evaluation", *COLUMNS.values()), tuple(rows))


def _fault_tables(metrics: ByName, part: str) -> Iterator[Table]:
    found = {name: m["parts"][part]["faults"] for name, m in metrics.items() if part in m["parts"]}
    for group in dict.fromkeys(group for faults in found.values() for group in faults):
        first = next(faults[group] for faults in found.values() if group in faults)
        keys = [key for key in first if not key.startswith("n_")]
        rows = [
            (name, *(cell(faults[group].get(key)) for key in keys))
            for name, faults in found.items()
            if group in faults
        ]
        yield Table(f"{part}, {group}: faults", ("evaluation", *keys), tuple(rows))


def _world_tables(metrics: ByName) -> Iterator[Table]:
    for part in dict.fromkeys(part for found in metrics.values() for part in found["worlds"]):
        for group in _WORLD_ROWS:
            rows = [
                (name, *(cell(found["worlds"][part][group].get(key)) for key in _WORLD_KEYS))
                for name, found in metrics.items()
                if group in found["worlds"].get(part, {})
            ]
            if rows:
                yield Table(f"{part}, {group}: slots", ("evaluation", *_WORLD_KEYS), tuple(rows))


def _flicker_table(metrics: ByName) -> Iterator[Table]:
    keys = ("n", "changed", "words_changed", "head_changed")
    rows = [
        (name, *(cell(found["flicker"]["figures"]["all"].get(key)) for key in keys))
        for name, found in metrics.items()
        if found["flicker"]
    ]
    if rows:
        yield Table("Flicker over all clips", ("evaluation", *keys), tuple(rows))
