"""Checks every finished `ureca curate` run again from its files and the masks.

    python tools/curation/check.py DATA RUN --limit 200

It builds the tree a second time, by all pairs of masks. It prints the counts as JSON; exit status 1
when a check fails.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ureca.models.curation import output
from ureca.models.curation.records import CuratedPicture, CuratedRegion
from ureca.models.curation.sources import read_pictures
from ureca.models.curation.tree import TreeConfig
from ureca.models.runtime.server.answers import parse_sentence

_TREELESS = ("bad_mask",)


def check(data: Sequence[Path], run: Path, limit: int | None) -> dict[str, Any]:
    """Counts, and `broken`: a line for everything that does not hold."""
    given = read_pictures(data, limit=limit)
    tree = TreeConfig(**json.loads((run / "settings.json").read_text("utf8"))["config"]["tree"])
    done = {p.image_key: p for p in output.read_finished(run, (p.image_key for p in given))}
    broken = [f"{p.image_key}: not done" for p in given if p.image_key not in done]
    for picture in given:
        if picture.image_key in done:
            faults = picture_faults(picture, done[picture.image_key], tree)
            broken += [f"{picture.image_key}: {fault}" for fault in faults]
    broken += list(export_faults(run, list(done.values())))
    kept = [(picture, region) for picture in done.values() for region in picture.kept]
    exported = {region.region_id for _, region in kept}
    levels = Counter(len(list(picture.list_ancestors(region))) for picture, region in kept)
    return {
        "pictures": len(done),
        "regions": sum(len(picture.regions) for picture in done.values()),
        "exported": len(exported),
        "by_level": {str(level): n for level, n in sorted(levels.items())},
        "parent_not_verified": sum(bool(r.parent) and r.parent not in exported for _, r in kept),
        "broken": broken,
    }


def picture_faults(given: CuratedPicture, done: CuratedPicture, tree: TreeConfig) -> Iterator[str]:
    """Of one picture's tree and counters."""
    ids = [region.region_id for region in done.regions]
    if sorted(ids) != sorted(region.region_id for region in given.regions):
        yield "its regions are not those that came in"
        return
    seen: set[str] = set()
    for region in done.regions:
        if region.parent and region.parent not in seen:
            yield f"{region.region_id} stands before its parent: there is a cycle, or no parent"
        seen.add(region.region_id)
    yield from _tree_faults(done, tree)
    for region in done.regions:
        yield from _region_faults(done, region, tree)


def export_faults(run: Path, done: Sequence[CuratedPicture]) -> Iterator[str]:
    """The exported rows are the kept regions with their refined words, in both files."""
    kept = {r.region_id: (p, r) for p in done for r in p.kept}
    with gzip.open(run / output.ROWS, "rt", encoding="utf8") as file:
        rows = [json.loads(line) for line in file]
    if [row["region_id"] for row in rows] != list(kept):
        yield f"{output.ROWS} holds {len(rows)} rows, {len(kept)} regions were kept"
        return
    told = [json.loads(line) for line in (run / output.CONVERSATIONS).read_text().splitlines()]
    for row, talk, (picture, region) in zip(rows, told, kept.values(), strict=True):
        words = region.refined or region.long
        if (row["expressions_long"], row["parent"]) != ([words], region.parent):
            yield f"{region.region_id}: other words or another parent in {output.ROWS}"
        if (talk["mask_id"], talk["conversations"][1]["value"]) != (region.region_id, words):
            yield f"{region.region_id}: other words in {output.CONVERSATIONS}"
        if not (picture.decode_mask(region).any() and row["rle"]["counts"] == region.counts):
            yield f"{region.region_id}: another mask in {output.ROWS}"


def _tree_faults(done: CuratedPicture, tree: TreeConfig) -> Iterator[str]:
    """Every parent is the smallest larger mask that holds enough of the region."""
    regions = [region for region in done.regions if region.left_out not in _TREELESS]
    if not regions:
        return
    flat = np.stack([done.decode_mask(region).ravel() for region in regions]).astype(np.float64)
    area, common = flat.sum(axis=1), flat @ flat.T
    for i, region in enumerate(regions):
        holders = [j for j in range(i) if common[i, j] >= tree.containment * area[i]]
        if i and area[i] > area[i - 1]:
            yield f"{region.region_id} stands behind a smaller mask"
        expected = regions[holders[-1]].region_id if holders else ""
        if region.parent != expected:
            yield f"{region.region_id} hangs below {region.parent!r}, expected {expected!r}"


def _region_faults(done: CuratedPicture, region: CuratedRegion, tree: TreeConfig) -> Iterator[str]:
    name, by_id = region.region_id, {each.region_id: each for each in done.regions}
    below = [each.depth + 1 for each in done.regions if each.parent == name]
    if region.left_out not in _TREELESS and region.depth != max(below, default=0):
        yield f"{name} has depth {region.depth}, its parts say {max(below, default=0)}"
    if region.left_out is not None:
        return
    share = float(done.decode_mask(region).mean())
    top = 1.0 if region.parent else tree.max_share
    if abs(share - region.share) > 1e-9 or not tree.min_share <= share <= top:
        yield f"{name} was kept with a share of {share:.4f}, {region.share:.4f} is written"
    above = by_id.get(region.parent)
    if above is not None and above.left_out is not None and not above.long:
        yield f"{name} was kept although {above.region_id} ended as {above.left_out}"
    kin = {*done.list_ancestors(region)}
    if any(name in done.list_ancestors(by_id[o]) or o in kin for o in region.similar):
        yield f"{name} was compared with its own thing or part"
    if parse_sentence(region.short) is None or parse_sentence(region.long) is None:
        yield f"{name} was kept without words"
    if region.refined and (not region.similar or parse_sentence(region.refined) is None):
        yield f"{name} was refined to {region.refined!r} beside {len(region.similar)} others"


def main() -> int:
    """1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    found = check(options.data, options.run, options.limit)
    print(json.dumps(found, indent=1))
    return int(bool(found["broken"]))


if __name__ == "__main__":
    sys.exit(main())
