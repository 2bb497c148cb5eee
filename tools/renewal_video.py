"""What `caption.same` saves and what it overlooks on real pictures: shipped captioner, no sockets.

    python tools/renewal_video.py ../shared/data/videos --clips 8 -o renewal.json

Every clip is played to and fro with its own masks, so that it goes on without a cut; every still is
a clip's first picture with fresh sensor noise and JPEG in each frame; every swap is such a still in
whose region another clip's thing appears half-way. Each is captioned four times: by the default
policy, by the look alone (as if `change_shift` and `change_area_ratio` were off), anew every
`refresh_s`, and anew every second. The last says what a caption would have been at each second, and
the first two are judged by it. Time is the pictures' own: captioning takes none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ureca.clock import ManualClock
from ureca.datatypes import Frame, RegionSeed
from ureca.engine import Engine
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.captioning.engine_loader import open_engine
from ureca.node.config import NodeConfig, SchedulerConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step_runner import StepRunner
from ureca.protocol import rle
from ureca.protocol.events import AnyEvent, CaptionFinal, CaptionSame

U8 = npt.NDArray[np.uint8]
Shot = tuple[U8, npt.NDArray[np.bool_]]
"""A picture u8 [H, W, 3] RGB and its region's mask bool [H, W]."""
S = 1_000_000_000
NOISE, QUALITY = 4.0, 85
CLIP_FPS, STILL_FPS = 24, 5
MODES = {
    "default": SchedulerConfig(),
    "look_alone": SchedulerConfig(change_shift=1e6, change_area_ratio=1e6),
    "anew": SchedulerConfig(recheck=False),
    "every_second": SchedulerConfig(recheck=False, refresh_s=1.0, min_interval_s=1.0),
}


@dataclass
class PolicyRun:
    """One scene by one policy."""

    texts: list[tuple[float, str, str, int, float]]
    """(seconds, text, trigger, tokens, score) of every `caption.final`."""
    same: int

    def tokens(self) -> int:
        """Decoded in all."""
        return sum(n for _, _, _, n, _ in self.texts)

    def at(self, second: float) -> str:
        """The caption in force; empty before the first."""
        return next((text for at, text, *_ in reversed(self.texts) if at <= second), "")


def read_clip(path: Path) -> list[Shot]:
    """All pictures of a tar with a mask each."""
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]
    shots = []
    for name in sorted(n for n in files if n.startswith("frames/")):
        mask = files.get(name.replace("frames/", "masks/").rsplit(".", 1)[0] + ".png")
        if mask is not None:
            grey = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
            shots.append((decode_picture(files[name]), np.asarray(grey) > 0))
    return shots


def to_and_fro(shots: list[Shot], seconds: float) -> Iterator[Shot]:
    """The clip forwards and backwards."""
    period = 2 * (len(shots) - 1)
    for number in range(round(seconds * CLIP_FPS)):
        place = number % period
        yield shots[min(place, period - place)]


def still(shot: Shot, seconds: float, *, seed: int) -> Iterator[Shot]:
    """The picture with noise and JPEG, fresh in every frame."""
    draw = np.random.default_rng(seed)
    for _ in range(round(seconds * STILL_FPS)):
        noisy = shot[0] + draw.normal(0, NOISE, shot[0].shape)
        bgr = np.clip(noisy, 0, 255).astype(np.uint8)[..., ::-1]
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        yield decode_picture(jpeg.tobytes()), shot[1]


def swapped(shot: Shot, other: Shot) -> Shot:
    """Another clip's thing in the place of this one's: its box, stretched to ours."""
    box, theirs = _box(shot[1]), _box(other[1])
    size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    picture = shot[0].copy()
    picture[box] = cv2.resize(other[0][theirs], size, interpolation=cv2.INTER_AREA)
    mask = np.zeros_like(shot[1])
    mask[box] = cv2.resize(other[1][theirs].view(np.uint8), size) > 0
    return picture, mask


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    ys, xs = np.nonzero(mask)
    return slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)


def play(scene: Iterator[Shot], fps: int, plan: SchedulerConfig, engine: Engine) -> PolicyRun:
    """All of a scene through the node's decisions."""
    config, clock, counters = replace(NodeConfig(), scheduler=plan), ManualClock(S), NodeCounters()
    captioner = InlineCaptioner(CaptionWriter(engine, config.caption, clock))
    run = PolicyRun([], 0)

    def note(event: AnyEvent) -> None:
        at_s = (clock.now_ns() - S) / S
        run.same += isinstance(event, CaptionSame)
        if isinstance(event, CaptionFinal):
            run.texts.append((at_s, event.text, event.trigger, event.n_tok, event.score or 0.0))

    pipeline = Pipeline(config, clock=clock, counters=counters)
    runner = StepRunner(pipeline, captioner, limits=config.limits, clock=clock, emit=note)
    runner.start()
    for seq, (picture, mask) in enumerate(scene):
        at_ns = S + seq * S // fps
        clock.advance(ns=at_ns - clock.now_ns())
        seeds = (RegionSeed(rid="thing", mask=rle.encode(mask)),)
        counters.frame_in()
        frame = Frame("cam0", b"b" * 16, seq, at_ns, picture, received_ns=at_ns, regions=seeds)
        runner.step(frame)
    runner.close("source_end")
    return run


