"""The regions of an evaluation: records with their group flags, references, and the split.

One data root is a folder with `regions-*.jsonl[.gz]` and `images/`. Of a file named
`regions-train*` only the pictures that the hash holds out are used; every other file is taken
whole, since it was made for testing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ureca.errors import SourceError
from ureca.models.data.regions import RegionRecord, image_hash, read_rows
from ureca.models.evaluation.text.phrase_parsing import (
    Accepted,
    accepted_names,
    normal,
    singular,
    tokens,
)

References = Literal["both", "short", "long"]


@dataclass(frozen=True, slots=True)
class EvaluationCase:
    """One region to caption and what its caption is judged by."""

    record: RegionRecord

    @property
    def region_id(self) -> str:
        """The record's id."""
        return self.record.region_id

    @property
    def image_key(self) -> str:
        """The record's picture."""
        return self.record.image_key

    @property
    def people(self) -> bool:
        """Whether the region shows people."""
        return "people" in self.record.types or self.record.category == "person"

    @property
    def outlined(self) -> bool:
        """Whether somebody named or outlined it: whole pictures and bare boxes are left out."""
        if self.record.mask_source == "full_image":
            return False
        named = self.record.short or self.record.long
        return bool(named or (self.record.category and self.record.mask_source != "box"))

    def references(self, which: References) -> tuple[str, ...]:
        """People's words for it, normalised and without repeats."""
        record = self.record
        texts = {"short": record.short, "long": record.long, "both": record.short + record.long}
        return tuple(dict.fromkeys(text for text in map(normal, texts[which]) if text))

    def accepted(self, which: References) -> Accepted:
        """The names that count as right."""
        return accepted_names(self.record.category, self.references(which))


@dataclass(frozen=True)
class TestSet:
    """The cases of one root, and what the other pictures of its training file are like."""

    name: str
    root: Path
    cases: tuple[EvaluationCase, ...]
    training: Training


@dataclass(frozen=True)
class Training:
    """What a model could have learnt from the root's training pictures."""

    categories: Counter[str]
    """How often each category was there; empty when the root has no training file."""
    rows: tuple[EvaluationCase, ...] = ()
    """Training regions themselves, kept only when a baseline asks for them."""

    def common(self, count: int) -> frozenset[str]:
        """The `count` most frequent categories."""
        return frozenset(name for name, _ in self.categories.most_common(count))


def read_data(root: Path, *, every: int, keep_training: bool = False) -> TestSet:
    """Read the cases of a data root. Raises `SourceError` when it has none."""
    files = sorted(root.glob("regions-*.jsonl")) + sorted(root.glob("regions-*.jsonl.gz"))
    if not files:
        raise SourceError(f"{root} holds no regions-*.jsonl or .jsonl.gz: is it a data folder?")
    cases: list[EvaluationCase] = []
    rows: list[EvaluationCase] = []
    categories: Counter[str] = Counter()
    for row, learnt in (pair for path in files for pair in _rows(path, every=every)):
        if not learnt:
            cases.append(EvaluationCase(RegionRecord.from_json(row)))
            continue
        if row.get("category"):
            categories[category_name(row["category"])] += 1
        if keep_training:
            rows.append(EvaluationCase(RegionRecord.from_json(row)))
    kept = tuple(case for case in cases if case.outlined)
    if not kept:
        raise SourceError(f"{root} has no held-out regions: check --held-out-every {every}")
    return TestSet(root.resolve().name, root, kept, Training(categories, tuple(rows)))


def category_name(category: str) -> str:
    """A category as it is counted: lower-case, singular words."""
    return " ".join(singular(word) for word in tokens(category))


def by_picture(cases: Iterable[EvaluationCase]) -> dict[str, list[EvaluationCase]]:
    """Cases by `image_key`, in order."""
    pictures: dict[str, list[EvaluationCase]] = {}
    for case in cases:
        pictures.setdefault(case.image_key, []).append(case)
    return pictures


def limited(cases: Sequence[EvaluationCase], limit: int | None) -> list[EvaluationCase]:
    """At most `limit` cases, whole pictures in the order of their hashes: a sample, not a shard."""
    if limit is None or len(cases) <= limit:
        return list(cases)
    ordered = sorted(cases, key=lambda case: image_hash(case.image_key))
    return ordered[:limit]


def groups_of(case: EvaluationCase) -> list[str]:
    """Names of the groups that a case counts in; the first is "all"."""
    record = case.record
    source = record.source.split("/")[0] or "?"
    mask = "mixed" if record.mask_source.startswith("mixed") else record.mask_source or "?"
    kind = "people" if case.people else "non-people"
    names = ["all", f"source={source}", f"mask={mask}", f"{source}|{mask}"]
    names += [f"family={family(source)}", f"family={family(source)}|{kind}", kind]
    names += [f"type={name}" for name in record.types]
    return names + [name for name in ("part", "stuff", "group") if getattr(record, name)]


def family(source: str) -> str:
    """The leading letters of a source: "coco" of "coco-val2017", "flickr" of "flickr30k-..."."""
    found = re.match(r"[a-z]+", source.lower())
    return found.group() if found else "?"


def _rows(path: Path, *, every: int) -> Iterator[tuple[dict[str, Any], bool]]:
    """Rows of a file, each with whether it belongs to the training side."""
    hashed = path.name.startswith("regions-train")
    for row in read_rows(path):
        # Most rows only count; reading them whole would take most of the time.
        yield row, hashed and image_hash(str(row.get("image_key"))) % every != 0
