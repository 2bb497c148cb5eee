"""Does a standing text pick the right region of a rendered scene, and is it silent without it?

usage: python tools/find_scenes.py [--scenes 10] [--seed 300] [--bundle DIR] [--live | --frame]

Each scene is a drawn table of new things. A camera sends it ten times a second with exact masks of
all things, parts, groups and backdrops. At first one thing, whose short caption fits nothing else,
is not there. The caption is a standing text: whatever is found then is a false alarm. Then the
thing appears. Measured is the time from the capture of the first image with it until `text.found`,
and whether its best region is the thing.

By default the node's own parts run in this process on a clock that processor time moves: the
captioner is busy for as long as it takes one core, and frames that come while a step runs are
skipped. So the figures do not depend on what else the machine does. `--live` runs
`ureca run --text` as a process, between sockets, on the wall clock. `--frame` does so without masks
from the camera: the node's segmenter finds the candidates, and an answer is right if the IoU of its
mask with the thing's is at least .5. Needs the extras `node` and `train`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import structs

from ureca.client.client import Client
from ureca.client.frame_publisher import FramePublisher
from ureca.clock import ManualClock
from ureca.config import from_plain
from ureca.datatypes import Frame, Image, Mask, RegionSeed, Rle
from ureca.engine import Engine
from ureca.errors import RequestError
from ureca.models.data.synthetic.rendering.clip import FRAME_SIZE
from ureca.models.data.synthetic.rendering.render import Painter, SceneCamera
from ureca.models.data.synthetic.rendering.views import RenderedView, describe_view
from ureca.models.data.synthetic.scenes.mujoco_import import mujoco
from ureca.models.data.synthetic.scenes.scene import draw_scene
from ureca.models.data.synthetic.scenes.world import World, build_world, settle_world
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.pretrained import require_bundle
from ureca.node.captioning.batch import CaptionBatch, FinishedCaption
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.captioning.engine_loader import open_grounder
from ureca.node.captioning.grounding import FinishedGrounding, GroundingRequest, TextGrounder
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.masks.geometry import iou
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step_runner import StepRunner
from ureca.protocol import rle
from ureca.protocol.events import TextFound, TrackNew

FPS = 10.0
WITHOUT_S, WITH_S = 4.0, 5.0
"""How long the thing is not there, and how long the node may look for it afterwards."""
_SHOTS = 4
_SAME = 0.5
_LEAST_SHARE = 0.004
"""A thing that covers less of the image is not asked for."""


@dataclass(frozen=True)
class Shot:
    """One image of a scene and its regions."""

    image: Image
    regions: tuple[RegionSeed, ...]


@dataclass(frozen=True)
class Staged:
    """A scene without and with the thing that `text` names."""

    text: str
    rid: str
    without: tuple[Shot, ...]
    there: tuple[Shot, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one scene. `after_s` is None when nothing was found."""

    seed: int
    text: str
    rid: str
    false_alarms: tuple[str, ...]
    found: str | None
    probability: float | None
    after_s: float | None

    @property
    def is_right(self) -> bool:
        """The right region, within a second."""
        return self.found == self.rid and self.after_s is not None and self.after_s <= 1.0


def stage(seed: int) -> Staged | None:
    """Draw a scene; None if nothing in it has a caption of its own."""
    world = build_world(draw_scene(seed, held_back=True))
    settle_world(world)
    there = tuple(shots(world))
    things = unique_things(world)
    if not things:
        return None
    _, node, text = max(things)
    hide(world, int(node[1:]))
    without = tuple(shots(world))
    if any(one.rid == node for shot in without for one in shot.regions):
        return None
    return Staged(text, node, without, there)


def unique_things(world: World) -> list[tuple[float, str, str]]:
    """The share of the image, node and short caption of things whose caption fits nothing else."""
    camera = camera_at(0)
    with Painter(world, FRAME_SIZE, ids=True) as painter:
        view = RenderedView("scene", "", "dev", painter.ids(camera), camera)
    shares = [(float(np.mean(one.mask)), one) for one in describe_view(world, view)[1]]
    return [
        (share, one.node.node, one.short)
        for share, one in shares
        if one.unique and one.node.type == "object" and share >= _LEAST_SHARE
    ]


