"""A labelled clip on disk: `NAME.mp4`, `prompts.json` (regions of frame 0) and `truth.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ureca.models.data.synthetic.rendering.render import Ids, Rgb8
from ureca.models.data.synthetic.rendering.views import compute_bounding_box, encode_mask
from ureca.models.data.synthetic.scenes.world import World

FRAME_SIZE: Final = (360, 640)
FRAMES_PER_SECOND: Final = 15
MASK_EVERY: Final = 15
"""truth.json holds whole masks for every so many frames, counts and boxes for all."""


@dataclass(frozen=True)
class ClipPrompt:
    """A region to follow: the ids (indices into world.pieces) that make up its mask."""

    rid: str
    kind: str
    part: str | None
    label: str
    accepted: tuple[str, ...]
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class ClipFrame:
    """One frame of the clip: picture (h, w, 3) and ids (h, w)."""

    number: int
    picture: Rgb8
    ids: Ids


def list_pieces(world: World, item: int, part: int | None = None) -> tuple[int, ...]:
    """Indices into world.pieces of an item, or of one of its parts."""
    return tuple(
        index
        for index, piece in enumerate(world.pieces)
        if piece.item == item and part in (None, piece.part)
    )


def _make_mask(prompt: ClipPrompt, frame: ClipFrame) -> NDArray[np.bool_]:
    return np.isin(frame.ids, prompt.pieces)


def _make_prompt_rows(prompts: list[ClipPrompt], frame: ClipFrame) -> list[dict[str, Any]]:
    return [
        {
            "frame": frame.number,
            "rid": one.rid,
            "mask": encode_mask(_make_mask(one, frame)),
            "label": one.label,
        }
        for one in prompts
    ]


class Truth:
    """Collects, frame by frame, what is to be seen of every region."""

    def __init__(self, prompts: list[ClipPrompt]) -> None:
        self.prompts = prompts
        self.pixels: dict[str, list[int]] = {one.rid: [] for one in prompts}
        self.boxes: dict[str, list[list[int] | None]] = {one.rid: [] for one in prompts}
        self.masks: dict[str, dict[str, str]] = {one.rid: {} for one in prompts}

    def add(self, frame: ClipFrame) -> None:
        """Note counts and boxes of a frame, and whole masks of some."""
        for one in self.prompts:
            mask = _make_mask(one, frame)
            count = int(mask.sum())
            self.pixels[one.rid].append(count)
            self.boxes[one.rid].append(compute_bounding_box(mask) if count else None)
            if frame.number % MASK_EVERY == 0:
                self.masks[one.rid][str(frame.number)] = encode_mask(mask)["counts"]

    def document(self, frames: int) -> Mapping[str, Any]:
        """Everything as one JSON object; masks are COCO RLE counts by frame number."""
        regions = [
            {
                "rid": one.rid,
                "kind": one.kind,
                "part": one.part,
                "label": one.label,
                "accepted": list(one.accepted),
                "pixels": self.pixels[one.rid],
                "boxes": self.boxes[one.rid],
                "masks": self.masks[one.rid],
            }
            for one in self.prompts
        ]
        size = list(FRAME_SIZE)
        return {"fps": FRAMES_PER_SECOND, "size": size, "frames": frames, "regions": regions}


def write_clip(
    out: Path,
    name: str,
    frames: Iterable[ClipFrame],
    *,
    prompts: list[ClipPrompt],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the three files of a clip into a folder; more is added to `truth.json`."""
    out.mkdir(parents=True, exist_ok=True)
    truth = Truth(prompts)
    size = (FRAME_SIZE[1], FRAME_SIZE[0])
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    clip = cv2.VideoWriter(str(out / f"{name}.mp4"), codec, FRAMES_PER_SECOND, size)
    first: list[dict[str, Any]] = []
    count = 0
    for frame in frames:
        clip.write(np.ascontiguousarray(frame.picture[..., ::-1]))
        truth.add(frame)
        first = first or _make_prompt_rows(prompts, frame)
        count += 1
    clip.release()
    (out / "prompts.json").write_text(json.dumps(first, indent=1) + "\n", encoding="utf-8")
    text = json.dumps({**truth.document(count), **(more or {})}, separators=(",", ":"))
    (out / "truth.json").write_text(text + "\n", encoding="utf-8")
