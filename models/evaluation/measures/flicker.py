"""Measures flicker: how often the text changes between consecutive captions of one object in a
clip.

Clips are tars with `frames/NNNNN.webp` and `masks/NNNNN.png` (the DAVIS clips of the data folder).
A tracker's masks are `CLIP.jsonl` in a folder, one `{"frame": n, "size": [h, w], "counts": "COCO
compressed RLE"}` a line.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ureca.datatypes import Image, Mask, RegionInput, Rle, RowDone, Style
from ureca.engine import Engine
from ureca.errors import RegionError, SourceError
from ureca.models.evaluation.measures.scores import Figures, compute_mean
from ureca.models.evaluation.text.phrase_parsing import find_head_nouns, normalise_text
from ureca.protocol import rle

MaskSource = Callable[[int], Mask | None]
"""The mask bool [H, W] of a frame number; None when the thing is not there."""


@dataclass(frozen=True, slots=True)
class ClipCaptions:
    """The captions of one clip's object, in order of frames."""

    clip: str
    frames: tuple[int, ...]
    captions: tuple[str, ...]


class AnnotatedClip:
    """One clip's frames and true masks, read from its tar on demand."""

    def __init__(self, path: Path) -> None:
        """Open the tar. Raises `SourceError` if it cannot be read."""
        self.name = path.stem
        try:
            with tarfile.open(path) as tar:
                self._files = {
                    member.name: file.read()
                    for member in tar
                    if member.isfile() and (file := tar.extractfile(member)) is not None
                }
        except (OSError, tarfile.TarError) as error:
            raise SourceError(f"cannot read the clip {path}: {error}") from error

    def frames(self) -> list[int]:
        """Return the frame numbers in ascending order."""
        names = (Path(name) for name in self._files)
        return sorted(int(name.stem) for name in names if name.parent.name == "frames")

    def image(self, frame: int) -> Image:
        """Return the frame as u8 [H, W, 3] RGB."""
        return _decode(self._read_file("frames", frame), cv2.IMREAD_COLOR_RGB)

    def mask(self, frame: int) -> Mask | None:
        """Return the true mask bool [H, W]; None if the object is not in the frame."""
        mask = _decode(self._read_file("masks", frame), cv2.IMREAD_GRAYSCALE) > 0
        return mask if mask.any() else None

    def _read_file(self, folder: str, frame: int) -> bytes:
        for name, data in self._files.items():
            path = Path(name)
            if path.parent.name == folder and path.stem == f"{frame:05d}":
                return data
        raise SourceError(f"the clip {self.name} lacks {folder}/{frame:05d}")


def caption_clip(
    engine: Engine, clip: AnnotatedClip, masks: MaskSource, *, every: int, style: Style = "short"
) -> ClipCaptions:
    """Caption the object of a clip in every `every`-th frame in which it has a mask."""
    pairs = list(_caption_frames(engine, clip, masks, every=every, style=style))
    return ClipCaptions(clip.name, tuple(f for f, _ in pairs), tuple(text for _, text in pairs))


def _caption_frames(
    engine: Engine, clip: AnnotatedClip, masks: MaskSource, *, every: int, style: Style
) -> Iterator[tuple[int, str]]:
    for frame in clip.frames()[::every]:
        mask = masks(frame)
        if mask is None:
            continue
        region = RegionInput(mask, style=style, max_new_tokens=engine.info.max_new_tokens)
        ends = engine.caption(engine.encode(clip.image(frame)), [region])
        yield from ((frame, end.text) for end in ends if isinstance(end, RowDone))


def read_tracker_masks(folder: Path, clip: str) -> MaskSource:
    """Read a tracker's masks. Raises `SourceError` with the file and line that is wrong."""
    path = folder / f"{clip}.jsonl"
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except OSError as error:
        raise SourceError(f"no tracker masks for {clip}: {error}") from error
    numbered = enumerate(lines, 1)
    masks = dict(_parse_mask(line, where=f"{path}:{number}") for number, line in numbered)
    return lambda frame: mask if (mask := masks.get(frame)) is not None and mask.any() else None


def _parse_mask(line: str, *, where: str) -> tuple[int, Mask]:
    """Return frame number and mask bool [H, W] of one line."""
    try:
        row = json.loads(line)
        height, width = row["size"]
        return int(row["frame"]), rle.decode(Rle((height, width), row["counts"]))
    except (ValueError, KeyError, TypeError, RegionError) as error:
        raise SourceError(f"{where}: expected frame, size, counts ({error})") from error


def measure_flicker(clips: Sequence[ClipCaptions]) -> dict[str, Figures]:
    """Return figures per clip and over all consecutive pairs of all clips ("all").

    changed: share of pairs with another caption. words_changed: mean share of words that are not in
    both. head_changed: share of pairs with another head noun.
    """
    pairs = {clip.clip: list(zip(clip.captions, clip.captions[1:], strict=False)) for clip in clips}
    everything = [pair for some in pairs.values() for pair in some]
    figures = {"all": _compute_figures(everything)}
    for clip in clips:
        figures[clip.clip] = {
            **_compute_figures(pairs[clip.clip]),
            "distinct": len(set(map(normalise_text, clip.captions))),
        }
    return figures


def _compute_figures(pairs: Sequence[tuple[str, str]]) -> Figures:
    return {
        "n": len(pairs),
        "changed": compute_mean([float(normalise_text(a) != normalise_text(b)) for a, b in pairs]),
        "words_changed": compute_mean([_measure_words_changed(a, b) for a, b in pairs]),
        "head_changed": compute_mean(
            [float(find_head_nouns(a) != find_head_nouns(b)) for a, b in pairs]
        ),
    }


def _measure_words_changed(one: str, other: str) -> float:
    first, second = set(normalise_text(one).split()), set(normalise_text(other).split())
    both = first | second
    return 1 - len(first & second) / len(both) if both else 0.0


def list_clips(folder: Path) -> list[Path]:
    """List the clips of a data root's `videos/` folder. Raises `SourceError` when there are
    none.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise SourceError(f"no clips in {folder}: expected videos/*.tar")
    return paths


def _decode(data: bytes, flags: int) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise SourceError("a frame or mask of the clip cannot be decoded")
    return np.asarray(image, np.uint8)
