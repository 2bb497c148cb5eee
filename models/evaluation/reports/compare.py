"""Several finished evaluations in one table, and whether they differ by more than chance.

Differences against the first are taken region by region and re-sampled by picture (regions of one
picture are not independent). METEOR is compared by its mean over regions, since the corpus figure
is no mean.
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
from ureca.models.evaluation.reports.compare_tables import figure_tables
from ureca.models.evaluation.reports.tables import Table, markdown
from ureca.models.evaluation.test_set import family

COMPARED: Final = (
    "meteor_mean", "cider", "rouge_l", "sim_max", "head", "head_own", "unique", "unique_type",
)  # fmt: skip
ROUNDS: Final = 2000
_BATCH: Final = 100  # of the rounds at a time, for memory

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
        "evaluations": metrics,
        "differences": {
            f"{file}: {name}": _as_json(by_group)
            for file, found in differences.items()
            for name, by_group in found.items()
        },
    }
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    return text


def unique_names(folders: Sequence[Path]) -> list[str]:
    """The folders' last names, with their parents' or a number where two are alike."""
    places = [folder.resolve() for folder in folders]
    last = [place.name for place in places]
    names: list[str] = []
    for place in places:
        name = f"{place.parent.name}/{place.name}" if last.count(place.name) > 1 else place.name
        alike = sum(known.split("#")[0] == name for known in names)
        names.append(f"{name}#{alike + 1}" if alike else name)
    return names


def bootstrap(differences: F64, pictures: Sequence[str], *, seed: int) -> Difference:
    """The mean of per-region differences f64 [N] with its 95 % percentile interval, re-sampled by
    picture: sum and count of one picture are drawn as a pair. One picture alone has no spread.
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


def _as_json(by_group: ByGroup) -> Json:
    return {
        group: {
            key: {name: _short(value) for name, value in asdict(found).items()}
            for key, found in by_key.items()
        }
        for group, by_key in by_group.items()
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)


def _shared_files(folders: Sequence[Path]) -> list[str]:
    names = [{path.name for path in folder.glob("captions*.jsonl")} for folder in folders]
    return sorted(set.intersection(*names))


def _metrics(folder: Path) -> Json:
    path = folder / "metrics.json"
    try:
        found = dict(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"{folder} is no finished evaluation ({error})") from error
    # What every clip was called is of no use in a table.
    flicker = {key: v for key, v in found.get("flicker", {}).items() if key != "captions"}
    return {"parts": {}, "worlds": {}, **found, "flicker": flicker}


def _rows(path: Path) -> dict[str, Json]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        return {row["region_id"]: row for row in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"cannot read {path}: {error!r}") from error
