"""Answers that teachers gave before, in files of records: `regions-*-pseudo.jsonl.gz`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ureca.datatypes import Image, Rle
from ureca.errors import ConfigError, RegionError
from ureca.models.curation.masks.teachers import FoundMask, TeacherMask
from ureca.models.data.regions import RegionRecord, read_rows
from ureca.protocol import rle

Row = dict[str, Any]

_SURE_STUFF = frozenset({"sky", "grass", "field", "water", "ocean", "sea", "tree", "trees", "lake"})
"""Stuff that DeepLab of ADE20K knows: IoU .38 to .84 on COCO's panoptic labels."""


def _trust_sam2(row: Row) -> float:
    # Its own score is .1 above the truth: .757 best of 3 against .86 on 78 COCO regions.
    return max(0.0, float(row.get("predicted_iou") or 0.0) - 0.1)


def _trust_ade20k(row: Row) -> float:
    return 0.72 if str(row.get("category")) in _SURE_STUFF else 0.45


def _trust_bodypix(row: Row) -> float:
    return 0.9 * float(row.get("person_iou") or 0.0)


TRUSTS: Mapping[str, tuple[str, Callable[[Row], float]]] = {
    "teacher:sam2": ("sam2", _trust_sam2),
    "pseudo:voc-deeplab": ("deeplab-voc", lambda _: 0.74),
    "pseudo:ade20k-deeplab": ("deeplab-ade20k", _trust_ade20k),
    "pseudo:bodypix": ("bodypix", _trust_bodypix),
    "pseudo:selfie": ("selfie+grabcut", lambda _: 0.66),
    "pseudo:grabcut": ("grabcut", lambda _: 0.6),
}
"""By the beginning of `mask_source`: the teacher's name, and how far its answer is trusted."""


def find_teacher(row: Row) -> tuple[str, float] | None:
    """Name and trust of a row's maker; None when it is none of ours (a box, a true mask)."""
    source = str(row.get("mask_source") or "")
    for prefix, (name, trust) in TRUSTS.items():
        if source.startswith(prefix):
            return name, trust(row)
    return None


class FileTeacher:
    """A `MaskTeacher` that reads. Rows of regions that the data has are answers; others are found.

    Raises `ConfigError` for a file of which no row has a known maker.
    """

    def __init__(self, path: Path, *, asked: frozenset[str]) -> None:
        """`asked`: the ids of all regions that may be asked for."""
        self._answers: dict[str, tuple[Row, str, float]] = {}
        self._found: dict[str, list[tuple[Row, str, float]]] = {}
        self.name = path.name
        for row in read_rows(path):
            known = find_teacher(row)
            if known is None:
                continue
            if str(row["region_id"]) in asked:
                self._answers[str(row["region_id"])] = (row, *known)
            else:
                self._found.setdefault(str(row["image_key"]), []).append((row, *known))
        if not self._answers and not self._found:
            raise ConfigError(
                f"{path}: no masks of known teachers; expected mask_source to begin with one of "
                f"{', '.join(TRUSTS)}"
            )

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """See `MaskTeacher`."""
        return [self._outline(image, region.region_id) for region in regions]

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """See `MaskTeacher`."""
        found = []
        for row, name, trust in self._found.get(regions[0].image_key, ()):
            answer = _decode(row, name, trust, image)
            if answer is not None:
                record = RegionRecord.from_json(row)
                found.append(FoundMask(answer, record.category, record.part, record.stuff, record))
        return found

    def _outline(self, image: Image, region_id: str) -> TeacherMask | None:
        known = self._answers.get(region_id)
        return _decode(*known, image) if known else None


def _decode(row: Row, name: str, trust: float, image: Image) -> TeacherMask | None:
    """The mask of a row, or None when it is not of this picture's size."""
    try:
        height, width = row["rle"]["size"]
        mask = rle.decode(Rle(size=(int(height), int(width)), counts=str(row["rle"]["counts"])))
    except (RegionError, KeyError, TypeError, ValueError):
        return None
    return TeacherMask(mask, trust, name) if mask.shape == image.shape[:2] else None
