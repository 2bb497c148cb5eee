"""`ureca bench track`: one mask per clip, given on the first picture and followed to the end.

Modes: `flow` carries it by optical flow alone; `segment` cuts it out anew on every keyframe and
holds it in between; `both` is what a node does; `late` is `both` with answers that come so many
frames later as there are between keyframes, as on a machine whose segmenter is slow.

Clips are tars of `frames/*` and `masks/*.png`, as DAVIS is packed. J and F are the benchmark's
(`davis`). A hallucination is a frame on which the mask covers more than 60 % of the picture and the
truth less than half of that; it is lost while there is no mask.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ureca.datatypes import Frame, Image, Mask, RegionSeed
from ureca.errors import ConfigError, SourceError
from ureca.node.bench.davis import score
from ureca.node.clips import open_clip
from ureca.node.config import TrackerConfig
from ureca.node.cutting import Cutter, KeyWish, Wanted
from ureca.node.sam2 import Maps, Sam2
from ureca.node.segmenter_config import SegmenterConfig
from ureca.node.tracker import Tracker
from ureca.rle import decode, encode
from ureca.weights import cached

MODES = ("flow", "segment", "both", "late")
_MAX_PX = 1 << 24
_HALLUCINATED = 0.6
_RID = "object"
_EPILOG = """examples:
  ureca bench track clips                      # flow alone: needs no weights
  ureca bench track clips --modes flow,segment,both,late --store /tmp/embeddings
  ureca bench track clips --modes both --out both.json
  ureca bench track --load flow.json both.json # one table of earlier runs

The last line is JSON."""


@dataclass(frozen=True, slots=True)
class TrackRow:
    """One clip in one mode. Times are means in milliseconds: `frame_ms` of following (without the
    segmenter), `encode_ms` and `decode_ms` of a keyframe.
    """

    clip: str
    mode: str
    frames: int
    j: float
    f: float
    frame_ms: float
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    keyframes: int = 0
    lost: int = 0
    hallucinated: int = 0


class Watch:
    """Adds up the time spent inside it."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.ms += 1e3 * (time.perf_counter() - self._began)


class StoredSam2(Sam2):
    """SAM 2 whose encodings are kept in a folder, as float16: they take seconds each."""

    def __init__(self, folder: Path, store: Path | None, *, threads: int) -> None:
        super().__init__(folder, threads=threads)
        self._store = store
        self.encode_ms: list[float] = []
        """What each encoding took, when it was made."""
        self.encoding = Watch()

    def encode(self, image: Image) -> Maps:
        """See `Segmenter`."""
        with self.encoding:
            return self._encode(image)

    def _encode(self, image: Image) -> Maps:
        name = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        path = None if self._store is None else self._store / f"{name}.npz"
        if path is not None and path.is_file():
            with np.load(path) as kept:
                maps = {key: kept[key].astype(np.float32) for key in kept.files if key != "ms"}
                self.encode_ms.append(float(kept["ms"]))
            return Maps(maps, (image.shape[0], image.shape[1]))
        began = time.perf_counter()
        found = super().encode(image)
        self.encode_ms.append(1e3 * (time.perf_counter() - began))
        if path is not None:
            small = {key: value.astype(np.float16) for key, value in found.maps.items()}
            np.savez(path, allow_pickle=False, ms=np.float64(self.encode_ms[-1]), **small)
        return found


