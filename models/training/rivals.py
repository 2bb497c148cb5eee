"""Harder rivals for the margin loss: fragments of a thing, parts of other things, hard statements.

A grounder is wrong in three ways that another region of the picture does not teach: it takes a
piece of a thing for the thing, a part for the same part of another thing, and one order of words
for another. Everything here is a draw of the plan; without `TrainConfig.rivals` nothing is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ureca.datatypes import Mask
from ureca.errors import ConfigError
from ureca.models.config import VisionConfig
from ureca.models.data.statements import read_statements
from ureca.models.training.config import RivalConfig
from ureca.models.training.dataset import Region, normalise_text

_LEAST_CELLS = 16
"""A region of fewer cells has no fragment worth the name."""
_OWN_SHARE = 0.2
"""A part that lies in the own region with more of its cells may be a part of it."""


@dataclass(frozen=True, slots=True)
class HardStatement:
    """A true statement about a whole picture, and a false variant."""

    image_key: str
    caption: str
    negative: str

    @property
    def texts(self) -> tuple[str, str]:
        """The true one and the false one."""
        return self.caption, self.negative


def load_hard_statements(config: RivalConfig, pictures: set[str]) -> list[HardStatement]:
    """The pairs about `pictures`, their words cleaned; pairs that are then equal are left out.

    Statements with a label and no variant are left out. Raises `ConfigError` when none is left.
    """
    if not config.statements:
        return []
    rows = read_statements(Path(config.statements))
    found = [
        HardStatement(row.image_key, normalise_text(row.caption), normalise_text(row.negative))
        for row in rows
        if row.negative and row.image_key in pictures
    ]
    found = [one for one in found if one.caption and one.caption != one.negative]
    if not found:
        raise ConfigError(
            f"{config.statements}: no pair about a picture of this recipe's training data; add the "
            "folder of its pictures to `data`"
        )
    return found


def whole_picture(image_key: str, source: int, vision: VisionConfig) -> Region:
    """The region that statements are about."""
    bits = np.packbits(np.ones(vision.mask_px**2, np.uint8))
    box = np.array([0, 0, 1, 1], np.float32)
    return Region(image_key, source, (), (), bits, box, f"{image_key}/whole")


def by_picture(statements: Sequence[HardStatement]) -> dict[str, list[HardStatement]]:
    """Statements by `image_key`, in their order."""
    found: dict[str, list[HardStatement]] = {}
    for one in statements:
        found.setdefault(one.image_key, []).append(one)
    return found


def draw_statements(
    known: Sequence[HardStatement], count: int, rng: random.Random
) -> list[HardStatement]:
    """`count` statements of one picture: all once, then repeats."""
    drawn = rng.sample(known, min(count, len(known)))
    return drawn + rng.choices(known, k=count - len(drawn))


def draw_fragments(
    told: Sequence[Region], config: RivalConfig, vision: VisionConfig, rng: random.Random
) -> tuple[tuple[int, int], ...]:
    """Slots of regions that get a fragment, each with a seed; as many for every group of one size.

    A region without a fragment worth the name gets one, too, so that all groups have one shape; no
    phrase is held against it (`has_fragment`).
    """
    count = round(config.fragments * len(told))
    if not count:
        return ()
    large = [slot for slot, region in enumerate(told) if has_fragment(region, vision)]
    small = [slot for slot in range(len(told)) if slot not in large]
    slots = [*rng.sample(large, len(large)), *rng.sample(small, len(small))][:count]
    return tuple((slot, rng.getrandbits(32) | 1) for slot in sorted(slots))


def has_fragment(region: Region, vision: VisionConfig) -> bool:
    """Whether a piece of a region is something else: it has a shape, and is large enough."""
    return not region.stuff and int(cells(region, vision).sum()) >= _LEAST_CELLS


def cells(region: Region, vision: VisionConfig) -> Mask:
    """The mask tile bool [M, M]."""
    side = vision.mask_px
    return np.unpackbits(region.mask_bits)[: side * side].reshape(side, side).astype(np.bool_)


def parts_of_others(own: int, told: Sequence[Region], vision: VisionConfig) -> Iterator[int]:
    """Slots of regions that are parts of another thing than slot `own` is, or is a part of.

    Where the data name the thing of a part, by its name; else by the masks.
    """
    region = told[own]
    thing = region.parent or region.region_id
    for slot, other in enumerate(told):
        if slot == own or not other.part:
            continue
        if other.parent and (region.parent or not region.part):
            apart = other.parent != thing
        else:
            theirs = cells(other, vision)
            inside = int((theirs & cells(region, vision)).sum())
            apart = inside <= _OWN_SHARE * int(theirs.sum())
        if apart:
            yield slot
