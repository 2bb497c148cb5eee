"""WorldsRES: a benchmark of texts about rendered views, made again by one command.

New scenes of a fixed seed (looks of training in `dev`, held-back ones in `test`) and their queries.
The queries are in the repository, too: a machine that renders other masks is noticed, because then
other things are visible and other texts are certain.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from ureca.models.data.queries import QueryRecord, read_queries
from ureca.models.data.regions import read_regions
from ureca.models.data.shards import group_by_picture
from ureca.models.data.synthetic.cli import make_worlds
from ureca.models.data.synthetic.language.queries import write_queries
from ureca.models.data.synthetic.language.truth import read_truth

SEED: Final = 19
"""Of no training and of no other evaluation."""
SCENES, VIEWS = 60, 2
ResSplit = Literal["dev", "test"]
SPLITS: Final[tuple[ResSplit, ...]] = ("dev", "test")
PUBLISHED: Final = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "worlds-res"
"""The queries as they are in the repository; links are followed, so the checkout is found."""


def make_worlds_res(out: Path, *, workers: int, scenes: int = SCENES) -> str:
    """Render both splits into `out`, write their queries, and say what is there.

    With fewer `scenes` than the benchmark has, nothing is compared.
    """
    said = []
    for split in SPLITS:
        make_worlds(out, scenes=scenes, views=VIEWS, seed=SEED, workers=workers, split=split)
        queries = queries_of(out, split)
        save_queries(out / f"queries-{split}.jsonl.gz", queries)
        kinds = Counter(query.kind for query in queries)
        counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("part", "thing", "several", "none"))
        same = _compared(split, queries) if scenes == SCENES else ""
        said.append(f"{out} {split}: {len(queries)} queries ({counts}){same}\n")
    return "".join(said)


def queries_of(root: Path, split: str) -> list[QueryRecord]:
    """The queries of one split of a folder of worlds."""
    views = list(read_truth(root / f"scenes-{split}.jsonl.gz"))
    records = group_by_picture(read_regions(root / f"regions-{split}.jsonl.gz"))
    return list(write_queries(views, records))


def save_queries(path: Path, queries: Iterable[QueryRecord]) -> None:
    """Write a file of queries; the same bytes for the same queries."""
    lines = (json.dumps(query.to_json(), separators=(",", ":")) + "\n" for query in queries)
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def _compared(split: ResSplit, queries: list[QueryRecord]) -> str:
    """Whether these are the published queries."""
    path = PUBLISHED / f"queries-{split}.jsonl.gz"
    if not path.is_file():
        return ", none are published"
    published = list(read_queries(path))
    common = len(set(queries) & set(published))
    if queries == published:
        return ", those of the repository"
    return (
        f": {common} of them among the {len(published)} of the repository; this machine renders "
        "other masks, compare figures with care"
    )
