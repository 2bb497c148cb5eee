"""Checkpoints of `ureca mllm` that run as they are, without export: what they are, and how they
open. torch is loaded by name, only when one is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ureca.datatypes import Image, Mask
from ureca.extras import require

PIX2CAP, UNIRES = "pix2cap.json", "unires.json"
_EXTRA = "mllm"


@dataclass(frozen=True, slots=True)
class TextMask:
    """One thing that a text means: its mask bool [H, W] of the image's size, and the model's own
    estimate 0..1 of the mask's IoU.
    """

    mask: Mask
    score: float


@dataclass(frozen=True, slots=True)
class TextMasks:
    """The answer to one text; no masks when nothing is there, as sure as `none_probability`."""

    text: str
    none_probability: float
    masks: tuple[TextMask, ...] = ()


class TextSegmenter(Protocol):
    """Finds what texts mean in an image, without candidates."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def info(self) -> Any:
        """`EngineInfo`: model, runtime, precision and hash."""

    def encode(self, image: Image) -> Any:
        """Encode an image u8 [H, W, 3] RGB once for all texts."""

    def find_masks(
        self, encoded: Any, texts: Sequence[str], *, min_present: float | None = None
    ) -> list[TextMasks]:
        """One answer for each text. `min_present`: 1 - P(none) from which something is there; None
        takes the model's own; 0 always answers.
        """


def is_query_captioner(folder: Path) -> bool:
    """Whether a folder is a checkpoint that segments and captions at once (Pix2Cap)."""
    return (folder / PIX2CAP).is_file()


def open_query_captioner(folder: Path) -> Any:
    """Open it: an `Engine` and a `PanopticSegmenter` in one. Raises `WeightsError`."""
    return require("ureca.models.mllm.pix2cap.engine", extra=_EXTRA).open_pix2cap(folder)


def is_text_segmenter(folder: Path) -> bool:
    """Whether a folder is a checkpoint that turns texts into masks (UniRES++)."""
    return (folder / UNIRES).is_file()


def open_text_segmenter(folder: Path) -> TextSegmenter:
    """Open it. Raises `WeightsError`."""
    opener = require("ureca.models.mllm.unires.engine", extra=_EXTRA)
    opened: TextSegmenter = opener.open_unires(folder)
    return opened
