"""Make captioned worlds: `ureca worlds make`, `ureca worlds demo` and the benchmark WorldsRES."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from tqdm import tqdm

from ureca.models.data.synthetic import store
from ureca.models.data.synthetic.objects.shapes import FloatArray
from ureca.models.data.synthetic.rendering.id_maps import list_pieces
from ureca.models.data.synthetic.rendering.path_tracer import trace_views
from ureca.models.data.synthetic.rendering.render import Rgb8, SceneCamera, paint_views
from ureca.models.data.synthetic.rendering.views import (
    LICENSE,
    SOURCE,
    RenderedView,
    describe_view,
    make_region_row,
)
from ureca.models.data.synthetic.scenes.scene import draw_scene
from ureca.models.data.synthetic.scenes.world import World, build_world, settle_world
from ureca.models.data.synthetic.store import Rendered, Row, Totals

Split = Literal["train", "dev", "test"]
Paint = Literal["gl", "mitsuba"]

PICTURE_SIZE: Final = (360, 480)
"""Height and width of a still in pixels."""
SCENES_PER_SHARD: Final = 25
WEBP_QUALITY: Final = 88
_LEAST_PX, _MOST_PX = 64, 2048
_PREFIX: Final[dict[Split, str]] = {
    "train": "worlds",
    "dev": "worlds-dev",
    "test": "worlds-test",
}


@dataclass(frozen=True)
class SceneJob:
    """One scene to make: its number, the run's seed, views per scene, split, shard and look."""

    scene: int
    seed: int
    views: int
    split: Split
    shard: str
    look: Paint = "gl"
    size: tuple[int, int] = PICTURE_SIZE
    """Height and width in pixels."""
    pan: bool = False
    """Keep the id maps, too."""

    @property
    def scene_seed(self) -> int:
        """A seed of its own for every scene, run and split."""
        code = {"train": 0, "test": 1, "dev": 2}[self.split]
        return int(np.random.SeedSequence([self.seed, code, self.scene]).generate_state(1)[0])

    def key(self, view: int) -> str:
        """The picture's key, unique across runs with different seeds."""
        return f"{_PREFIX[self.split]}-{self.seed}-{self.scene:05d}-{view}"


_SHADOW_MAP: Final = 1024
_SAMPLES: Final = 2
"""Shadow map and anti-aliasing are most of a software renderer's time; keep them low."""
_CLEARANCE: Final = 0.13
"""Least distance (m) of a camera from anything on the table."""


def _make_camera(rng: np.random.Generator, place: FloatArray, *, close: bool) -> SceneCamera:
    x, y = (float(place[k]) + float(rng.uniform(-0.04, 0.04)) for k in (0, 1))
    distance = float(rng.uniform(0.3, 0.48) if close else rng.uniform(0.5, 0.8))
    azimuth, elevation = 90.0 + float(rng.uniform(-55, 55)), -float(rng.uniform(14, 55))
    return SceneCamera((x, y, 0.05), distance, azimuth, elevation, float(rng.uniform(40, 48)))


def draw_camera(rng: np.random.Generator, world: World, *, close: bool) -> SceneCamera:
    """A camera on the room's open side; close ones look at one item from a hand's reach."""
    standing = [i for i in range(len(world.bodies)) if world.on_table(i)]
    places = [world.pose(i)[0] for i in standing]
    points = np.concatenate([world.outline(i) for i in standing] or [np.zeros((1, 3))])
    middle = np.median(places, axis=0) if places else np.zeros(3)
    for _ in range(8):
        target = places[int(rng.integers(len(places)))] if close and places else middle
        camera = _make_camera(rng, target, close=close)
        if float(np.linalg.norm(points - camera.position, axis=1).min()) >= _CLEARANCE:
            return camera
    return camera


def _encode_webp(picture: Rgb8) -> bytes:
    flags = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    return bytes(cv2.imencode(".webp", picture[..., ::-1], flags)[1])


