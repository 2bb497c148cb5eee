"""Statements about whole pictures, true and false: `statements-*.jsonl[.gz]`.

Pairs of a caption and an edited one that is false (SugarCrepe, arXiv 2306.14610), and statements of
a spatial relation with a label (VSR, arXiv 2205.00363).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.errors import SourceError
from ureca.models.data.regions import hash_image_key, read_rows


@dataclass(frozen=True, slots=True)
class StatementRecord:
    """One statement about a picture: with `negative`, a false variant; else with `label`."""

    image_key: str
    kind: str
    caption: str
    negative: str = ""
    label: bool | None = None

    def __post_init__(self) -> None:
        if not self.negative and self.label is None:
            raise ValueError("neither `negative` nor `label`")

    @classmethod
    def from_json(cls, row: Any) -> StatementRecord:  # whatever the JSON line held
        """Read one line. Raises `SourceError` naming what is missing."""
        try:
            label = row.get("label")
            return cls(
                image_key=str(row["image_key"]),
                kind=str(row.get("kind") or "statement"),
                caption=str(row["caption"]),
                negative=str(row.get("negative") or ""),
                label=None if label is None else bool(int(label)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"statement {row!r:.80}: {error!r}; expected image_key, caption, and negative or "
                "label"
            ) from error

    def held_out(self, every: int) -> bool:
        """Whether its picture belongs to the hash-held-out split, as of `RegionRecord`."""
        return hash_image_key(self.image_key) % every == 0


def read_statements(path: Path) -> list[StatementRecord]:
    """Records of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` naming file and line."""
    return [StatementRecord.from_json(row) for row in read_rows(path)]
