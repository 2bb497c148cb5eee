"""What is asked: the texts about each picture of a data folder, and the regions that they mean.

A folder with `queries-*.jsonl[.gz]` says so itself. In a folder of worlds the judge decides. In
every other folder a region's expressions are the texts, each text of a picture once; the same words
said of several of its regions mean all of them; and texts of other pictures, whose noun nobody said
of this one, mean nothing in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ureca.errors import SourceError
from ureca.models.data.images import read_images
from ureca.models.data.queries import QueryRecord, query_files, read_queries
from ureca.models.data.regions import RegionRecord, hash_image_key, read_regions
from ureca.models.evaluation.measures.scenes import list_scene_files, read_views
from ureca.models.evaluation.text import lexicon
from ureca.models.evaluation.text.phrase_parsing import (
    find_head_nouns,
    make_singular,
    normalise_text,
    split_words,
)

ABSENT_PER_PICTURE: Final = 5
"""Texts of other pictures that each picture is asked for."""
Texts = Literal["short", "long", "both", "names", "all"]
"""Which wording: `both` is short and long; `names` are bare names of rendered things ("a mug"),
which only folders of worlds have.
"""
_STYLES: Mapping[str, frozenset[str]] = {
    "short": frozenset({"short"}),
    "long": frozenset({"long"}),
    "both": frozenset({"short", "long"}),
    "names": frozenset({"name"}),
    "all": frozenset({"short", "long", "name"}),
}
Half = Literal["all", "first", "second"]
TargetType = Literal["part", "thing", "group", "stuff"]
TYPES: Final[tuple[TargetType, ...]] = ("part", "thing", "group", "stuff")


@dataclass(frozen=True, slots=True)
class GroundingCase:
    """One text about one picture; regions are places in `GroundingPicture.regions`."""

    text: str
    targets: frozenset[int] = frozenset()
    """All regions that are meant; empty: nothing in the picture is."""
    alternatives: tuple[frozenset[int], ...] = ()
    """Other sets of regions that mean the same."""
    type: TargetType | None = None
    """Of the first target."""
    tags: tuple[str, ...] = ()
    """Other groups that it counts in, such as `split=several` and `label=people`."""

    @property
    def accepted(self) -> tuple[frozenset[int], ...]:
        """Every set of regions that is a whole and right answer."""
        return (self.targets, *self.alternatives)


@dataclass(frozen=True, slots=True)
class GroundingPicture:
    """A picture, its regions (the given candidates), and what is asked about it."""

    image_key: str
    regions: tuple[RegionRecord, ...]
    cases: tuple[GroundingCase, ...]


@dataclass
class _Folder:
    records: dict[str, list[RegionRecord]] = field(default_factory=dict)
    queries: dict[str, list[QueryRecord]] = field(default_factory=dict)
    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_pictures(
    root: Path, *, every: int, half: Half = "all", texts: Texts = "short"
) -> list[GroundingPicture]:
    """The pictures of a data folder with something to ask.

    Of `regions-train*` only the pictures that the hash holds out count (one in `every`), of other
    files all. `half` takes one half of the pictures, by another digit of the same hash: fitted on
    one, reported on the other. Raises `SourceError` when nothing is left.
    """
    folder = _read(root, every=every, half=half)
    if folder.queries:
        found = [_queried(key, rows, folder.queries, texts) for key, rows in folder.records.items()]
    else:
        found = list(_said(folder, texts))
    kept = [picture for picture in found if picture.cases]
    if not kept:
        raise SourceError(
            f"{root} has no texts of held-out regions (one picture in {every}, half: {half}): "
            "is it a data folder with `expressions`, or with queries-*.jsonl.gz?"
        )
    return kept


def in_half(image_key: str, half: Half, every: int) -> bool:
    """Whether a picture is in this half; the digit of the hash above the one that holds out."""
    return half == "all" or (hash_image_key(image_key) // every % 2 == 0) == (half == "first")


def _read(root: Path, *, every: int, half: Half) -> _Folder:
    files = sorted(root.glob("regions-*.jsonl")) + sorted(root.glob("regions-*.jsonl.gz"))
    if not files:
        raise SourceError(f"{root} holds no regions-*.jsonl or .jsonl.gz: is it a data folder?")
    folder = _Folder()
    for path in files:
        hashed = path.name.startswith("regions-train")
        for record in read_regions(path):
            held = not hashed or record.is_held_out(every)
            # A whole picture is no place in it.
            if held and in_half(record.image_key, half, every) and not _whole(record):
                folder.records.setdefault(record.image_key, []).append(record)
    for path in query_files(root):
        for query in read_queries(path):
            folder.queries.setdefault(query.image_key, []).append(query)
    if not folder.queries and list_scene_files(root):
        folder.queries = _judged(root, folder.records)
    for path in sorted(root.glob("images-*.jsonl*")):
        rows = ((image.image_key, image.captions) for image in read_images(path))
        folder.captions.update(row for row in rows if row[0] in folder.records)
    return folder


def _whole(record: RegionRecord) -> bool:
    return record.mask_source == "full_image"


def _judged(
    root: Path, records: Mapping[str, Sequence[RegionRecord]]
) -> dict[str, list[QueryRecord]]:
    """The queries of a folder of worlds that has none yet. Raises `MissingExtraError` without a
    checkout.
    """
    views = read_views(list_scene_files(root), records)
    from ureca.models.data.synthetic.language.queries import write_queries

    found: dict[str, list[QueryRecord]] = {}
    known = [views[key] for key in records if key in views]
    for query in write_queries(known, records, names=True):
        found.setdefault(query.image_key, []).append(query)
    return found


def _queried(
    key: str,
    records: Sequence[RegionRecord],
    queries: Mapping[str, Sequence[QueryRecord]],
    texts: Texts,
) -> GroundingPicture:
    places = {record.region_id: place for place, record in enumerate(records)}
    asked = [
        _case(query, records, places)
        for query in queries.get(key, ())
        if not query.style or query.style in _STYLES[texts]
        if all(target in places for target in query.targets)
    ]
    return GroundingPicture(key, tuple(records), tuple(asked))


def _case(
    query: QueryRecord, records: Sequence[RegionRecord], places: Mapping[str, int]
) -> GroundingCase:
    targets = frozenset(places[target] for target in query.targets)
    others = [
        frozenset(places[name] for name in one)
        for one in query.alternatives
        if all(name in places for name in one)
    ]
    tags = [f"split={query.kind}"] if query.kind else []
    tags += [f"style={query.style}"] if query.style else []
    tags += ["near"] if query.near else []
    if targets and query.kind:
        tags.append("held-back look" if query.held_back else "known look")
    first = records[min(targets)] if targets else None
    return GroundingCase(
        query.text, targets, tuple(others), type_of(first) if first else None, tuple(tags)
    )


def type_of(record: RegionRecord) -> TargetType:
    """What a region is, as the figures are split."""
    if record.part:
        return "part"
    if record.stuff:
        return "stuff"
    return "group" if record.group else "thing"


def _said(folder: _Folder, texts: Texts) -> Iterator[GroundingPicture]:
    words = {key: _words(rows, folder.captions.get(key, ())) for key, rows in _pairs(folder)}
    pool = sorted({text for _, rows in _pairs(folder) for row in rows for text in _of(row, texts)})
    nouns = {text: frozenset(find_head_nouns(text)) for text in pool}
    for key, records in _pairs(folder):
        if any(_of(record, texts) for record in records):
            absent = _absent(key, pool, nouns, words[key])
            cases = (*_present(records, texts), *absent)
            yield GroundingPicture(key, tuple(records), cases)


def _pairs(folder: _Folder) -> Iterable[tuple[str, list[RegionRecord]]]:
    return folder.records.items()


def _of(record: RegionRecord, texts: Texts) -> list[str]:
    by_style = {"short": record.short, "long": record.long}
    said = [text for style, rows in by_style.items() if style in _STYLES[texts] for text in rows]
    return [text for text in said if normalise_text(text)]


def _present(records: Sequence[RegionRecord], texts: Texts) -> Iterator[GroundingCase]:
    """Every text of the picture once."""
    meant: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        for text in _of(record, texts):
            meant.setdefault(normalise_text(text), []).append(place)
    for text, places in meant.items():
        first = records[places[0]]
        tags = tuple(f"label={name}" for name in first.types)
        yield GroundingCase(text, frozenset(places), (), type_of(first), tags)


def _absent(
    key: str, pool: Sequence[str], nouns: Mapping[str, frozenset[str]], words: frozenset[str]
) -> Iterator[GroundingCase]:
    """Texts of other pictures, in the order of a hash, whose noun is not among this one's words."""
    fits = (text for text in _shuffled(key, pool) if nouns[text] and not _named(nouns[text], words))
    for _, text in zip(range(ABSENT_PER_PICTURE), fits, strict=False):
        yield GroundingCase(text)


def _shuffled(key: str, pool: Sequence[str]) -> Iterator[str]:
    """Texts drawn for this picture, each once; the same on every machine."""
    drawn: set[str] = set()
    for step in range(8 * len(pool)):
        digest = hashlib.md5(f"{key}/{step}".encode(), usedforsecurity=False).digest()
        text = pool[int.from_bytes(digest[:8], "big") % len(pool)]
        if text not in drawn:
            drawn.add(text)
            yield text


def _named(nouns: frozenset[str], words: frozenset[str]) -> bool:
    """Whether a picture's words name such a thing, itself or by a listed synonym."""
    if nouns & words:
        return True
    if nouns & lexicon.PERSON_WORDS | nouns & {"people", "person"}:
        return bool(words & (lexicon.PERSON_WORDS | {"people", "person"}))
    alike = [{name, *others} for name, others in lexicon.SYNONYMS.items() if name != "person"]
    return any(nouns & names and words & names for names in alike)


def _words(records: Sequence[RegionRecord], captions: Sequence[str]) -> frozenset[str]:
    texts = [text for record in records for text in (*record.short, *record.long, record.category)]
    return frozenset(
        make_singular(word) for text in (*texts, *captions) for word in split_words(text)
    )