def camera_at(number: int) -> SceneCamera:
    """A camera that swings a little."""
    return SceneCamera((0.0, 0.0, 0.05), 0.9, 90.0 + 1.5 * number, -32.0, 42.0)


def shots(world: World) -> Iterator[Shot]:
    """The scene as it stands, from some places of the camera."""
    with (
        Painter(world, FRAME_SIZE, ids=False) as colour,
        Painter(world, FRAME_SIZE, ids=True) as masks,
    ):
        for number in range(_SHOTS):
            camera = camera_at(number)
            view = RenderedView("scene", "", "dev", masks.ids(camera), camera)
            regions = [
                RegionSeed(rid=one.node.node, mask=rle.encode(np.asarray(one.mask, np.bool_)))
                for one in describe_view(world, view)[1]
            ]
            yield Shot(np.asarray(colour.picture(camera), np.uint8), tuple(regions))


def hide(world: World, item: int) -> None:
    """Take an item out of the scene: far below the floor."""
    joint = world.model.body(f"item{item}").jntadr[0]
    first = int(world.model.jnt_qposadr[joint])
    world.data.qpos[first : first + 3] = (0.0, 0.0, -50.0)
    mujoco.mj_forward(world.model, world.data)


def jpeg(image: Image) -> bytes:
    """An image as a camera sends it."""
    return bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


def play_live(staged: Staged, seed: int, bundle: str, *, with_masks: bool) -> Outcome:
    """Run a node process on the scene; `with_masks`: the camera sends them."""
    with tempfile.TemporaryDirectory(prefix="ureca-find-") as folder, ExitStack() as stack:
        frames, events, requests = (f"ipc://{folder}/{name}" for name in ("f", "e", "r"))
        camera = stack.enter_context(FramePublisher(frames, stream="cam0", encoder=jpeg))
        command = [sys.executable, "-m", "ureca", "run", "--quiet", "--source", f"zmq+{frames}"]
        command += ["--set", f"publish.events={events}", "--set", f"publish.requests={requests}"]
        command += ["--set", "limits.max_regions=256", "--text", staged.text]
        command += ["--bundle", bundle] if bundle else []
        with Path(folder, "log").open("wb") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(node.wait)
        stack.callback(node.terminate)
        client = stack.enter_context(Client.connect(events, requests, timeout_s=1.0))
        wait_for(client, node, Path(folder, "log"))
        robot = Robot(camera, client, with_masks=with_masks)
        robot.send(staged.without, seconds=WITHOUT_S)
        begin_ns = time.monotonic_ns()
        robot.send(staged.there, seconds=WITH_S, until_found=True)
    if not with_masks:
        robot.name_found(staged)
    return outcome(staged, seed, robot.found, begin_ns)


class CoreClock(ManualClock):
    """A clock that the processor time of the step thread moves; `aside_ns` is the time of another
    thread, whose work is done in the same one here.
    """

    aside_ns = 0

    def spend(self, work: Callable[[], Any]) -> Any:
        """Run `work` and move on by what it took; returns its result."""
        begin, aside_ns = time.thread_time_ns(), self.aside_ns
        result = work()
        self.advance(ns=time.thread_time_ns() - begin - (self.aside_ns - aside_ns))
        return result


class CoreCaptioner:
    """A `BatchCaptioner` that works in the caller, and is busy for the processor time of it."""

    can_ground = True

    def __init__(self, writer: CaptionWriter, grounder: TextGrounder, clock: CoreClock) -> None:
        self._inner, self._clock = InlineCaptioner(writer, grounder), clock
        self.until_ns = 0
        self.abort, self.close = self._inner.abort, self._inner.close
        self.start = self._inner.start

    @property
    def free_slots(self) -> int:
        """How many regions the next batch may have; 0 while it is busy."""
        return 0 if self._clock.now_ns() < self.until_ns else self._inner.free_slots

    def submit(self, batch: CaptionBatch) -> None:
        """Write the captions of a batch."""
        self._work(lambda: self._inner.submit(batch))

    def submit_grounding(self, request: GroundingRequest) -> None:
        """Ground texts."""
        self._work(lambda: self._inner.submit_grounding(request))

    def finished(self) -> tuple[FinishedCaption, ...]:
        """The captions that ended, once it is free again."""
        return self._inner.finished() if self.free_slots else ()

    def finished_groundings(self) -> tuple[FinishedGrounding, ...]:
        """The groundings that ended, once it is free again."""
        return self._inner.finished_groundings() if self.free_slots else ()

    def _work(self, work: Callable[[], None]) -> None:
        begin = time.thread_time_ns()
        work()
        took_ns = time.thread_time_ns() - begin
        self._clock.aside_ns += took_ns
        self.until_ns = self._clock.now_ns() + took_ns


