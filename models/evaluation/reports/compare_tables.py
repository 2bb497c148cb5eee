"""Makes tables of several evaluations side by side: one row each; the first table has the
headline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ureca.models.evaluation.measures.scenes import SLOTS
from ureca.models.evaluation.reports.tables import COLUMNS, HEADLINE, Table, format_cell

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


def make_figure_tables(metrics: ByName) -> list[Table]:
    """Return the headline, then every part by headline group with its faults, worlds and
    flicker.
    """
    tables = list(_make_headline_tables(metrics))
    for part in dict.fromkeys(part for found in metrics.values() for part in found["parts"]):
        tables += _make_group_tables(metrics, part)
        tables += _make_fault_tables(metrics, part)
    return [*tables, *_make_world_tables(metrics), *_make_flicker_table(metrics)]


def _make_headline_tables(metrics: ByName) -> Iterator[Table]:
    """Return one row per evaluation with the decisive figures, for every part that has them."""
    parts = dict.fromkeys(part for found in metrics.values() for part in found["parts"])
    for part in parts:
        rows = [
            (
                name,
                format_cell(found.get("mask_iou")),
                *_make_headline(found["parts"][part]["groups"]),
            )
            for name, found in metrics.items()
            if part in found["parts"]
        ]
        heads = [f"{label} {COLUMNS.get(k, k)}" for label, _, keys in _CHOSEN for k in keys]
        yield Table(f"{part}: headline", ("evaluation", "mask IoU", *heads), tuple(rows))


def _make_headline(groups: Json) -> list[str]:
    return [
        format_cell(groups.get(group, {}).get(key)) for _, group, keys in _CHOSEN for key in keys
    ]


def _make_group_tables(metrics: ByName, part: str) -> Iterator[Table]:
    for group in HEADLINE:
        rows = []
        for name, found in metrics.items():
            figures = found["parts"].get(part, {}).get("groups", {}).get(group)
            if figures is not None:
                rows.append((name, *(format_cell(figures.get(key)) for key in COLUMNS)))
        if rows:
            yield Table(f"{part}, {group}", ("evaluation", *COLUMNS.values()), tuple(rows))


def _make_fault_tables(metrics: ByName, part: str) -> Iterator[Table]:
    found = {name: m["parts"][part]["faults"] for name, m in metrics.items() if part in m["parts"]}
    for group in dict.fromkeys(group for faults in found.values() for group in faults):
        first = next(faults[group] for faults in found.values() if group in faults)
        keys = [key for key in first if not key.startswith("n_")]
        rows = [
            (name, *(format_cell(faults[group].get(key)) for key in keys))
            for name, faults in found.items()
            if group in faults
        ]
        yield Table(f"{part}, {group}: faults", ("evaluation", *keys), tuple(rows))


def _make_world_tables(metrics: ByName) -> Iterator[Table]:
    for part in dict.fromkeys(part for found in metrics.values() for part in found["worlds"]):
        for group in _WORLD_ROWS:
            rows = [
                (name, *(format_cell(found["worlds"][part][group].get(key)) for key in _WORLD_KEYS))
                for name, found in metrics.items()
                if group in found["worlds"].get(part, {})
            ]
            if rows:
                yield Table(f"{part}, {group}: slots", ("evaluation", *_WORLD_KEYS), tuple(rows))


def _make_flicker_table(metrics: ByName) -> Iterator[Table]:
    keys = ("n", "changed", "words_changed", "head_changed")
    rows = [
        (name, *(format_cell(found["flicker"]["figures"]["all"].get(key)) for key in keys))
        for name, found in metrics.items()
        if found["flicker"]
    ]
    if rows:
        yield Table("Flicker over all clips", ("evaluation", *keys), tuple(rows))
