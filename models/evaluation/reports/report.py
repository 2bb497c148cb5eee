"""`report.html`: one page without scripts or outside files; tables, charts, and drawn regions.

It shows pictures of the data set, so it belongs where that may lie and not into a repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ureca.errors import MissingExtraError
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.captioners.baselines import region_mask
from ureca.models.evaluation.captioners.mask_variants import MaskEdit
from ureca.models.evaluation.evaluate import Part
from ureca.models.evaluation.measures.scores import Scored
from ureca.models.evaluation.reports import charts
from ureca.models.evaluation.reports.drawing import data_uri, outlined, sampled
from ureca.models.evaluation.reports.tables import Table, tables_of

Json = Mapping[str, Any]  # JSON values

_LEAST = 20
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--page:#fcfcfa;--line:#d9d9d4;--soft:#6a6d72}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e3;--page:#17181a;--line:#3a3c40;--soft:#a0a3a8}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:2rem auto;
max-width:75rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.18rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
figure{margin:0;border:1px solid var(--line);border-radius:.4rem;overflow:hidden}
figure img{width:100%;height:12rem;object-fit:contain;background:#0006;display:block}
figcaption{padding:.5rem .7rem;font-size:.85rem}figcaption b{display:block}
.charts{display:flex;flex-wrap:wrap;gap:1rem}svg{max-width:100%;height:auto;color:var(--ink)}
"""

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


def write_report(
    out: Path, parts: Sequence[Part], metrics: Json, edit: MaskEdit, *, samples: int, seed: int
) -> None:
    """Write `report.html` into `out`. `edit` gives the masks as they were shown to the model."""
    body = [_head(metrics), _charts(metrics)]
    body += [_table(table) for table in tables_of(metrics, least=_LEAST)]
    for part in parts:
        store = ImageStore([part.data.root / "images"])
        for title, wanted in SORTS.items():
            chosen = sampled(part.scored, wanted, samples, seed=seed)
            cards = "".join(_card(item, store, edit) for item in chosen)
            body.append(f"<h2>{escape(part.name)}: {escape(title)}</h2>")
            body.append(f'<div class="grid">{cards}</div>')
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>ureca eval: {escape(str(metrics['model']))}</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    (out / "report.html").write_text(page, encoding="utf8")


def _head(metrics: Json) -> str:
    keys = ("runtime", "precision", "masks", "mask_iou", "held_out_every", "limit", "bundle_sha")
    facts = [f"{key} {_short(metrics[key])}" for key in keys if metrics.get(key) not in (None, "")]
    missing = [f"no {name}: {remedy}" for name, remedy in metrics["missing"].items()]
    lines = [" · ".join(facts), *missing]
    told = "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)
    return f"<h1>{escape(str(metrics['model']))}</h1>{told}"


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:16]


def _charts(metrics: Json) -> str:
    try:
        return f'<div class="charts">{"".join(_drawn(metrics))}</div>'
    except MissingExtraError as error:
        return f'<p class="soft">no charts: {escape(str(error))}</p>'


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


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.heading)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _card(item: Scored, store: ImageStore, edit: MaskEdit) -> str:
    record = item.case.record
    mask = edit(region_mask(record), record.region_id)
    picture = data_uri(outlined(store.read(record.image_key), mask))
    references = " · ".join(item.references[:6]) or f"({record.category})"
    return (
        f'<figure><img src="{picture}" alt="{escape(item.caption)}"><figcaption>'
        f"<b>{escape(item.caption)}</b>{escape(references)}"
        f'<div class="soft">{escape(record.region_id)}</div></figcaption></figure>'
    )