def play_on_core(staged: Staged, seed: int, engine: Engine, bundle: str) -> Outcome:
    """Run the node's parts on the scene, on a clock of processor time."""
    config = from_plain(
        NodeConfig, {"grounding": {"texts": [staged.text]}, "limits": {"max_regions": 256}}
    )
    grounder = open_grounder(engine, bundle)
    if grounder is None:
        raise SystemExit("the bundle cannot score texts")
    clock, counters, found = CoreClock(1), NodeCounters(), list[tuple[int, TextFound]]()
    captioner = CoreCaptioner(
        CaptionWriter(engine, config.caption, clock), TextGrounder(engine, grounder, clock), clock
    )
    runner = StepRunner(
        Pipeline(config, clock=clock, counters=counters),
        captioner,
        limits=config.limits,
        clock=clock,
        emit=lambda event: (
            found.append((clock.now_ns(), event)) if isinstance(event, TextFound) else None
        ),
    )
    runner.start()
    begin_ns = 0
    last = round((WITHOUT_S + WITH_S) * FPS)
    number = 0
    while number < last:
        due_ns = 1 + round(number / FPS * 1e9)
        if clock.now_ns() < due_ns:  # the captioner may be done before the next frame
            free_ns = captioner.until_ns
            until_ns = min(due_ns, free_ns) if clock.now_ns() < free_ns else due_ns
            clock.advance(ns=until_ns - clock.now_ns())
            if until_ns < due_ns:
                clock.spend(runner.step)
                continue
        newest = max(number, min(last - 1, int((clock.now_ns() - 1) / 1e9 * FPS)))
        is_there = newest >= WITHOUT_S * FPS
        if is_there and not begin_ns:
            if found:
                break
            begin_ns = 1 + round(newest / FPS * 1e9)
        shot = (staged.there if is_there else staged.without)[newest % _SHOTS]
        frame = frame_of(shot, newest)
        counters.frame_in()
        clock.spend(lambda frame=frame: runner.step(frame))
        if is_there and found:
            break
        number = newest + 1
    runner.close("source_end")
    return outcome(staged, seed, found, begin_ns)


def outcome(
    staged: Staged, seed: int, found: Sequence[tuple[int, TextFound]], begin_ns: int
) -> Outcome:
    """What `found` says, of which all before `begin_ns` are false alarms."""
    early = [event for at_ns, event in found if not begin_ns or at_ns < begin_ns]
    first = next(((at, event) for at, event in found if begin_ns and at >= begin_ns), None)
    best = first[1].regions[0] if first else None
    return Outcome(
        seed=seed,
        text=staged.text,
        rid=staged.rid,
        false_alarms=tuple(one.regions[0].rid for one in early),
        found=best.rid if best else None,
        probability=best.probability if best else None,
        after_s=round((first[0] - begin_ns) / 1e9, 3) if first else None,
    )


def frame_of(shot: Shot, seq: int) -> Frame:
    """The frame as a sender with masks sends it."""
    captured_ns = 1 + round(seq / FPS * 1e9)
    return Frame(
        stream="cam0",
        session_id=bytes(16),
        seq=seq,
        captured_ns=captured_ns,
        received_ns=captured_ns,
        image=shot.image.copy(),
        regions=shot.regions,
    )