def _make_image_row(job: SceneJob, view: RenderedView, number: int) -> Row:
    height, width = view.size
    return {
        "image_key": view.key,
        "source": SOURCE,
        "source_id": f"{job.scene_seed}/{number}",
        "width": width,
        "height": height,
        "orig_width": width,
        "orig_height": height,
        "captions": [],
        "license": LICENSE,
        "all_objects_annotated": True,
        "shard": view.shard,
        "file": f"{view.key}.webp",
        "split": view.split,
        "scene": job.scene,
        "look": job.look,
    }


def render_scene(job: SceneJob) -> Rendered:
    """Draw, settle, paint and describe one scene; the same job always gives the same result."""
    scene = draw_scene(job.scene_seed, held_back=job.split == "test")
    world = build_world(scene, shadow=_SHADOW_MAP, samples=_SAMPLES)
    settle_world(world)
    rng = np.random.default_rng([job.scene_seed, 1])
    cameras = [draw_camera(rng, world, close=number % 2 == 1) for number in range(job.views)]
    rendered = Rendered(job.scene)
    painted = paint_views(world, cameras, job.size)
    pictures = [picture for picture, _ in painted]
    if job.look == "mitsuba":
        # The ids stay MuJoCo's: the two renderers agree to the pixel.
        pictures = trace_views(world, cameras, job.size)
    for number, (camera, (_, ids)) in enumerate(zip(cameras, painted, strict=True)):
        view = RenderedView(job.key(number), f"{job.shard}.tar", job.split, ids, camera)
        rendered.pictures.append((f"{view.key}.webp", _encode_webp(pictures[number])))
        rendered.images.append(_make_image_row(job, view, number))
        if job.pan:
            png, rendered.images[-1]["pieces"] = list_pieces(world, ids)
            rendered.images[-1]["panoptic"] = True
            rendered.maps.append((f"{view.key}.png", png))
        truth, regions = describe_view(world, view)
        rendered.regions += [make_region_row(region, view) for region in regions]
        rendered.truth.append(truth.to_json())
    return rendered


def _list_jobs(scenes: int, first_job: SceneJob) -> Iterator[list[SceneJob]]:
    for first in range(0, scenes, SCENES_PER_SHARD):
        shard = f"{_PREFIX[first_job.split]}-{first // SCENES_PER_SHARD:03d}"
        numbers = range(first, min(first + SCENES_PER_SHARD, scenes))
        yield [replace(first_job, scene=number, shard=shard) for number in numbers]


def _render_all(jobs: Sequence[SceneJob], workers: int) -> Iterable[Rendered]:
    if workers <= 1:
        yield from map(render_scene, jobs)
        return
    # OpenGL state does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        yield from pool.imap_unordered(render_scene, jobs)


