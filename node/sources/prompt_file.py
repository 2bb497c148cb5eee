"""Prompt files: which regions to follow, starting at which frame.

JSON list of `{"frame": 0, "rid"?, "mask": {"size": [h, w], "counts": "…"} | "box": [x0, y0, x1, y1]
| "point": [x, y], "label"?, "parent"?}`. `frame` counts the source's pictures from 0.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ureca.datatypes import RegionSeed
from ureca.errors import ConfigError, RegionError, UrecaError
from ureca.protocol.rle import encode
from ureca.protocol.wire import WireRegion, from_wire_rle

MAX_PROMPT_BYTES = 16 << 20
MAX_PROMPTS = 4096

Prompts = Mapping[int, tuple[RegionSeed, ...]]
"""The regions to start, by the index of their frame."""


class _Prompt(WireRegion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry: a region and the frame that it is drawn on."""

    frame: int = 0


def load_prompts(path: Path | str) -> Prompts:
    """Read a prompt file. Raises `ConfigError` that names the entry and what is wrong with it."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the prompts {path}: {error.strerror}") from error
    if len(data) > MAX_PROMPT_BYTES:
        raise ConfigError(f"{path} has {len(data)} bytes, at most {MAX_PROMPT_BYTES} are read")
    try:
        entries = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or len(entries) > MAX_PROMPTS:
        raise ConfigError(f"{path}: expected a list of at most {MAX_PROMPTS} regions")
    prompts: dict[int, list[RegionSeed]] = {}
    for place, entry in enumerate(entries):
        frame, seed = _read(entry, f"{path}: entry {place}")
        prompts.setdefault(frame, []).append(seed)
    return {frame: tuple(seeds) for frame, seeds in prompts.items()}


def _read(entry: object, where: str) -> tuple[int, RegionSeed]:
    try:
        prompt = msgspec.convert(entry, _Prompt)
        if prompt.frame < 0:
            raise RegionError(f"frame must be at least 0, got {prompt.frame}")
        return prompt.frame, seed_of(prompt)
    except (msgspec.ValidationError, UrecaError) as error:
        raise ConfigError(f"{where}: {error}") from error


def seed_of(region: WireRegion) -> RegionSeed:
    """The seed of a region whose picture is not known yet; masks and places are checked on the
    picture.
    """
    return RegionSeed(
        rid=region.rid,
        mask=None if region.mask is None else from_wire_rle(region.mask),
        box_xyxy_px=region.box,
        point_xy_px=region.point,
        label=region.label,
        parent=region.parent,
    )


def first_frame_mask(clip: Path) -> Prompts:
    """The mask of a clip's first image, as in data sets: `masks/00000.png` beside
    `frames/00000.webp`, in a folder or tar. Empty if there is none.
    """
    stored = _stored_mask(clip)
    picture = (
        cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_GRAYSCALE) if stored else None
    )
    if picture is None or not picture.any():
        return {}
    return {0: (RegionSeed(rid="object", mask=encode(np.asarray(picture > 0, np.bool_))),)}


def _stored_mask(clip: Path) -> bytes | None:
    if clip.is_dir():
        masks = sorted((clip.parent / "masks").glob("*.png")) if clip.name == "frames" else []
        masks = masks or sorted((clip / "masks").glob("*.png"))
        return masks[0].read_bytes() if masks else None
    if clip.suffix.lower() != ".tar" or not clip.is_file():
        return None
    try:
        with tarfile.open(clip) as archive:
            names = [n for n in archive.getnames() if n.startswith("masks/") and n.endswith(".png")]
            stored = archive.extractfile(min(names)) if names else None
            return stored.read() if stored is not None else None
    except (tarfile.TarError, OSError, EOFError):
        return None  # opening the source will say what is wrong with it
