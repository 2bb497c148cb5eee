"""Formats the figures of `metrics.json` as plain tables for terminals, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]  # JSON values

COLUMNS: dict[str, str] = {
    "n": "n",
    "meteor": "METEOR",
    "cider": "CIDEr",
    "bleu1": "BLEU1",
    "bleu4": "BLEU4",
    "rouge_l": "ROUGE-L",
    "sim_max": "SIMmax",
    "sim_mean": "SIMmean",
    "n_head": "n head",
    "head": "head",
    "head_own": "head own",
    "distinct": "distinct",
    "words": "words",
    "unique": "unique",
    "unique_chance": "chance",
    "unique_type": "uniq type",
    "unique_type_chance": "chance t.",
}
"""Columns of the tables: the key in `metrics.json` and its heading."""

HEADLINE = ("all", "family=flickr", "family=coco", "family=coco|non-people")


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; the first column is a name."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_group_table(title: str, groups: Mapping[str, Json], *, least: int = 1) -> Table:
    """Return one row per group with at least `least` regions."""
    shown = {name: g for name, g in groups.items() if max(g["n"], g["n_head"]) >= least}
    rows = [
        (name, *(format_cell(group.get(key)) for key in COLUMNS)) for name, group in shown.items()
    ]
    return Table(title, ("group", *COLUMNS.values()), tuple(rows))


def make_fault_table(title: str, faults: Mapping[str, Json]) -> Table:
    """Return one row per fault and one column pair per family: the figure and its count."""
    names = [n for n in next(iter(faults.values()), {}) if not n.startswith("n_")]
    heading = ("fault", *(head for group in faults for head in (group, "n")))
    rows = [
        (
            name,
            *(
                format_cell(v)
                for g in faults.values()
                for v in (g.get(name), _format_count(g, name))
            ),
        )
        for name in names
    ]
    return Table(title, heading, tuple(rows))


def _format_count(group: Json, name: str) -> int | None:
    found = group.get(f"n_{name}", group.get("n_long"))
    return None if found is None else int(found)


def make_slot_table(title: str, groups: Mapping[str, Json]) -> Table:
    """Return one row per kind of node, with the counts behind the slots."""
    names = [name for name in groups["all"] if not name.startswith("n")]
    rows = [
        (group, str(figures["n"]), *(_format_counted(figures, name) for name in names))
        for group, figures in groups.items()
    ]
    return Table(title, ("regions", "n", *names), tuple(rows))


def _format_counted(figures: Json, name: str) -> str:
    count = figures.get(f"n_{name}")
    return (
        format_cell(figures[name]) if count is None else f"{format_cell(figures[name])} ({count})"
    )


def make_flicker_table(figures: Mapping[str, Json]) -> Table:
    """Return one row per clip."""
    names = ("n", "changed", "words_changed", "head_changed", "distinct")
    rows = [(clip, *(format_cell(found.get(n)) for n in names)) for clip, found in figures.items()]
    return Table("Flicker between consecutive captions", ("clip", *names), tuple(rows))


def make_tables(metrics: Json, *, least: int = 20) -> list[Table]:
    """Return every table of an evaluation."""
    tables = []
    for name, part in metrics["parts"].items():
        tables.append(make_group_table(f"{name}: by group", part["groups"], least=least))
        tables.append(make_fault_table(f"{name}: faults", part["faults"]))
    tables += [make_slot_table(f"{name}: slots", g) for name, g in metrics["worlds"].items()]
    if metrics["flicker"]:
        tables.append(make_flicker_table(metrics["flicker"]["figures"]))
    return tables


def format_summary(metrics: Json) -> str:
    """Return the headline of every part as text."""
    tables = []
    for name, part in metrics["parts"].items():
        groups = {key: part["groups"][key] for key in HEADLINE if key in part["groups"]}
        tables += [
            make_group_table(name, groups),
            make_fault_table(f"{name}: faults", part["faults"]),
        ]
    tables += [make_slot_table(f"{name}: slots", g) for name, g in metrics["worlds"].items()]
    if metrics["flicker"]:
        tables.append(make_flicker_table({"all": metrics["flicker"]["figures"]["all"]}))
    return "\n\n".join(map(format_plain, tables))


def format_cell(value: float | str | None) -> str:
    """Format a figure with three decimals, a count as an integer, "-" for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def format_plain(table: Table) -> str:
    """Align columns with spaces."""
    lines = [table.heading, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.heading))]
    return "\n".join([table.title, *(_align(line, widths) for line in lines)])


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.ljust(width) if not i else text.rjust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def format_markdown(table: Table) -> str:
    """Format a Markdown table under its title."""
    lines = [table.heading, ("---",) * len(table.heading), *table.rows]
    rows = [" | ".join(text.replace("|", "\\|") for text in line) for line in lines]
    return "\n".join([f"### {table.title}", "", *(f"| {row} |" for row in rows)])