def compare(runs: dict[str, PolicyRun], seconds: float) -> dict[str, Any]:
    """The policies that look, beside the two that always decode."""
    oracle = runs["every_second"]
    return {
        "tokens": {name: run.tokens() for name, run in runs.items()},
        "captions": {name: len(run.texts) for name, run in runs.items()},
        **{name: judge(runs[name], oracle, seconds) for name in ("default", "look_alone")},
        "scores": [score for *_, score in oracle.texts],
    }


def judge(run: PolicyRun, oracle: PolicyRun, seconds: float) -> dict[str, Any]:
    """How often the caption in force is what would be said now. `stable` seconds are those at which
    three captions in a row say the same: what differs there is not the captioner's own wavering.
    """
    ticks = [second + 0.5 for second in range(1, int(seconds) - 1)]
    stable = [t for t in ticks if oracle.at(t) == oracle.at(t - 1) == oracle.at(t + 1)]
    again = [
        text == before
        for (_, before, *_), (_, text, trigger, *_) in pairwise(run.texts)
        if trigger == "change"
    ]
    return {
        "triggers": Counter(trigger for _, _, trigger, *_ in run.texts),
        "same": run.same,
        "seconds": len(ticks),
        "seconds_equal": sum(run.at(t) == oracle.at(t) for t in ticks),
        "stable_seconds": len(stable),
        "stable_seconds_held_other": sum(run.at(t) != oracle.at(t) for t in stable),
        "changes": len(again),
        "changes_same_words": sum(again),
        "texts": [f"{at:.1f} {trigger}: {text}" for at, text, trigger, *_ in run.texts][:12],
    }


def swap_delay_s(run: PolicyRun, at_s: float) -> float | None:
    """Seconds from a swap to the next decoded caption; None when there was none."""
    return next((at - at_s for at, *_ in run.texts if at >= at_s), None)


def study(clips: dict[str, list[Shot]], seconds: float, engine: Engine) -> dict[str, Any]:
    """Clips, stills and swaps, by every policy."""
    found: dict[str, Any] = {"clips": {}, "stills": {}, "swaps": {}}
    names = list(clips)
    for number, (name, shots) in enumerate(clips.items()):
        scenes: dict[str, tuple[int, Callable[[], Iterator[Shot]]]] = {
            "clips": (CLIP_FPS, lambda shots=shots: to_and_fro(shots, seconds)),  # type: ignore[misc]
            "stills": (STILL_FPS, lambda s=shots[0], n=number: still(s, seconds, seed=n)),  # type: ignore[misc]
        }
        for kind, (fps, scene) in scenes.items():
            runs = {mode: play(scene(), fps, plan, engine) for mode, plan in MODES.items()}
            found[kind][name] = compare(runs, seconds)
            _say(kind, name, found[kind][name])
        for step in (1, 2, 3):
            other = names[(number + step) % len(names)]
            key = f"{name} <- {other}"
            found["swaps"][key] = _swap(shots[0], clips[other][0], engine)
            _say("swap", key, found["swaps"][key])
    return found


def _swap(shot: Shot, other: Shot, engine: Engine) -> dict[str, Any]:
    def scene() -> Iterator[Shot]:
        yield from still(shot, 12, seed=1)
        yield from still(swapped(shot, other), 8, seed=2)

    run = play(scene(), STILL_FPS, MODES["default"], engine)
    return {
        "delay_s": swap_delay_s(run, 12.0),
        "before": run.at(11.9),
        "after": run.at(19.9),
        "captions_before": sum(at < 12 for at, *_ in run.texts),
    }


def _say(kind: str, name: str, found: dict[str, Any]) -> None:
    shown = {key: value for key, value in found.items() if key not in ("scores", "texts")}
    print(kind, name, json.dumps(shown), flush=True)


def main() -> int:
    """Run the study and write its figures."""
    parser = argparse.ArgumentParser(
        description="What caption.same saves and overlooks on real pictures.",
        epilog="example: python tools/renewal_video.py ../shared/data/videos --clips 8 -o out.json",
    )
    parser.add_argument("videos", type=Path, help="folder of tars with frames/ and masks/")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    tars = sorted(options.videos.glob("*.tar"))
    chosen = tars[:: max(1, len(tars) // options.clips)][: options.clips]
    clips = {path.stem: read_clip(path) for path in chosen}
    found = study(clips, options.seconds, open_engine(""))
    options.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
