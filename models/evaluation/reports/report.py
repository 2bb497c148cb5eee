"""`report.html`: one page without scripts or outside files; tables, charts, and drawn regions.

It shows pictures of the data set, so it belongs where that may lie and not into a repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.errors import MissingExtraError
from ureca.extras import require
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.captioners.baselines import region_mask
from ureca.models.evaluation.captioners.mask_variants import MaskEdit
from ureca.models.evaluation.evaluate import EvaluationPart
from ureca.models.evaluation.measures.scores import Scored
from ureca.models.evaluation.reports import charts
from ureca.models.evaluation.reports.drawing import data_uri, outlined, sampled
from ureca.models.evaluation.reports.tables import tables_of

Json = Mapping[str, Any]  # JSON values

_LEAST = 20
_TEMPLATE = "report.html.j2"

SORTS: dict[str, Callable[[Scored], bool]] = {
    "Right name, and nearer to its own region than to any other": lambda item: (
        item.figures.get("head") == 1.0 and item.figures.get("unique", 1.0) == 1.0
    ),
    "Right name, but it fits another region of the picture as well or better": lambda item: (
        item.figures.get("head") == 1.0 and item.figures.get("unique", 1.0) < 1.0
    ),
    "Wrong name": lambda item: item.figures.get("head") == 0.0,
}
"""Headings of the sampled regions, and what belongs under them."""


@dataclass(frozen=True, slots=True)
class Card:
    """One region in the report: its picture as a data URI, what was said and what people say."""

    picture: str
    caption: str
    references: str
    region_id: str


def write_report(
    out: Path,
    parts: Sequence[EvaluationPart],
    metrics: Json,
    edit: MaskEdit,
    *,
    samples: int,
    seed: int,
) -> None:
    """Write `report.html` into `out`. `edit` gives the masks as they were shown to the model.

    Raises `MissingExtraError` without `jinja2`.
    """
    jinja2 = require("jinja2", extra="eval")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    svgs, no_charts = _charts(metrics)
    page = environment.get_template(_TEMPLATE).render(
        model=str(metrics["model"]),
        facts=_facts(metrics),
        charts=svgs,
        no_charts=no_charts,
        tables=tables_of(metrics, least=_LEAST),
        samples=_samples(parts, edit, count=samples, seed=seed),
    )
    (out / "report.html").write_text(page, encoding="utf8")


def _samples(
    parts: Sequence[EvaluationPart], edit: MaskEdit, *, count: int, seed: int
) -> Iterator[tuple[str, list[Card]]]:
    """Drawn regions of every part and sort, each under its heading."""
    for part in parts:
        store = ImageStore([part.data.root / "images"])
        for title, wanted in SORTS.items():
            chosen = sampled(part.scored, wanted, count, seed=seed)
            yield f"{part.name}: {title}", [_card(item, store, edit) for item in chosen]


def _facts(metrics: Json) -> list[str]:
    keys = ("runtime", "precision", "masks", "mask_iou", "held_out_every", "limit", "bundle_sha")
    facts = [f"{key} {_short(metrics[key])}" for key in keys if metrics.get(key) not in (None, "")]
    missing = [f"no {name}: {remedy}" for name, remedy in metrics["missing"].items()]
    return [" · ".join(facts), *missing]


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:16]


def _charts(metrics: Json) -> tuple[list[str], str]:
    """The charts as SVG; and why there are none, if so."""
    try:
        return list(_drawn(metrics)), ""
    except MissingExtraError as error:
        return [], str(error)


def _drawn(metrics: Json) -> Iterator[str]:
    for name, part in metrics["parts"].items():
        groups = {k: g for k, g in part["groups"].items() if _charted(k, g)}
        yield _group_chart(f"{name}: right head noun", groups, ("head",))
        told = {k: g for k, g in groups.items() if (g["n_unique"] or 0) >= _LEAST}
        if told:
            pair = ("unique", "unique_chance")
            yield _group_chart(f"{name}: own region found, and by chance", told, pair)
        faults = part["faults"]["all"]
        names = [key for key in faults if not key.startswith("n_")]
        yield charts.bars(f"{name}: faults", names, {"share": [faults[key] for key in names]})
    for name, groups in metrics["worlds"].items():
        slots = [k for k in groups["all"] if not k.startswith("n")]
        series = {group: [groups[group][slot] for slot in slots] for group in groups}
        looks = {k: v for k, v in series.items() if k in {"known look", "held-back look"}}
        yield charts.bars(f"{name}: slots", slots, looks or series)
    if metrics["flicker"]:
        clips = metrics["flicker"]["figures"]
        series = {key: [found[key] for found in clips.values()] for key in _FLICKER}
        yield charts.bars("Flicker", list(clips), series)


_FLICKER = ("changed", "head_changed")


def _charted(name: str, group: Json) -> bool:
    """Groups of enough regions; sources and their masks are in the table, and mostly the same."""
    return bool(group["n_head"] >= _LEAST) and not name.startswith("source=") and "|" not in name


def _group_chart(title: str, groups: Mapping[str, Json], keys: Sequence[str]) -> str:
    names = [f"{name} ({group['n_' + keys[0]]})" for name, group in groups.items()]
    return charts.bars(title, names, {k: [g[k] for g in groups.values()] for k in keys})


def _card(item: Scored, store: ImageStore, edit: MaskEdit) -> Card:
    record = item.case.record
    mask = edit(region_mask(record), record.region_id)
    picture = data_uri(outlined(store.read(record.image_key), mask))
    references = " · ".join(item.references[:6]) or f"({record.category})"
    return Card(picture, item.caption, references, record.region_id)