def wait_for(client: Client, node: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the node answers."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if node.poll() is not None:
            raise SystemExit(f"the node ended: {log.read_text()[-600:]}")
        with contextlib.suppress(RequestError):  # not yet
            client.hello()
            return
    raise SystemExit("the node did not answer")


class Robot:
    """Sends images and hears what was found, and when."""

    def __init__(self, camera: FramePublisher, client: Client, *, with_masks: bool) -> None:
        self._camera, self._client, self._with_masks = camera, client, with_masks
        self.found: list[tuple[int, TextFound]] = []
        self._masks: dict[str, Mask] = {}

    def send(self, taken: Sequence[Shot], *, seconds: float, until_found: bool = False) -> None:
        """Send images for so long, or until the text is found."""
        before, begin = len(self.found), time.monotonic()
        for number, shot in enumerate(cycle((*taken, *taken[-2:0:-1]))):
            due = begin + number / FPS
            while (left := due - time.monotonic()) > 0:
                self._hear(left)
            if time.monotonic() - begin > seconds or (until_found and len(self.found) > before):
                break
            self._camera.send(shot.image, regions=shot.regions if self._with_masks else None)
        self._hear(0.2)

    def _hear(self, seconds: float) -> None:
        """Wait for one event."""
        for event in self._client.events({"text.found", "track.new"}, timeout_s=seconds):
            if isinstance(event, TextFound):
                self.found.append((time.monotonic_ns(), event))
            elif isinstance(event, TrackNew) and event.mask is not None:
                self._masks[event.rid] = rle.decode(Rle(event.mask.size, event.mask.counts))
            break

    def name_found(self, staged: Staged) -> None:
        """Call the best region by the scene's name if its mask is the thing's."""
        seeds = [one for shot in staged.there for one in shot.regions if one.rid == staged.rid]
        truths = [rle.decode(one.mask) for one in seeds if one.mask is not None]
        for place, (at_ns, event) in enumerate(self.found):
            best, *others = event.regions
            mask = self._masks.get(best.rid)
            if mask is not None and max(iou(mask, truth) for truth in truths) >= _SAME:
                best = structs.replace(best, rid=staged.rid)
                self.found[place] = at_ns, structs.replace(event, regions=(best, *others))


def main() -> int:
    """Print one line per scene; 1 when fewer than 8 of 10 are right or one is not silent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=300)
    parser.add_argument("--bundle", default="")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--frame", action="store_true", help="live, without masks of the camera")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    engine = None if options.live or options.frame else open_on_one_core(options.bundle)
    outcomes: list[Outcome] = []
    seed = options.seed
    while len(outcomes) < options.scenes:
        staged = stage(seed)
        if staged is not None:
            if engine is None:
                masks = not options.frame
                outcomes.append(play_live(staged, seed, options.bundle, with_masks=masks))
            else:
                outcomes.append(play_on_core(staged, seed, engine, options.bundle))
            print(tell(outcomes[-1]), flush=True)
        seed += 1
    right, silent = (
        sum(one.is_right for one in outcomes),
        sum(not one.false_alarms for one in outcomes),
    )
    report = {"n": len(outcomes), "right_within_1s": right, "silent_without": silent}
    report |= {"right_at_all": sum(one.found == one.rid for one in outcomes)}
    report |= {"load_average": os.getloadavg()}
    if options.json:
        report["scenes"] = [asdict(one) for one in outcomes]
    print(json.dumps(report))
    return int(right < 0.8 * len(outcomes) or silent < len(outcomes))


def open_on_one_core(bundle: str) -> Engine:
    """The engine with one thread, so that processor time is what it takes on a quiet core."""
    return load_engine(Path(bundle) if bundle else require_bundle(), threads=1)


def tell(one: Outcome) -> str:
    """One line for people."""
    when = "never" if one.after_s is None else f"after {one.after_s:.2f} s"
    verdict = "right" if one.found == one.rid else "WRONG"
    alarms = f", false alarms {one.false_alarms}" if one.false_alarms else ""
    sure = "" if one.probability is None else f" ({one.probability:.2f})"
    return (
        f"{one.seed}: {one.text!r} is {one.rid}, found {one.found}{sure} {when}: {verdict}{alarms}"
    )


if __name__ == "__main__":
    sys.exit(main())