class Follower:
    """One clip in one mode."""

    def __init__(self, mode: str, segmenter: StoredSam2 | None, every: int) -> None:
        self._mode, self._every = mode, every
        self._tracker = Tracker(TrackerConfig(), max_regions=1)
        self._cutter = None if segmenter is None else Cutter(segmenter, SegmenterConfig())
        self._answers: list[tuple[int, Any]] = []
        self._held: Mask | None = None
        self.following, self.cutting, self.keyframes = Watch(), Watch(), 0

    def masks(self, frames: Sequence[Frame], first: Mask) -> Iterator[Mask]:
        """The mask on each frame, bool [H, W], empty where it is lost."""
        self._held = first
        for number, frame in enumerate(frames):
            if self._mode == "segment":
                self._hold(frame, number)
            else:
                self._follow(frame, number, first)
            yield np.zeros(first.shape, np.bool_) if self._held is None else self._held

    def _follow(self, frame: Frame, number: int, first: Mask) -> None:
        if self._answers and number > self._answers[0][0]:
            self._tracker.corrected(self._answers.pop(0)[1])
        seeds = [RegionSeed(rid=_RID, mask=encode(first))] if number == 0 else []
        with self.following:
            update = self._tracker.update(frame, seeds, now_ns=frame.captured_ns)
        track = next((one for one in update.tracks.tracks if one.rid == _RID), None)
        self._held = None if track is None else track.mask
        if self._cutter is not None and number % self._every == 0 and not self._answers:
            wish = self._tracker.keyframe(frame)
            if wish is not None:
                late = self._every if self._mode == "late" else 0
                self._answers.append((number + late, self._cut(wish)))

    def _hold(self, frame: Frame, number: int) -> None:
        if number % self._every:
            return
        soft = None if self._held is None else self._held.astype(np.float32)
        wanted = Wanted(soft, is_drawn=number == 0)
        taken = frozenset([_RID] if self._held is not None and number > self._every else [])
        found = self._cut(KeyWish(frame, {_RID: wanted}, taken=taken)).cutouts
        if number:
            self._held = decode(found[0].mask) if found else None

    def _cut(self, wish: KeyWish) -> Any:
        assert self._cutter is not None
        self.keyframes += 1
        with self.cutting:
            return self._cutter.cut(wish)


def measured(
    path: Path, mode: str, segmenter: StoredSam2 | None, *, every: int, tell: Any = None
) -> TrackRow:
    """Follow the mask of one clip and judge it."""
    frames, truths = read(path)
    before, encoding_ms = _spent(segmenter)
    follower = Follower(mode, None if mode == "flow" else segmenter, every)
    masks = []
    for mask in follower.masks(frames, truths[0]):
        masks.append(mask)
        if tell is not None:
            tell(1)
    result = score(masks, truths)
    spent = [] if segmenter is None else segmenter.encode_ms[before:]
    keyframes = max(1, follower.keyframes)
    return TrackRow(
        clip=path.stem,
        mode=mode,
        frames=len(frames),
        j=round(result.j, 4),
        f=round(result.f, 4),
        frame_ms=round(follower.following.ms / len(frames), 1),
        encode_ms=round(float(np.mean(spent)) if spent else 0.0, 1),
        decode_ms=round((follower.cutting.ms - _spent(segmenter)[1] + encoding_ms) / keyframes, 1),
        keyframes=follower.keyframes,
        lost=sum(not mask.any() for mask in masks),
        hallucinated=sum(map(is_hallucinated, masks, truths)),
    )


def _spent(segmenter: StoredSam2 | None) -> tuple[int, float]:
    """Pictures encoded so far, and the milliseconds spent on getting their encodings."""
    return (0, 0.0) if segmenter is None else (len(segmenter.encode_ms), segmenter.encoding.ms)


def is_hallucinated(mask: Mask, truth: Mask) -> bool:
    """Whether a mask fills the picture although the truth does not."""
    return bool(mask.mean() > _HALLUCINATED and truth.mean() < _HALLUCINATED / 2)


def read(path: Path) -> tuple[list[Frame], list[Mask]]:
    """All frames of a tar and their true masks. Raises `SourceError` when it has not both."""
    frames = []
    for number, (at_ns, image) in enumerate(open_clip(path, fps=0, max_px=_MAX_PX).shots()):
        if isinstance(image, SourceError):
            raise image
        frames.append(Frame(path.stem[:64], bytes(16), number, at_ns + 1, image))
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if name.startswith("masks/"))
        stored = [archive.extractfile(name) for name in names if name.endswith(".png")]
        truths = [_mask(file.read()) for file in stored if file is not None]
    if len(truths) != len(frames) or not truths or not truths[0].any():
        raise SourceError(
            f"{path}: expected a mask for each of {len(frames)} frames, got {len(truths)}"
        )
    return frames, truths


def _mask(png: bytes) -> Mask:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise SourceError("a true mask is no picture")
    return np.asarray(picture > 0, np.bool_)


# --- command -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    rows = [TrackRow(**row) for path in options.load for row in _load(path)]
    rows += _measure(options) if options.clips is not None else []
    if not rows:
        raise ConfigError("no clips and no earlier results: see ureca bench track --help")
    print(table(rows))
    report = {"bench": "track", "machine": platform.platform(), "rows": [asdict(r) for r in rows]}
    if options.out is not None:
        options.out.write_text(json.dumps(report) + "\n", encoding="utf8")
    print(json.dumps(report))
    return 0


