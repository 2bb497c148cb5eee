"""What a teacher of masks is. It looks at a picture with regions and answers with outlines.

`trust` is the IoU with the truth that its answers are expected to have, 0..1, measured on pictures
with true masks; agreement between teachers raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ureca.datatypes import Image, Mask
from ureca.models.data.regions import RegionRecord


@dataclass(frozen=True, slots=True)
class TeacherMask:
    """One outline: bool [H, W], whose it is, and the IoU with the truth that is expected of it."""

    mask: Mask
    trust: float
    teacher: str


@dataclass(frozen=True, slots=True)
class FoundMask:
    """An outline that nobody asked for: a part, a thing or stuff that a teacher knows."""

    answer: TeacherMask
    category: str = ""
    part: bool = False
    stuff: bool = False
    record: RegionRecord | None = field(default=None, compare=False)
    """Its record where it has one already."""


class MaskTeacher(Protocol):
    """Knows outlines."""

    @property
    def name(self) -> str:
        """Which model it is."""

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """One answer for every region of one picture: None where it does not know."""

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """What else there is in the picture, beside or inside its regions (at least one)."""
