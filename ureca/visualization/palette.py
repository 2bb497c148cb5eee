"""One colour per region, the same for as long as it lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Rgb = tuple[int, int, int]

COLOURS: tuple[Rgb, ...] = (
    (255, 107, 97),
    (72, 201, 120),
    (92, 156, 255),
    (255, 200, 61),
    (197, 118, 255),
    (46, 207, 214),
    (255, 140, 200),
    (170, 220, 60),
    (255, 156, 66),
    (130, 190, 255),
    (120, 230, 180),
    (225, 170, 120),
)
"""RGB, light enough to be seen on dark pictures and to carry dark outlines."""

SEGMENT_COLOURS: tuple[Rgb, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of segments: neighbours touch, so these differ for the colour-blind too (Okabe and Ito)."""

STALE: Rgb = (168, 168, 168)
"""Expired captions and lost regions."""


class Palette:
    """Colours by name: each new name gets the colour that the fewest others have."""

    def __init__(self, colours: Sequence[Rgb] = COLOURS) -> None:
        self._colours = colours
        self._numbers: dict[str, int] = {}

    def __getitem__(self, name: str) -> Rgb:
        if name not in self._numbers:
            used = Counter(self._numbers.values())
            self._numbers[name] = min(range(len(self._colours)), key=lambda number: used[number])
        return self._colours[self._numbers[name]]

    def forget(self, name: str) -> None:
        """Let a name go; the others keep their colours."""
        self._numbers.pop(name, None)


def segment_colour(number: int, kind: str) -> Rgb:
    """The colour of a segment's region by its number, half white for stuff: for viewers that fill
    all segments alike.
    """
    colour = SEGMENT_COLOURS[number % len(SEGMENT_COLOURS)]
    if kind != "stuff":
        return colour
    red, green, blue = ((value + 255) // 2 for value in colour)
    return red, green, blue