def _measure(options: argparse.Namespace) -> list[TrackRow]:
    clips = sorted(options.clips.glob("*.tar"))
    modes = options.modes.split(",")
    if not clips or not set(modes) <= set(MODES):
        raise ConfigError(f"no *.tar in {options.clips}, or a mode of {modes} is not of {MODES}")
    segmenter = None
    if modes != ["flow"]:
        folder = options.weights or cached(Sam2.name)
        segmenter = StoredSam2(folder, options.store, threads=options.threads)
    if options.store is not None:
        options.store.mkdir(parents=True, exist_ok=True)
    rows = []
    with tqdm(unit=" frames", disable=None, leave=False) as bar:
        for path in clips:
            for mode in modes:
                bar.set_description(f"{path.stem} {mode}")
                row = measured(path, mode, segmenter, every=options.every, tell=bar.update)
                rows.append(row)
    return rows


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text("utf8"))["rows"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is no report of this bench: {error!r}") from error


def table(rows: Sequence[TrackRow]) -> str:
    """A Markdown table: J, F and their mean per clip and mode, and the means over all clips."""
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    found = {(row.clip, row.mode): row for row in rows}
    clips = sorted({row.clip for row in rows})
    lines = [
        "| clip | frames | " + " | ".join(f"{mode} J / F / J&F" for mode in modes) + " |",
        "|---|---:|" + "---|" * len(modes),
    ]
    for clip in clips:
        known = [found.get((clip, mode)) for mode in modes]
        frames = next(row.frames for row in known if row is not None)
        lines.append(f"| {clip} | {frames} | " + " | ".join(map(_cell, known)) + " |")
    means = [_mean([row for row in rows if row.mode == mode]) for mode in modes]
    total = sum(next(row.frames for row in rows if row.clip == clip) for clip in clips)
    lines.append(f"| **mean of {len(clips)}** | {total} | " + " | ".join(means) + " |")
    lines += ["", *[_costs(mode, [row for row in rows if row.mode == mode]) for mode in modes]]
    return "\n".join(lines)


def _cell(row: TrackRow | None) -> str:
    return "" if row is None else f"{row.j:.3f} / {row.f:.3f} / {(row.j + row.f) / 2:.3f}"


def _mean(rows: Sequence[TrackRow]) -> str:
    j, f = float(np.mean([row.j for row in rows])), float(np.mean([row.f for row in rows]))
    return f"**{j:.3f} / {f:.3f} / {(j + f) / 2:.3f}**"


def _costs(mode: str, rows: Sequence[TrackRow]) -> str:
    frames, keys = sum(row.frames for row in rows), sum(row.keyframes for row in rows)
    frame_ms = sum(row.frame_ms * row.frames for row in rows) / frames
    text = f"- {mode}: {frame_ms:.0f} ms/frame for following"
    if keys:
        encode_ms = sum(row.encode_ms * row.keyframes for row in rows) / keys
        decode_ms = sum(row.decode_ms * row.keyframes for row in rows) / keys
        text += f", {keys} keyframes, each {encode_ms:.0f} ms to encode, {decode_ms:.0f} ms to cut"
    lost, wrong = sum(row.lost for row in rows), sum(row.hallucinated for row in rows)
    return f"{text}; without a mask on {lost} of {frames} frames, hallucinated on {wrong}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench track",
        description=__doc__.split("\n\n", maxsplit=1)[0] if __doc__ else None,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", type=Path, nargs="?", help="folder of *.tar")
    parser.add_argument(
        "--modes", default="flow", help=f"comma-separated: {','.join(MODES)} [flow]"
    )
    parser.add_argument("--every", type=int, default=5, help="frames between keyframes [5]")
    parser.add_argument("--weights", type=Path, help="folder of the segmenter [its cache]")
    parser.add_argument("--threads", type=int, default=1, help="of the segmenter [1]")
    parser.add_argument("--store", type=Path, help="keep the segmenter's encodings here")
    parser.add_argument("--out", type=Path, help="write the JSON here, too")
    parser.add_argument("--load", type=Path, nargs="+", default=[], help="earlier results to show")
    return parser
