"""Picture by picture: ask the teachers, decide, note the result; then publish all of them.

Results are lines of `OUT/pictures.jsonl`, so a run that was stopped goes on with the next picture.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ureca.datatypes import Image, Mask, Rle
from ureca.errors import ConfigError
from ureca.models.curation.masks.agreement import AgreementRule, Decision, compute_mask_iou, decide
from ureca.models.curation.masks.answer_files import find_teacher
from ureca.models.curation.masks.teachers import FoundMask, MaskTeacher, TeacherMask
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key
from ureca.protocol import rle

_DONE, _SETTINGS, _REPORT = "pictures.jsonl", "settings.json", "report.json"
TRUE = ("gt:", "union of gt", "full_image")
"""Beginnings of `mask_source` of regions that need no teacher."""
_LEAST_SHARE = 0.0005
"""Of the picture: smaller outlines are left out."""


@dataclass(frozen=True, kw_only=True)
class MaskJob:
    """Pictures with the regions that are asked for, and those who answer."""

    pictures: Mapping[str, Sequence[RegionRecord]]
    images: ImageStore
    teachers: Sequence[MaskTeacher]
    rule: AgreementRule
    only_found: bool = False
    """Ask for no region; keep what teachers find beside them."""


def curate_masks(job: MaskJob, out: Path, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Do the pictures that are not done, publish, and return the report.

    Raises `ConfigError` when `out` holds a run with other `settings`.
    """
    claim(out, {**settings, "rule": asdict(job.rule)})
    done = read_finished(out)
    todo = [key for key in sorted(job.pictures, key=hash_image_key) if key not in done]
    with (out / _DONE).open("a", encoding="utf8") as lines:
        for key in tqdm(todo, desc="curate masks", unit="picture", disable=None):
            lines.write(json.dumps(curate_picture(job, key), separators=(",", ":")) + "\n")
            lines.flush()
    return publish(out)


def curate_picture(job: MaskJob, key: str) -> dict[str, Any]:
    """One picture's line: kept records as JSON, and how every region ended."""
    image, everyone = job.images.read(key), job.pictures[key]
    asked = [] if job.only_found else everyone
    regions = [region for region in asked if not region.mask_source.startswith(TRUE)]
    answers: list[list[TeacherMask]] = [_get_present(region, image) for region in regions]
    outcomes: Counter[str] = Counter()
    kept: list[RegionRecord] = []
    found: list[FoundMask] = []
    for teacher in job.teachers:
        for given, answer in zip(answers, teacher.outline(image, regions), strict=True):
            given.extend([answer] if answer is not None else [])
        found += teacher.discover(image, everyone)
    for region, given in zip(regions, answers, strict=True):
        decision = decide(given, job.rule)
        outcomes[decision.outcome] += 1
        kept += _make_records(region, decision)
    discovered = list(_keep_discovered(everyone, found, kept, job.rule))
    outcomes["found"] += len(discovered)
    rows = [record.to_json() for record in (*kept, *discovered)]
    return {"image_key": key, "outcomes": dict(outcomes), "regions": rows}


def _get_present(region: RegionRecord, image: Image) -> list[TeacherMask]:
    """The outline that the record has already, where a known teacher made it."""
    known = find_teacher({"mask_source": region.mask_source, "category": region.category})
    if known is None or (region.height, region.width) != image.shape[:2]:
        return []
    mask = rle.decode(Rle(size=(region.height, region.width), counts=region.counts))
    return [TeacherMask(mask, known[1], known[0])]


def _make_records(region: RegionRecord, decision: Decision) -> Iterator[RegionRecord]:
    if decision.answer is not None and _is_large_enough(decision.answer.mask):
        yield _replace_mask(region, decision.answer.mask, decision.score, decision.teachers)


def _replace_mask(
    region: RegionRecord, mask: Mask, score: float, teachers: Sequence[str]
) -> RegionRecord:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = float(columns[0]), float(rows[0])
    box = (x, y, float(columns[-1]) - x + 1, float(rows[-1]) - y + 1)
    return replace(
        region,
        counts=rle.encode(mask).counts,
        box_xywh_px=box,
        mask_source="teacher:" + "+".join(teachers),
        mask_score=round(score, 3),
    )


def _keep_discovered(
    regions: Sequence[RegionRecord],
    found: Sequence[FoundMask],
    kept: Sequence[RegionRecord],
    rule: AgreementRule,
) -> Iterator[RegionRecord]:
    """Found outlines that are trusted and not yet there, true masks of the picture included."""
    true = [region for region in regions if region.mask_source.startswith(TRUE)]
    there = [rle.decode(Rle(size=(r.height, r.width), counts=r.counts)) for r in (*kept, *true)]
    key = regions[0].image_key
    for number, one in enumerate(sorted(found, key=lambda each: -each.answer.trust)):
        mask = one.answer.mask
        others = [o.answer for o in found if o.answer.teacher != one.answer.teacher]
        same = [other for other in others if compute_mask_iou(mask, other.mask) >= rule.agree]
        decision = decide([one.answer, *same], rule)
        known = any(compute_mask_iou(mask, other) >= rule.agree for other in there)
        if decision.answer is None or known or not _is_large_enough(mask):
            continue
        there.append(mask)
        record = one.record or _make_blank(regions[0], one, f"{key}_{one.answer.teacher}_{number}")
        yield _replace_mask(record, mask, decision.score, decision.teachers)


def _make_blank(like: RegionRecord, found: FoundMask, region_id: str) -> RegionRecord:
    """A record of the same picture for something new."""
    return RegionRecord(
        region_id=region_id,
        image_key=like.image_key,
        shard=like.shard,
        source=like.source,
        height=like.height,
        width=like.width,
        counts="",
        box_xywh_px=(0, 0, 0, 0),
        category=found.category,
        part=found.part,
        stuff=found.stuff,
        split=like.split,
    )


def _is_large_enough(mask: Mask) -> bool:
    return bool(mask.mean() >= _LEAST_SHARE)


# --- the run's folder ----------------------------------------------------------------------------


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder this run's. Raises `ConfigError` when it is another's."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1) + "\n"
    path = out / _SETTINGS
    if path.is_file() and path.read_text("utf8") != text:
        raise ConfigError(
            f"{out} holds a run with other settings ({path}); give another folder with -o"
        )
    path.write_text(text, "utf8")


def read_finished(out: Path) -> frozenset[str]:
    """Keys of pictures that are done; a last line that is not whole is taken away."""
    path = out / _DONE
    if not path.is_file():
        return frozenset()
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end != len(whole):
        with path.open("r+b") as file:
            file.truncate(end)
    return frozenset(json.loads(line)["image_key"] for line in whole[:end].splitlines())


def publish(out: Path) -> dict[str, Any]:
    """Write `regions-train.jsonl.gz` and `report.json` of everything that is done."""
    outcomes: Counter[str] = Counter()
    makers: Counter[str] = Counter()
    pictures = 0
    part = out / ".regions-train.part"
    with gzip.GzipFile(part, "wb", 6, mtime=0) as file:
        for line in (out / _DONE).read_text("utf8").splitlines():
            row = json.loads(line)
            pictures += 1
            outcomes.update(row["outcomes"])
            for region in row["regions"]:
                makers[region["mask_source"]] += 1
                file.write((json.dumps(region, separators=(",", ":")) + "\n").encode())
    part.replace(out / "regions-train.jsonl.gz")
    report = {
        "pictures": pictures,
        "regions": sum(makers.values()),
        "outcomes": dict(outcomes.most_common()),
        "makers": dict(makers.most_common()),
    }
    (out / _REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf8")
    return report
