"""Several finished evaluations in one table, and whether they differ by more than chance.

Differences against the first are taken region by region and re-sampled by picture (regions of one
picture are not independent). METEOR is compared by its mean over regions, since the corpus figure
is no mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ureca.errors import SourceError
from ureca.models.evaluation.cases import family
from ureca.models.evaluation.tables import COLUMNS, HEADLINE, Table, cell, markdown

COMPARED: Final = (
    "meteor_mean", "cider", "rouge_l", "sim_max", "head", "head_own", "unique", "unique_type",
)  # fmt: skip
ROUNDS: Final = 2000

Json = Mapping[str, Any]  # JSON values
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference to the first evaluation, its 95 % interval, and what it rests on."""

    mean: float
    low: float
    high: float
    regions: int
    pictures: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def write_comparison(folders: Sequence[Path], out: Path, *, seed: int) -> str:
    """Write `compare.md` and `compare.json` into `out`; returns the Markdown.

    Raises `SourceError` for a folder that no evaluation wrote.
    """
    names = unique_names(folders)
    metrics = dict(zip(names, map(_metrics, folders), strict=True))
    tables = figure_tables(metrics)
    differences = {
        file: _differences(folders, names, file, seed=seed) for file in _shared_files(folders)
    }
    tables += [t for file, found in differences.items() for t in _difference_tables(file, found)]
    text = "\n\n".join(map(markdown, tables)) + "\n"
    (out / "compare.md").write_text(text, encoding="utf8")
    record = {
        "folders": [str(folder) for folder in folders],
        "figures": {name: found["parts"] for name, found in metrics.items()},
        "faults": {
            name: {part: found["faults"] for part, found in metric["parts"].items()}
            for name, metric in metrics.items()
        },
        "differences": {
            file: {
                name: {
                    group: {key: _difference_json(d) for key, d in by_key.items()}
                    for group, by_key in by_group.items()
                }
                for name, by_group in found.items()
            }
            for file, found in differences.items()
        },
    }
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    return text


def unique_names(folders: Sequence[Path]) -> list[str]:
    """The folders' last names, with their parents' where two are alike."""
    last = [folder.resolve().name for folder in folders]
    return [
        f"{folder.resolve().parent.name}/{name}" if last.count(name) > 1 else name
        for folder, name in zip(folders, last, strict=True)
    ]


def bootstrap(differences: F64, pictures: Sequence[str], *, seed: int) -> Difference:
    """The mean of per-region differences f64 [N], re-sampled by picture."""
    keys, index = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(index, weights=differences, minlength=len(keys))
    counts = np.bincount(index, minlength=len(keys)).astype(np.float64)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=ROUNDS)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    average = float(differences.mean())
    return Difference(average, float(low), float(high), len(differences), len(keys))


def figure_tables(metrics: Mapping[str, Json]) -> list[Table]:
    """One table per part and headline group, a row per evaluation."""
    parts = dict.fromkeys(part for found in metrics.values() for part in found["parts"])
    tables = []
    for part in parts:
        for group in HEADLINE:
            rows = _figure_rows(metrics, part, group)
            if rows:
                heading = ("evaluation", *COLUMNS.values())
                tables.append(Table(f"{part}, {group}", heading, tuple(rows)))
        tables += _fault_tables(metrics, part)
    return tables


def _figure_rows(metrics: Mapping[str, Json], part: str, group: str) -> list[tuple[str, ...]]:
    rows = []
    for name, found in metrics.items():
        figures = found["parts"].get(part, {}).get("groups", {}).get(group)
        if figures is not None:
            rows.append((name, *(cell(figures.get(key)) for key in COLUMNS)))
    return rows


def _fault_tables(metrics: Mapping[str, Json], part: str) -> list[Table]:
    tables = []
    found = {name: m["parts"][part]["faults"] for name, m in metrics.items() if part in m["parts"]}
    for group in dict.fromkeys(group for faults in found.values() for group in faults):
        first = next(faults[group] for faults in found.values() if group in faults)
        names = [name for name in first if not name.startswith("n_")]
        rows = [
            (name, *(cell(faults[group].get(key)) for key in names))
            for name, faults in found.items()
            if group in faults
        ]
        tables.append(Table(f"{part}, {group}: faults", ("evaluation", *names), tuple(rows)))
    return tables


Rows = Mapping[str, Json]  # region_id -> a line of captions.jsonl
ByGroup = dict[str, dict[str, Difference]]


def _differences(
    folders: Sequence[Path], names: Sequence[str], file: str, *, seed: int
) -> dict[str, ByGroup]:
    first, *others = [_rows(folder / file) for folder in folders]
    return {
        name: differences_of(first, rows, seed=seed)
        for name, rows in zip(names[1:], others, strict=True)
    }


def differences_of(first: Rows, other: Rows, *, seed: int) -> ByGroup:
    """Differences by family of sources and figure, over the regions that both have."""
    shared = [key for key in first if key in other]
    groups: dict[str, list[str]] = {"all": shared}
    for key in shared:
        groups.setdefault(f"family={family(first[key]['source'])}", []).append(key)
    found: ByGroup = {}
    for group, keys in groups.items():
        found[group] = {}
        for name in COMPARED:
            both = [k for k in keys if name in first[k]["figures"] and name in other[k]["figures"]]
            if both:
                gaps = [other[k]["figures"][name] - first[k]["figures"][name] for k in both]
                pictures = [first[k]["image_key"] for k in both]
                found[group][name] = bootstrap(np.asarray(gaps), pictures, seed=seed)
    return found


def _difference_tables(file: str, found: Mapping[str, ByGroup]) -> list[Table]:
    groups = dict.fromkeys(group for by_group in found.values() for group in by_group)
    heading = ("evaluation", *COMPARED)
    tables = []
    for group in groups:
        rows = [
            (name, *(_shown(by_group[group].get(key)) for key in COMPARED))
            for name, by_group in found.items()
            if group in by_group
        ]
        title = f"{file}, {group}: difference to the first [95 % interval]"
        tables.append(Table(title, heading, tuple(rows)))
    return tables


def _shown(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"**{text}**" if difference.certain else text


def _difference_json(difference: Difference) -> Json:
    return {
        "mean": round(difference.mean, 5),
        "low": round(difference.low, 5),
        "high": round(difference.high, 5),
        "regions": difference.regions,
        "pictures": difference.pictures,
    }


def _shared_files(folders: Sequence[Path]) -> list[str]:
    names = [{path.name for path in folder.glob("captions*.jsonl")} for folder in folders]
    return sorted(set.intersection(*names))


def _metrics(folder: Path) -> Json:
    path = folder / "metrics.json"
    try:
        return {"parts": {}, **json.loads(path.read_text(encoding="utf8"))}
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"{folder} is no finished evaluation ({error})") from error


def _rows(path: Path) -> dict[str, Json]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        return {row["region_id"]: row for row in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"cannot read {path}: {error!r}") from error
