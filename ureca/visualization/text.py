"""Captions as sprites: wrapped, outlined, in any script that a font of this machine has."""

from __future__ import annotations

import contextlib
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.extras import require

EXTRA = "render"
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
"""Fonts to search in the folders of the system, best coverage first; else Pillow's own Latin font.
"""

_ELLIPSIS = "\u2026"


@dataclass(frozen=True, slots=True)
class Sprite:
    """One text: coverage u8 [h, w] of the letters and of letters with their outline."""

    letters: npt.NDArray[np.uint8]
    outlined: npt.NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return int(self.letters.shape[1]), int(self.letters.shape[0])


@lru_cache(maxsize=512)
def sprite(text: str, *, size_px: int, width_px: int, lines: int = 3) -> Sprite:
    """`text` in letters of `size_px`, wrapped to `width_px` and cut after `lines` with an ellipsis.

    Control characters become spaces. A letter that no font here has is drawn as a box.
    """
    draw_module, image_module = require("PIL.ImageDraw", extra=EXTRA), _images()
    font, stroke = _font(size_px), max(1, round(size_px / 9))
    words = "\n".join(_wrapped(clean(text), font, width_px - 2 * stroke, lines))
    ruler = draw_module.Draw(image_module.new("L", (1, 1)))
    x0, y0, x1, y1 = ruler.multiline_textbbox((0, 0), words, font=font, stroke_width=stroke)
    size = (max(1, round(x1 - x0) + 1), max(1, round(y1 - y0) + 1))
    layers = []
    for width in (0, stroke):
        layer = image_module.new("L", size)
        draw_module.Draw(layer).multiline_text(
            (-x0, -y0), words, fill=255, font=font, stroke_width=width
        )
        layers.append(np.asarray(layer, np.uint8))
    return Sprite(*layers)


def clean(text: str) -> str:
    """`text` without control characters, surrogates and runs of white space."""
    kept = (" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def _images() -> Any:  # Pillow is optional
    return require("PIL.Image", extra=EXTRA)


@lru_cache(maxsize=16)
def _font(size_px: int) -> Any:  # a Pillow font; Pillow is optional
    fonts = require("PIL.ImageFont", extra=EXTRA)
    for name in _FONTS:
        with contextlib.suppress(OSError):
            return fonts.truetype(name, size_px)
    return fonts.load_default(size_px)


def _wrapped(text: str, font: Any, width_px: int, most: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in _pieces(text, font, width_px):
        longer = f"{line} {word}".strip()
        if not line or font.getlength(longer) <= width_px:
            line = longer
            continue
        lines.append(line)
        line = word
    lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], _cut(lines[most - 1] + _ELLIPSIS, font, width_px)]
    return lines


def _pieces(text: str, font: Any, width_px: int) -> list[str]:
    """The words; one that is wider than a line (or of a script without spaces) in parts."""
    found = []
    for word in text.split():
        rest = word
        while font.getlength(rest) > width_px and len(rest) > 1:
            fits = next(n for n in range(len(rest) - 1, 0, -1) if _fits(rest[:n], font, width_px))
            found.append(rest[:fits])
            rest = rest[fits:]
        found.append(rest)
    return found


def _fits(text: str, font: Any, width_px: int) -> bool:
    return len(text) == 1 or font.getlength(text) <= width_px


def _cut(text: str, font: Any, width_px: int) -> str:
    while font.getlength(text) > width_px and len(text) > 2:
        text = text[:-2].rstrip() + _ELLIPSIS
    return text
