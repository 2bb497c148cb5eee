"""Texts about a picture and the regions they mean: `queries-*.jsonl[.gz]` of a data folder.

A folder of referring expressions has this file beside its regions, because a text may mean several
regions, or nothing in its picture. In folders without it a region's own `expressions` are the texts
(`models/evaluation/res/cases.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ureca.errors import SourceError
from ureca.models.data.regions import read_rows

QueryKind = Literal["", "part", "thing", "several", "none"]
_KINDS: frozenset[str] = frozenset(get_args(QueryKind))
_TEXTS = ("kind", "style", "split")
_FLAGS = ("held_back", "near")


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One text about one picture."""

    query_id: str
    image_key: str
    text: str
    targets: tuple[str, ...] = ()
    """The `region_id` of every region that is meant; empty: nothing in the picture is."""
    alternatives: tuple[tuple[str, ...], ...] = ()
    """Other sets of regions that mean the same: the members of a group."""
    kind: str = ""
    """What is meant, where the source says it: a `QueryKind`."""
    style: str = ""
    """`short` or `long`, where the source has both."""
    split: str = ""
    held_back: bool = False
    """A target shows a look that training never showed; our worlds only."""
    near: bool = False
    """Of a text that means nothing: a thing with its noun is in the picture; our worlds only."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {sorted(_KINDS)}")

    @classmethod
    def from_json(cls, row: Any) -> QueryRecord:  # whatever the JSON line held
        """Read one line. Raises `SourceError` naming the query and what is wrong."""
        try:
            return cls(
                query_id=str(row["query_id"]),
                image_key=str(row["image_key"]),
                text=str(row["text"]),
                targets=_ids(row["targets"]),
                alternatives=tuple(map(_ids, row.get("alternatives") or ())),
                kind=str(row.get("kind") or ""),
                style=str(row.get("style") or ""),
                split=str(row.get("split") or ""),
                held_back=bool(row.get("held_back")),
                near=bool(row.get("near")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = row.get("query_id", "?") if isinstance(row, dict) else "?"
            raise SourceError(
                f"query {name!r}: {error!r}; expected query_id, image_key, text and targets, a "
                "list of region ids (docs/data.md)"
            ) from error

    def to_json(self) -> dict[str, Any]:  # JSON
        """The line that `from_json` reads back as this record; what is not set is left out."""
        row = {
            "query_id": self.query_id,
            "image_key": self.image_key,
            "text": self.text,
            "targets": list(self.targets),
        }
        rest: dict[str, Any] = {"alternatives": [list(one) for one in self.alternatives]}
        rest |= {name: getattr(self, name) for name in (*_TEXTS, *_FLAGS)}
        return row | {name: value for name, value in rest.items() if value}


def _ids(value: Any) -> tuple[str, ...]:  # JSON
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"expected a list of region ids, got {value!r:.60}")
    return tuple(value)


def query_files(root: Path) -> list[Path]:
    """The query files of a data folder."""
    return sorted(root.glob("queries-*.jsonl")) + sorted(root.glob("queries-*.jsonl.gz"))


def read_queries(path: Path) -> Iterator[QueryRecord]:
    """Records of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` naming file and line."""
    yield from map(QueryRecord.from_json, read_rows(path))