def make_worlds(
    out: Path,
    *,
    scenes: int,
    views: int,
    seed: int,
    workers: int,
    split: Split = "train",
    look: Paint = "gl",
    size: tuple[int, int] = PICTURE_SIZE,
    pan: bool = False,
) -> Totals:
    """Fill a folder with rendered, captioned scenes and index them; finished shards are kept.

    Scenes of a shard are written together, and the index is rewritten after every shard, so an
    interrupted run loses at most one shard and can be started again with the same arguments.
    """
    totals = Totals(0, 0, 0)
    first_job = SceneJob(0, seed, views, split, "", look, size, pan)
    with tqdm(total=scenes, unit="scene", desc="worlds") as progress:
        for jobs in _list_jobs(scenes, first_job):
            if store.list_finished_scenes(out, jobs[0].shard, pan=pan) != [
                job.scene for job in jobs
            ]:
                rendered = []
                for one in _render_all(jobs, workers):
                    rendered.append(one)
                    progress.update()
                store.write_shard(out, jobs[0].shard, rendered)
                totals = store.write_index(out, _PREFIX[split], split)
            else:
                progress.update(len(jobs))
    return totals if totals.shards else store.write_index(out, _PREFIX[split], split)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca worlds",
        description="Make captioned tabletop pictures, or the demo clip, from a seed.",
        epilog="example: ureca worlds make -o worlds --scenes 500 --views 4 --seed 0 --workers 2",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="render stills with region captions")
    make.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="output folder; a run that was stopped continues in it",
    )
    make.add_argument("--scenes", type=int, default=100, help="number of scenes (default 100)")
    make.add_argument("--views", type=int, default=4, help="pictures per scene (default 4)")
    make.add_argument("--seed", type=int, default=0, help="seed of the run (default 0)")
    make.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    make.add_argument(
        "--split",
        choices=("train", "dev", "test"),
        default="train",
        help="dev: new scenes, looks of train; test: colours and textures that train never shows",
    )
    make.add_argument(
        "--look",
        choices=("gl", "mitsuba"),
        default="gl",
        help="gl: fast and plain (default); mitsuba: path-traced, needs mitsuba and pyoidn",
    )
    make.add_argument(
        "--size",
        type=_parse_size,
        default=PICTURE_SIZE,
        metavar="WIDTHxHEIGHT",
        help=f"pixels of a picture (default {PICTURE_SIZE[1]}x{PICTURE_SIZE[0]})",
    )
    make.add_argument(
        "--pan",
        action="store_true",
        help="also write what lies at every pixel: pan/SHARD.tar, one PNG a picture",
    )
    demo = commands.add_parser("demo", help="render the robot clip with its prompts and truth")
    demo.add_argument("-o", "--out", type=Path, required=True, help="folder for the three files")
    demo.add_argument("--seed", type=int, default=0, help="seed of textures (default 0)")
    res = commands.add_parser("res", help="make WorldsRES: views, and texts with what they mean")
    res.add_argument("-o", "--out", type=Path, required=True, help="output folder, resumable")
    res.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    change = commands.add_parser("change", help="render a clip in which one thing changes")
    change.add_argument("change", choices=("swap", "move", "open", "tip"), help="what happens")
    change.add_argument("-o", "--out", type=Path, required=True, help="folder for the three files")
    change.add_argument("--seed", type=int, default=0, help="seed of the scene (default 0)")
    pan = commands.add_parser("pan", help="render a pan over a table, every pixel of it known")
    pan.add_argument("-o", "--out", type=Path, required=True, help="folder: pan.mp4, panoptic.json")
    pan.add_argument("--seed", type=int, default=0, help="seed of the scene (default 0)")
    pan.add_argument("--frames", type=int, default=100, help="number of frames (default 100)")
    pan.add_argument("--fps", type=float, default=10.0, help="frames a second (default 10)")
    pan.add_argument(
        "--size", type=_parse_size, default=(480, 640), metavar="WIDTHxHEIGHT", help="[640x480]"
    )
    return parser


def _parse_size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text!r}") from None
    if not (_LEAST_PX <= width <= _MOST_PX and _LEAST_PX <= height <= _MOST_PX):
        raise argparse.ArgumentTypeError(f"expected sides of {_LEAST_PX} to {_MOST_PX}, got {text}")
    return height, width


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca worlds`; returns the exit status."""
    options = _build_parser().parse_args(argv)
    if options.command == "demo":
        from ureca.models.data.synthetic.rendering.video import make_demo

        make_demo(options.out, seed=options.seed)
        return 0
    if options.command == "change":
        from ureca.models.data.synthetic.rendering.changes import make_change

        make_change(options.out, options.change, seed=options.seed)
        return 0
    if options.command == "pan":
        from ureca.models.data.synthetic.rendering.pan import make_pan

        size, count = options.size, options.frames
        make_pan(options.out, seed=options.seed, count=count, fps=options.fps, size=size)
        return 0
    if options.command == "res":
        from ureca.models.data.synthetic.worlds_res import make_worlds_res

        sys.stdout.write(make_worlds_res(options.out, workers=options.workers))
        return 0
    totals = make_worlds(
        options.out,
        scenes=options.scenes,
        views=options.views,
        seed=options.seed,
        workers=options.workers,
        split=options.split,
        look=options.look,
        size=options.size,
        pan=options.pan,
    )
    sys.stdout.write(
        f"{options.out}: {totals.images} pictures, {totals.regions} regions"
        f" in {totals.shards} shards\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
