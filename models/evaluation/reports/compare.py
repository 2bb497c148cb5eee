"""Compares finished evaluations in one table, and tests whether they differ by more than chance.

Differences to the first are taken region by region and resampled by image, because regions of one
image are not independent. METEOR is compared by its mean over regions, because the corpus figure is
no mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ureca.errors import SourceError
from ureca.extras import require
from ureca.models.evaluation.reports.compare_tables import make_figure_tables
from ureca.models.evaluation.reports.tables import Table, format_markdown
from ureca.models.evaluation.test_set import get_family

COMPARED: Final = (
    "meteor_mean", "cider", "rouge_l", "sim_max", "head", "head_own", "unique", "unique_type",
)  # fmt: skip
ROUNDS: Final = 2000
_BATCH: Final = 100  # rounds at a time, to limit memory

Json = Mapping[str, Any]  # JSON values
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference to the first evaluation, its 95 % interval, and its sample sizes."""

    mean: float
    low: float
    high: float
    regions: int
    pictures: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def write_comparison(folders: Sequence[Path], out: Path, *, seed: int) -> str:
    """Write `compare.md` and `compare.json` into `out`; return the Markdown.

    Raises `SourceError` for a folder that no evaluation wrote.
    """
    names = unique_names(folders)
    metrics = dict(zip(names, map(_read_metrics, folders), strict=True))
    tables = make_figure_tables(metrics)
    differences = {
        file: _compare_files(folders, names, file, seed=seed)
        for file in _list_shared_files(folders)
    }
    tables += [
        t for file, found in differences.items() for t in _make_difference_tables(file, found)
    ]
    text = "\n\n".join(map(format_markdown, tables)) + "\n"
    (out / "compare.md").write_text(text, encoding="utf8")
    record = {
        "folders": [str(folder) for folder in folders],
        "evaluations": metrics,
        "differences": {
            f"{file}: {name}": _to_json(by_group)
            for file, found in differences.items()
            for name, by_group in found.items()
        },
    }
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    return text


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' last names, with their parents' or a number if two are equal."""
    places = [folder.resolve() for folder in folders]
    last = [place.name for place in places]
    names: list[str] = []
    for place in places:
        name = f"{place.parent.name}/{place.name}" if last.count(place.name) > 1 else place.name
        alike = sum(known.split("#")[0] == name for known in names)
        names.append(f"{name}#{alike + 1}" if alike else name)
    return names


def bootstrap_difference(differences: F64, pictures: Sequence[str], *, seed: int) -> Difference:
    """Return the mean of per-region differences f64 [N] with its 95 % percentile interval,
    resampled by image: sum and count of one image are drawn as a pair. One image alone has no
    spread.
    """
    keys, index = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(index, weights=differences, minlength=len(keys))
    counts = np.bincount(index, minlength=len(keys)).astype(np.float64)
    low = high = average = float(differences.mean())
    if len(keys) > 1:
        found = require("scipy.stats", extra="eval").bootstrap(
            (sums, counts),
            lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=ROUNDS,
            batch=_BATCH,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = map(float, found.confidence_interval)
    return Difference(average, low, high, len(differences), len(keys))


Rows = Mapping[str, Json]  # region_id -> a line of captions.jsonl
ByGroup = dict[str, dict[str, Difference]]


def _compare_files(
    folders: Sequence[Path], names: Sequence[str], file: str, *, seed: int
) -> dict[str, ByGroup]:
    first, *others = [_read_rows(folder / file) for folder in folders]
    return {
        name: compute_differences(first, rows, seed=seed)
        for name, rows in zip(names[1:], others, strict=True)
    }


def compute_differences(first: Rows, other: Rows, *, seed: int) -> ByGroup:
    """Return differences by family of sources and figure, over the regions that both have."""
    shared = [key for key in first if key in other]
    groups: dict[str, list[str]] = {"all": shared}
    for key in shared:
        groups.setdefault(f"family={get_family(first[key]['source'])}", []).append(key)
    found: ByGroup = {}
    for group, keys in groups.items():
        found[group] = {}
        for name in COMPARED:
            both = [k for k in keys if name in first[k]["figures"] and name in other[k]["figures"]]
            if both:
                gaps = [other[k]["figures"][name] - first[k]["figures"][name] for k in both]
                pictures = [first[k]["image_key"] for k in both]
                found[group][name] = bootstrap_difference(np.asarray(gaps), pictures, seed=seed)
    return found


def _make_difference_tables(file: str, found: Mapping[str, ByGroup]) -> list[Table]:
    groups = dict.fromkeys(group for by_group in found.values() for group in by_group)
    heading = ("evaluation", *COMPARED)
    tables = []
    for group in groups:
        rows = [
            (name, *(_format_difference(by_group[group].get(key)) for key in COMPARED))
            for name, by_group in found.items()
            if group in by_group
        ]
        title = f"{file}, {group}: difference to the first [95 % interval]"
        tables.append(Table(title, heading, tuple(rows)))
    return tables


def _format_difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"**{text}**" if difference.certain else text


def _to_json(by_group: ByGroup) -> Json:
    return {
        group: {
            key: {name: _format_value(value) for name, value in asdict(found).items()}
            for key, found in by_key.items()
        }
        for group, by_key in by_group.items()
    }


def _format_value(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)


def _list_shared_files(folders: Sequence[Path]) -> list[str]:
    names = [{path.name for path in folder.glob("captions*.jsonl")} for folder in folders]
    return sorted(set.intersection(*names))


def _read_metrics(folder: Path) -> Json:
    path = folder / "metrics.json"
    try:
        found = dict(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"{folder} is no finished evaluation ({error})") from error
    # the captions of every clip do not fit into a table
    flicker = {key: v for key, v in found.get("flicker", {}).items() if key != "captions"}
    return {"parts": {}, "worlds": {}, **found, "flicker": flicker}


def _read_rows(path: Path) -> dict[str, Json]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        return {row["region_id"]: row for row in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"cannot read {path}: {error!r}") from error
