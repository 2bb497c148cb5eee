"""The report of `ureca eval res` as format_plain tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ureca.models.evaluation.reports.tables import Table, format_cell, format_plain

Json = Mapping[str, Any]  # JSON values
_CHOICE = {
    "n": "n",
    "accuracy": "accuracy",
    "chance": "chance",
    "bag_accuracy": "bag alone",
    "n_none": "n none",
    "none_auc": "none AUC",
    "set_iou": "set IoU",
}
_MASKS = {
    "n_masks": "n",
    "miou": "mIoU",
    "oiou": "oIoU",
    "p@0.5": "P@.5",
    "p@0.7": "P@.7",
    "p@0.9": "P@.9",
    "n_empty": "n empty",
    "giou": "gIoU",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
}
_STATEMENTS = {
    "n": "n",
    "accuracy": "accuracy",
    "chance": "chance",
    "verdict": "verdict",
    "bag_accuracy": "bag alone",
}


def tables(report: Json) -> str:
    """All tables of a report, one below the other."""
    found = []
    for column, figures in report["columns"].items():
        groups = {"all": figures, **figures["by_type"], **figures["by_tag"]}
        found.append(_table(f"Choice, candidates: {column}", groups, _CHOICE))
        masks = {"all": figures, **{f"protocol {k}": v for k, v in figures["protocols"].items()}}
        masks |= figures["by_tag"]
        found.append(_table(f"Masks, candidates: {column}", masks, _MASKS))
    if "statements" in report:
        found.append(_table("Statements about whole pictures", report["statements"], _STATEMENTS))
    return "\n\n".join(map(format_plain, found)) + "\n"


def _table(title: str, groups: Mapping[str, Json], columns: Mapping[str, str]) -> Table:
    used = [key for key in columns if any(group.get(key) is not None for group in groups.values())]
    rows = [(name, *(_figure(group, key) for key in used)) for name, group in groups.items()]
    return Table(title, ("group", *(columns[key] for key in used)), tuple(rows))


def _figure(group: Json, key: str) -> str:
    """A figure with its 95 % interval, where there is one."""
    value = group.get(key)
    interval = group.get(f"{key}_interval") or (
        group.get("interval") if key == "accuracy" else None
    )
    if isinstance(value, str):
        return value
    return (
        f"{format_cell(value)} [{format_cell(interval[0])}, {format_cell(interval[1])}]"
        if interval
        else format_cell(value)
    )
