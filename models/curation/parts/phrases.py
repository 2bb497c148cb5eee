"""Writes texts of several granularities about the regions of one picture.

MRES-32M (arXiv 2312.08007) has a phrase for every mask of an object or a part, written by models.
Here phrases follow from what regions are called and what they are a part of: "the handle of the red
mug", "every wheel of the car", "the red mug"; and of parts that other pictures have: "the lid of
the red mug" means nothing where the mug has no lid.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from ureca.models.data.queries import QueryRecord
from ureca.models.data.regions import RegionRecord

_ARTICLE = re.compile(r"^((a|an|the|one|this|that|its|his|her|their|another|other|some) )+")
_PLAIN = re.compile(r"[a-z][a-z' -]*")
MOST_WORDS = 6


def name_region(record: RegionRecord) -> str:
    """Return what a region is called, without an article: the shortest of its short texts, else its
    category; empty when none is a plain phrase of at most 6 words.
    """
    names = sorted(record.short, key=len) or [record.category]
    for name in names:
        plain = _ARTICLE.sub("", " ".join(name.lower().strip(" .").split()))
        if _PLAIN.fullmatch(plain) and len(plain.split()) <= MOST_WORDS:
            return plain
    return ""


def name_part(record: RegionRecord) -> str:
    """Return what a part is called: its category's last word group, else as `name_region`."""
    plain = re.sub(r"^.*[:/]", "", record.category.lower()).replace("_", " ").strip()
    return plain if _PLAIN.fullmatch(plain) else name_region(record)


def write_queries(
    records: Sequence[RegionRecord], foreign: Sequence[str], *, most_absent: int = 2
) -> list[QueryRecord]:
    """Return the texts about one picture. `foreign`: names of parts in other pictures. A region
    that is told twice counts once.
    """
    records = list({record.region_id: record for record in reversed(records)}.values())[::-1]
    names = {record.region_id: name_region(record) for record in records}
    wholes = _group(records, names)
    texts: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    stuff = {names[record.region_id] for record in records if record.stuff}
    for name, ids in wholes.items():
        is_mass = name in stuff or _is_plural(name)
        text = f"the {name}" if len(ids) == 1 or is_mass else f"every {name}"
        texts[text], kinds[text] = ids, "thing" if len(ids) == 1 else "several"
    of_parts = _group_parts(records, names)
    for (part, whole), ids in of_parts.items():
        text = _say_part(part, whole, count=len(ids), wholes=len(wholes[whole]))
        texts[text], kinds[text] = ids, "part" if len(ids) == 1 else "several"
    known = {part for part, _ in of_parts}
    bearers = sorted({whole for _, whole in of_parts if len(wholes[whole]) == 1})
    key = records[0].image_key if records else ""
    for part, whole in _draw_absent(key, foreign, known, bearers, most=most_absent):
        texts[f"the {part} of the {whole}"], kinds[f"the {part} of the {whole}"] = [], "none"
    return [
        QueryRecord(
            f"{key}/{n}", key, text, tuple(ids), kind=kinds[text], near=kinds[text] == "none"
        )
        for n, (text, ids) in enumerate(texts.items())
    ]


def _group(records: Sequence[RegionRecord], names: Mapping[str, str]) -> dict[str, list[str]]:
    """Regions that are no parts, by name."""
    found: dict[str, list[str]] = {}
    for record in records:
        name = names[record.region_id]
        if name and not record.part and not record.group:
            found.setdefault(name, []).append(record.region_id)
    return found


def _group_parts(
    records: Sequence[RegionRecord], names: Mapping[str, str]
) -> dict[tuple[str, str], list[str]]:
    """Parts by their name and that of the whole that they belong to."""
    wholes = {r.region_id for r in records if not r.part and not r.group}
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        whole = names.get(record.parent, "")
        part = name_part(record)
        if record.part and record.parent in wholes and whole and part:
            found.setdefault((part, whole), []).append(record.region_id)
    return found


def _is_plural(name: str) -> bool:
    """Whether the last word looks like a plural: "every" would not go with it."""
    return name.endswith("s") and not name.endswith(("ss", "us", "is"))


def _say_part(part: str, whole: str, *, count: int, wholes: int) -> str:
    """A text that means exactly these parts. Of one part among several wholes of one name nothing
    can be said that means it alone, so the text means all of them.
    """
    first = "the" if count == 1 or _is_plural(part) else "every"
    return f"{first} {part} of the {whole}" if wholes == 1 else f"{first} {part} of any {whole}"


def _draw_absent(
    key: str, foreign: Sequence[str], known: set[str], bearers: Sequence[str], *, most: int
) -> list[tuple[str, str]]:
    """Pairs of a part that no region of the picture is called and a whole that has other parts; the
    same on every machine.
    """
    free = sorted(set(foreign) - known)
    if not free or not bearers:
        return []
    found = []
    for n in range(most):
        digest = hashlib.md5(f"{key}/{n}".encode(), usedforsecurity=False).digest()
        part = free[int.from_bytes(digest[:4], "big") % len(free)]
        found.append((part, bearers[int.from_bytes(digest[4:8], "big") % len(bearers)]))
    return list(dict.fromkeys(found))
