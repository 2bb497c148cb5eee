"""Reads the regions of an evaluation: records with their group flags, references, and the split.

One data root is a folder with `regions-*.jsonl[.gz]` and `images/`. Of a file named
`regions-train*` only the images that the hash holds out are used. Every other file is used
completely, because it was made for testing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ureca.errors import SourceError
from ureca.models.data.regions import RegionRecord, hash_image_key, read_rows
from ureca.models.evaluation.text.phrase_parsing import (
    Accepted,
    find_accepted_names,
    make_singular,
    normalise_text,
    split_words,
)

References = Literal["both", "short", "long"]


@dataclass(frozen=True, slots=True)
class EvaluationCase:
    """One region to caption, with the references for its caption."""

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
        """Whether a person named or outlined it. Whole images and bare boxes are left out."""
        if self.record.mask_source == "full_image":
            return False
        named = self.record.short or self.record.long
        return bool(named or (self.record.category and self.record.mask_source != "box"))

    def list_references(self, which: References) -> tuple[str, ...]:
        """Return people's captions of it, normalised and without repeats."""
        record = self.record
        texts = {"short": record.short, "long": record.long, "both": record.short + record.long}
        return tuple(dict.fromkeys(text for text in map(normalise_text, texts[which]) if text))

    def find_accepted_names(self, which: References) -> Accepted:
        """Return the names that count as right."""
        return find_accepted_names(self.record.category, self.list_references(which))


@dataclass(frozen=True)
class TestSet:
    """The cases of one root, and the training data of the same root."""

    name: str
    root: Path
    cases: tuple[EvaluationCase, ...]
    training: Training


@dataclass(frozen=True)
class Training:
    """What a model could learn from the root's training images."""

    categories: Counter[str]
    """How often each category occurs; empty if the root has no training file."""
    rows: tuple[EvaluationCase, ...] = ()
    """The training regions, kept only if a baseline needs them."""

    def list_common(self, count: int) -> frozenset[str]:
        """Return the `count` most frequent categories."""
        return frozenset(name for name, _ in self.categories.most_common(count))


def read_data(root: Path, *, every: int, keep_training: bool = False) -> TestSet:
    """Read the cases of a data root. Raises `SourceError` when it has none."""
    files = sorted(root.glob("regions-*.jsonl")) + sorted(root.glob("regions-*.jsonl.gz"))
    if not files:
        raise SourceError(f"{root} holds no regions-*.jsonl or .jsonl.gz: is it a data folder?")
    cases: list[EvaluationCase] = []
    rows: list[EvaluationCase] = []
    categories: Counter[str] = Counter()
    for row, learnt in (pair for path in files for pair in _read_rows(path, every=every)):
        if not learnt:
            cases.append(EvaluationCase(RegionRecord.from_json(row)))
            continue
        if row.get("category"):
            categories[normalise_category(row["category"])] += 1
        if keep_training:
            rows.append(EvaluationCase(RegionRecord.from_json(row)))
    kept = tuple(case for case in cases if case.outlined)
    if not kept:
        raise SourceError(f"{root} has no held-out regions: check --held-out-every {every}")
    return TestSet(root.resolve().name, root, kept, Training(categories, tuple(rows)))


def normalise_category(category: str) -> str:
    """Normalise a category: lower-case, singular words."""
    return " ".join(make_singular(word) for word in split_words(category))


def group_by_picture(cases: Iterable[EvaluationCase]) -> dict[str, list[EvaluationCase]]:
    """Group cases by `image_key`, in order."""
    pictures: dict[str, list[EvaluationCase]] = {}
    for case in cases:
        pictures.setdefault(case.image_key, []).append(case)
    return pictures


def limit_cases(cases: Sequence[EvaluationCase], limit: int | None) -> list[EvaluationCase]:
    """Return at most `limit` cases, whole images in the order of their hashes, so that a part is a
    sample.
    """
    if limit is None or len(cases) <= limit:
        return list(cases)
    ordered = sorted(cases, key=lambda case: hash_image_key(case.image_key))
    return ordered[:limit]


def list_groups(case: EvaluationCase) -> list[str]:
    """Return the names of a case's groups; the first is "all"."""
    record = case.record
    source = record.source.split("/")[0] or "?"
    mask = "mixed" if record.mask_source.startswith("mixed") else record.mask_source or "?"
    kind = "people" if case.people else "non-people"
    names = ["all", f"source={source}", f"mask={mask}", f"{source}|{mask}"]
    names += [f"family={get_family(source)}", f"family={get_family(source)}|{kind}", kind]
    names += [f"type={name}" for name in record.types]
    return names + [name for name in ("part", "stuff", "group") if getattr(record, name)]


def get_family(source: str) -> str:
    """Return the leading letters of a source: "coco" of "coco-val2017", "flickr" of
    "flickr30k-...".
    """
    found = re.match(r"[a-z]+", source.lower())
    return found.group() if found else "?"


def _read_rows(path: Path, *, every: int) -> Iterator[tuple[dict[str, Any], bool]]:
    """Read rows of a file, each with whether it belongs to the training side."""
    hashed = path.name.startswith("regions-train")
    for row in read_rows(path):
        # Most rows are only counted; parsing them completely would take most of the time.
        yield row, hashed and hash_image_key(str(row.get("image_key"))) % every != 0
