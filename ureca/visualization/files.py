"""Annotated pictures as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ureca.datatypes import Image, Mask
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.visualization.palette import COLOURS, SEGMENT_COLOURS, Palette, Rgb
from ureca.visualization.picture import Shown, annotated
from ureca.visualization.segment_fill import paint_ids
from ureca.visualization.text import EXTRA


def check_name(path: Path) -> None:
    """Raises `ConfigError` for a name or a folder that cannot become a PNG, `MissingExtraError`
    without the extra: before the captions are written, not after.
    """
    require("PIL.ImageFont", extra=EXTRA)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--render writes PNG: expected a name like out.png, got {path.name!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")


def save(path: Path, image: Image, masks: Sequence[Mask], texts: Sequence[str]) -> None:
    """Write `image`, RGB u8 [H, W, 3], with bool [H, W] masks and their captions.

    Raises `ConfigError` when the file cannot be written.
    """
    _write(path, annotated(image, regions(masks, texts)))


def save_segments(
    path: Path, image: Image, masks: Sequence[Mask], texts: Sequence[str], stuff: Sequence[bool]
) -> None:
    """Write `image` with whole segments filled: masks bool [H, W] that do not overlap, their
    captions, and which are stuff. At most 255. Raises `ConfigError` as `save` does.
    """
    shown = [
        replace(one, is_stuff=stuff[int(one.name)])
        for one in regions(masks, texts, SEGMENT_COLOURS)
    ]
    ids = np.zeros(image.shape[:2], np.uint8)
    paint_ids(
        ids, [(n, m, o.box_xyxy_px) for n, o in enumerate(shown, 1) if (m := o.mask) is not None]
    )
    _write(path, annotated(image, shown, ids=ids))


def _write(path: Path, picture: Image) -> None:
    cv2: Any = require("cv2", extra=EXTRA)
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done  # a u8 picture can always be encoded
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def regions(
    masks: Sequence[Mask], texts: Sequence[str], colours: Sequence[Rgb] = COLOURS
) -> list[Shown]:
    """Regions in colours of their own, in order."""
    palette = Palette(colours)
    return [
        Shown(str(number), _box(mask), palette[str(number)], text, mask)
        for number, (mask, text) in enumerate(zip(masks, texts, strict=True))
        if mask.any()
    ]


def _box(mask: Mask) -> tuple[int, int, int, int]:
    ys, xs = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
