"""Colour names that can be decided from a surface's own colour, and the held-back pairs.

Colours are display (sRGB) values in 0..1. Every draw is checked against all names in CIE Lab,
so that no surface lies near the border between two words.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = tuple[float, float, float]
Range = tuple[float, float]

COLOUR_MARGIN: Final = 12.0
"""Least gap (CIE Lab units) between the right name's centre and the next nearest one's."""


@dataclass(frozen=True)
class Swatch:
    """The ranges a colour name is drawn from: hue in degrees, saturation and value in 0..1."""

    hue: Range
    saturation: Range
    value: Range

    def at(self, hue: float, saturation: float, value: float) -> Rgb:
        """Colour at a relative position (each 0..1) inside the ranges."""
        places = zip((hue, saturation, value), (self.hue, self.saturation, self.value), strict=True)
        h, s, v = (low + t * (high - low) for t, (low, high) in places)
        return colorsys.hsv_to_rgb((h / 360.0) % 1.0, s, v)


PALETTE: Final = MappingProxyType(
    {
        "red": Swatch((354, 366), (0.78, 0.95), (0.62, 0.85)),
        "orange": Swatch((22, 30), (0.85, 1.0), (0.9, 1.0)),
        "yellow": Swatch((48, 56), (0.72, 0.95), (0.92, 1.0)),
        "green": Swatch((105, 145), (0.55, 0.85), (0.4, 0.68)),
        "blue": Swatch((216, 232), (0.7, 0.9), (0.5, 0.85)),
        "light blue": Swatch((194, 207), (0.36, 0.52), (0.88, 1.0)),
        "purple": Swatch((268, 286), (0.5, 0.75), (0.42, 0.62)),
        "pink": Swatch((328, 346), (0.36, 0.55), (0.93, 1.0)),
        "brown": Swatch((18, 28), (0.55, 0.75), (0.28, 0.4)),
        "white": Swatch((0, 360), (0.0, 0.04), (0.92, 1.0)),
        "gray": Swatch((0, 360), (0.0, 0.05), (0.42, 0.54)),
        "black": Swatch((0, 360), (0.0, 0.1), (0.04, 0.11)),
    }
)
COLOURS: Final = tuple(PALETTE)

HELD_BACK_PAIRS: Final = frozenset(
    {
        ("red", "mug"),
        ("green", "bottle"),
        ("blue", "teapot"),
        ("yellow", "bowl"),
        ("orange", "book"),
        ("purple", "marker"),
        ("pink", "plate"),
        ("light blue", "vase"),
        ("green", "can"),
        ("red", "ball"),
        ("yellow", "cube"),
        ("purple", "box"),
        ("white", "pot"),
        ("pink", "sponge"),
    }
)
"""(colour, kind) pairs that no training view shows; tests and the demo clip use them."""


def to_lab(rgb: Rgb) -> NDArray[np.float32]:
    """CIE Lab (3,) of a display colour."""
    pixel = np.array(rgb, dtype=np.float32).reshape(1, 1, 3)
    return cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB).reshape(3).astype(np.float32)


_CENTRES: Final = {name: to_lab(swatch.at(0.5, 0.5, 0.5)) for name, swatch in PALETTE.items()}


def _distances(rgb: Rgb) -> dict[str, float]:
    lab = to_lab(rgb)
    return {name: float(np.linalg.norm(lab - centre)) for name, centre in _CENTRES.items()}


def colour_name(rgb: Rgb) -> str:
    """The palette name nearest to a display colour."""
    distances = _distances(rgb)
    return min(distances, key=distances.__getitem__)


def margin(rgb: Rgb, name: str) -> float:
    """How much nearer (CIE Lab) a colour lies to this name than to any other; negative if not."""
    distances = _distances(rgb)
    own = distances.pop(name)
    return min(distances.values()) - own


def draw_colour(name: str, rng: np.random.Generator) -> Rgb:
    """Draw a colour that keeps the margin for its name."""
    for _ in range(100):
        h, s, v = rng.random(3)
        rgb = PALETTE[name].at(float(h), float(s), float(v))
        if margin(rgb, name) >= COLOUR_MARGIN:
            return rgb
    return PALETTE[name].at(0.5, 0.5, 0.5)
