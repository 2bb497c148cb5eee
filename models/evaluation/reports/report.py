"""Writes `report.html`: one page without scripts or external files; tables, charts, and drawn
regions.

It contains images of the data set, so it must stay where these may be stored, and not in a
repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.errors import MissingExtraError
from ureca.extras import require
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.captioners.baselines import read_region_mask
from ureca.models.evaluation.captioners.mask_variants import MaskEdit
from ureca.models.evaluation.evaluate import EvaluationPart
from ureca.models.evaluation.measures.scores import ScoredCaption
from ureca.models.evaluation.reports import charts
from ureca.models.evaluation.reports.drawing import draw_outline, encode_data_uri, sample_regions
from ureca.models.evaluation.reports.tables import make_tables

Json = Mapping[str, Any]  # JSON values

_LEAST = 20
_TEMPLATE = "report.html.j2"

SORTS: dict[str, Callable[[ScoredCaption], bool]] = {
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
    """One region in the report: its image as a data URI, its caption and people's captions."""

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
    """Write `report.html` into `out`. `edit` returns the masks that the model got.

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
    svgs, no_charts = _make_charts(metrics)
    page = environment.get_template(_TEMPLATE).render(
        model=str(metrics["model"]),
        facts=_list_settings(metrics),
        charts=svgs,
        no_charts=no_charts,
        tables=make_tables(metrics, least=_LEAST),
        samples=_make_samples(parts, edit, count=samples, seed=seed),
    )
    (out / "report.html").write_text(page, encoding="utf8")


def _make_samples(
    parts: Sequence[EvaluationPart], edit: MaskEdit, *, count: int, seed: int
) -> Iterator[tuple[str, list[Card]]]:
    """Draw regions of every part and sort, each under its heading."""
    for part in parts:
        store = ImageStore([part.data.root / "images"])
        for title, wanted in SORTS.items():
            chosen = sample_regions(part.scored, wanted, count, seed=seed)
            yield f"{part.name}: {title}", [_make_card(item, store, edit) for item in chosen]


def _list_settings(metrics: Json) -> list[str]:
    keys = ("runtime", "precision", "masks", "mask_iou", "held_out_every", "limit", "bundle_sha")
    facts = [
        f"{key} {_format_value(metrics[key])}" for key in keys if metrics.get(key) not in (None, "")
    ]
    missing = [f"no {name}: {remedy}" for name, remedy in metrics["missing"].items()]
    return [" · ".join(facts), *missing]


def _format_value(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:16]


def _make_charts(metrics: Json) -> tuple[list[str], str]:
    """Return the charts as SVG, and the reason if there are none."""
    try:
        return list(_draw_charts(metrics)), ""
    except MissingExtraError as error:
        return [], str(error)


def _draw_charts(metrics: Json) -> Iterator[str]:
    for name, part in metrics["parts"].items():
        groups = {k: g for k, g in part["groups"].items() if _select_groups(k, g)}
        yield _draw_group_chart(f"{name}: right head noun", groups, ("head",))
        told = {k: g for k, g in groups.items() if (g["n_unique"] or 0) >= _LEAST}
        if told:
            pair = ("unique", "unique_chance")
            yield _draw_group_chart(f"{name}: own region found, and by chance", told, pair)
        faults = part["faults"]["all"]
        names = [key for key in faults if not key.startswith("n_")]
        yield charts.draw_bars(f"{name}: faults", names, {"share": [faults[key] for key in names]})
    for name, groups in metrics["worlds"].items():
        slots = [k for k in groups["all"] if not k.startswith("n")]
        series = {group: [groups[group][slot] for slot in slots] for group in groups}
        looks = {k: v for k, v in series.items() if k in {"known look", "held-back look"}}
        yield charts.draw_bars(f"{name}: slots", slots, looks or series)
    if metrics["flicker"]:
        clips = metrics["flicker"]["figures"]
        series = {key: [found[key] for found in clips.values()] for key in _FLICKER}
        yield charts.draw_bars("Flicker", list(clips), series)


_FLICKER = ("changed", "head_changed")


def _select_groups(name: str, group: Json) -> bool:
    """Select groups of enough regions. Sources and their masks are in the table."""
    return bool(group["n_head"] >= _LEAST) and not name.startswith("source=") and "|" not in name


def _draw_group_chart(title: str, groups: Mapping[str, Json], keys: Sequence[str]) -> str:
    names = [f"{name} ({group['n_' + keys[0]]})" for name, group in groups.items()]
    return charts.draw_bars(title, names, {k: [g[k] for g in groups.values()] for k in keys})


def _make_card(item: ScoredCaption, store: ImageStore, edit: MaskEdit) -> Card:
    record = item.case.record
    mask = edit(read_region_mask(record), record.region_id)
    picture = encode_data_uri(draw_outline(store.read(record.image_key), mask))
    references = " · ".join(item.references[:6]) or f"({record.category})"
    return Card(picture, item.caption, references, record.region_id)
