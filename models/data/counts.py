"""Counts the content of a data set, as plain numbers and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ureca.models.data.attributes import NOT_APPLICABLE, mine_attributes
from ureca.models.data.images import ImageRecord
from ureca.models.data.regions import RegionRecord

_LONGEST_TABLE = 14


@dataclass(frozen=True)
class Counts:
    """Totals of a data set, and its regions by several properties."""

    totals: Mapping[str, int]
    regions_by: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        by = {name: dict(values) for name, values in self.regions_by.items()}
        return {"totals": dict(self.totals), "regions_by": by}


def count_records(
    records: Sequence[RegionRecord], images: Sequence[ImageRecord], held_out_every: int
) -> Counts:
    """Count totals, and regions by source, shard, mask source, type, words, flag and licence."""
    by: dict[str, Counter[str]] = {
        "source": Counter(r.source for r in records),
        "shard": Counter(r.shard for r in records),
        "mask source": Counter(_fold_group(r.mask_source) for r in records),
        "type": Counter(kind for r in records for kind in r.types or ("none",)),
        "words from": Counter(r.expr_source or "none" for r in records),
        "style": Counter(_name_styles(r) for r in records),
        "flag": Counter(flag for r in records for flag in _list_flags(r)),
        "attribute": _count_attributes(records),
        "split": Counter(r.split or "none" for r in records),
        "licence": Counter(r.license or "none" for r in records),
    }
    short = Counter(text for r in records for text in r.short)
    totals = {
        "pictures": len({r.image_key for r in records}),
        "pictures listed": len(images),
        "held out by hash": len({r.image_key for r in records if r.is_held_out(held_out_every)}),
        "regions": len(records),
        "held out regions": sum(r.is_held_out(held_out_every) for r in records),
        "short texts": short.total(),
        "distinct short texts": len(short),
        "long texts": sum(len(r.long) for r in records),
        "distinct long texts": len({text for r in records for text in r.long}),
        "categories": len({r.category for r in records}),
    }
    return Counts(totals, {name: dict(c.most_common()) for name, c in by.items()})


def _count_attributes(records: Sequence[RegionRecord]) -> Counter[str]:
    """Regions of which an attribute is known by their words alone (`models.data.attributes`)."""
    mined = map(mine_attributes, records)
    return Counter(
        name for found in mined for name, words in found.items() if words != {NOT_APPLICABLE}
    )


def _fold_group(mask_source: str) -> str:
    """Fold groups whose members differ into one kind."""
    return "mixed" if mask_source.startswith("mixed") else mask_source or "none"


def _name_styles(record: RegionRecord) -> str:
    if record.short and record.long:
        return "short and long"
    if record.short or record.long:
        return "short only" if record.short else "long only"
    return "class name only" if record.category else "no words"


def _list_flags(record: RegionRecord) -> Iterable[str]:
    named = {"part": record.part, "stuff": record.stuff, "group": record.group}
    return [name for name, is_set in named.items() if is_set] or ["thing"]


def format_table(counts: Counts) -> Iterator[str]:
    """Return the lines of a table; long lists end with the sum of the rest."""
    for name, value in counts.totals.items():
        yield f"  {name:<28}{value:>9,}"
    for name, values in counts.regions_by.items():
        yield f"  regions by {name}"
        shown = list(values.items())[:_LONGEST_TABLE]
        for label, value in shown:
            yield f"    {label[:50]:<50} {value:>9,}"
        rest = list(values.values())[_LONGEST_TABLE:]
        if rest:
            yield f"    {f'({len(rest)} more)':<50} {sum(rest):>9,}"
