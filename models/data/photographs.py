"""Which pictures show the same photograph or belong to one series, so that they are held out
together.

A photograph may stand under several keys (COCO's photographs are Flickr's; some are in two data
folders), and frames of one film or one robot's table show the same things again. A photograph is
held out when any of its keys is, a series as a whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ureca.models.data.regions import HELD_OUT_EVERY, hash_image_key, read_rows

_SERIES_NAME = "series "
_FLICKR = re.compile(r"/(\d+)_[0-9a-f]+(?:_[a-z])?\.jpg")
_SERIES = (
    (re.compile(r"cv_([0-9A-Za-z]+)_"), "camvid"),
    (re.compile(r"icub_[a-z]+_([a-z]+)_"), "icub"),
    (re.compile(r"(worlds(?:-\w+)?-\d+-\d+)-\d+$"), "worlds"),
)
"""Keys of frames and views: the group is the film, the toy, the rendered scene."""


def find_held_out_keys(roots: Sequence[Path], *, every: int = HELD_OUT_EVERY) -> frozenset[str]:
    """Keys of all pictures listed under `roots` whose photograph or series is held out: one in
    `every`, by hash of a photograph's keys (the captioner's split: no part of the product has
    seen one) or of a series' name; of films and toys at least one.
    """
    rows = (row for root in roots for path in _list_files(root) for row in read_rows(path))
    groups = group_keys(rows)
    series = [name for name in groups if name.startswith(_SERIES_NAME)]
    chosen = _choose_series(series, every)
    for name, keys in groups.items():
        if name not in series and any(hash_image_key(key) % every == 0 for key in keys):
            chosen.add(name)
    return frozenset(key for name in chosen for key in groups[name])


def _choose_series(names: Sequence[str], every: int) -> set[str]:
    """One series in `every` by hash, and of every family of two or more at least one."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[name.rsplit(" ", 1)[0]].append(name)
    chosen = set()
    for members in families.values():
        by_hash = sorted(members, key=hash_image_key)
        held = [name for name in by_hash if hash_image_key(name) % every == 0]
        chosen.update(held or by_hash[: len(members) > 1])
    return chosen


def group_keys(rows: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """Keys of pictures that belong together, by a name; rows as in `images-*.jsonl.gz`."""
    keys_of: dict[str, set[str]] = defaultdict(set)
    group_of: dict[str, str] = {}
    for row in rows:
        key, names = str(row["image_key"]), _list_names(row)
        known = [group_of[name] for name in names if name in group_of]
        group = known[0] if known else names[0]
        for other in known[1:]:
            if other != group:
                keys_of[group] |= keys_of.pop(other, set())
                group_of.update({n: group for n, g in group_of.items() if g == other})
        keys_of[group].add(key)
        group_of.update(dict.fromkeys(names, group))
    return dict(keys_of)


def _list_names(row: dict[str, Any]) -> list[str]:
    """Everything that a row's photograph or series is known by; a series alone where it has one."""
    key = str(row["image_key"])
    if row.get("video"):
        return [f"{_SERIES_NAME}{row['source']} {row['video']}"]
    for pattern, name in _SERIES:
        if found := pattern.match(key):
            return [f"{_SERIES_NAME}{name} {found[1]}"]
    url = _FLICKR.search(str(row.get("flickr_url") or ""))
    also, photo = row.get("also_in_data"), row.get("photo_id") or (url and url[1])
    names = [f"key {key}", f"key {also}" if also else "", f"photo {photo}" if photo else ""]
    return [name for name in names if name]


def _list_files(root: Path) -> list[Path]:
    return sorted(root.glob("images-*.jsonl*"))
