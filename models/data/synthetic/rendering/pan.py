"""A pan over a rendered table: `pan.mp4`, and what lies at every pixel of each frame.

The truth is COCO's panoptic format: `panoptic.json` and `panoptic/pan-000000.png`. An item has one
id on all frames; parts belong to their item.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.models.data.synthetic.rendering.clip import ClipFrame
from ureca.models.data.synthetic.rendering.render import Ids, Painter, SceneCamera
from ureca.models.data.synthetic.rendering.views import RenderedView, describe_view
from ureca.models.data.synthetic.scenes.scene import draw_scene
from ureca.models.data.synthetic.scenes.world import NOTHING, World, build_world, settle_world
from ureca.models.runtime.segmentation.panoptic.coco_format import (
    encode_segment_png,
    make_box,
    write_coco_json,
)

SIDE_DEG: Final = 8.0
"""How far the camera swings to either side."""
_SHADOW_MAP: Final = 1024
_SAMPLES: Final = 2
_FIRST_BACKDROP: Final = 1001
_LEAST_PX: Final = 30
"""Fewer visible pixels of an item are void, as for captions of views."""
Json = dict[str, Any]  # JSON values
I64 = npt.NDArray[np.int64]


class PanTruth:
    """Collects the rows of COCO's file; PNGs are written at once."""

    def __init__(self, world: World, out: Path, phrases: dict[str, str]) -> None:
        self._world, self._out, self._phrases = world, out, phrases
        self._table = _make_table(world)
        self._names = _name_numbers(world)
        names = sorted({(stuff, name) for name, stuff, _ in self._names.values()})
        self._classes = {name: n for n, (_, name) in enumerate(names, 1)}
        self._categories = [
            {"id": n, "name": name, "isthing": int(not stuff)}
            for n, (stuff, name) in enumerate(names, 1)
        ]
        self._images: list[Json] = []
        self._annotations: list[Json] = []
        (out / "panoptic").mkdir(parents=True, exist_ok=True)

    def add(self, frame: ClipFrame) -> None:
        """Note one frame."""
        ids = self._table[np.where(frame.ids == NOTHING, len(self._table) - 1, frame.ids)]
        numbers, areas = np.unique(ids, return_counts=True)
        ids[np.isin(ids, numbers[areas < _LEAST_PX])] = 0
        name = f"pan-{frame.number:06d}.png"
        (self._out / "panoptic" / name).write_bytes(encode_segment_png(ids))
        height, width = ids.shape
        row = {"id": frame.number, "file_name": name, "width": width, "height": height}
        self._images.append(row | {"video_id": 0, "frame_id": frame.number})
        rows = [self._make_row(int(n), ids) for n in numbers[areas >= _LEAST_PX] if n]
        self._annotations.append(
            {"image_id": frame.number, "file_name": name, "segments_info": rows}
        )

    def _make_row(self, number: int, ids: I64) -> Json:
        mask = np.asarray(ids == number, np.bool_)
        name, stuff, node = self._names[number]
        return {
            "id": number,
            "category_id": self._classes[name],
            "isthing": int(not stuff),
            "iscrowd": 0,
            "area": int(np.count_nonzero(mask)),
            "bbox": make_box(mask),
            "description": self._phrases.get(node, ""),
        }

    def write(self) -> None:
        """Write `panoptic.json`."""
        path = self._out / "panoptic.json"
        write_coco_json(path, self._images, self._annotations, self._categories)


def _make_table(world: World) -> I64:
    """Numbers of segments by piece; the last entry is for nothing."""
    numbers = [
        _FIRST_BACKDROP + piece.part if piece.item is None else piece.item + 1
        for piece in world.pieces
    ]
    return np.array([*numbers, 0], np.int64)


def _name_numbers(world: World) -> dict[int, tuple[str, bool, str]]:
    """Class, whether it is stuff, and node in the truth of a view, by number."""
    items = enumerate(world.scene.placements)
    names = {n + 1: (placed.item.kind, False, f"o{n}") for n, placed in items}
    backdrops = enumerate(world.scene.backdrops)
    return names | {_FIRST_BACKDROP + n: (one.name, True, one.name) for n, one in backdrops}


def make_camera(share: float) -> SceneCamera:
    """The camera at a share 0..1 of the clip: to one side, to the other, and back."""
    azimuth = 90.0 + SIDE_DEG * float(np.sin(2 * np.pi * share))
    return SceneCamera((0.0, 0.0, 0.05), 0.8, azimuth, -32.0, 44.0)


def _paint_frames(world: World, count: int, size: tuple[int, int]) -> Iterator[ClipFrame]:
    with Painter(world, size, ids=False) as colour, Painter(world, size, ids=True) as masks:
        for number in tqdm(range(count), desc="pan", unit="frame", disable=None):
            camera = make_camera(number / count)
            yield ClipFrame(number, colour.picture(camera), masks.ids(camera))


def _describe(world: World, size: tuple[int, int]) -> dict[str, str]:
    """The phrase of every thing in the first view, by node."""
    camera = make_camera(0.0)
    with Painter(world, size, ids=True) as masks:
        ids: Ids = masks.ids(camera)
    regions = describe_view(world, RenderedView("pan", "", "dev", ids, camera))[1]
    return {region.node.node: region.short for region in regions}


def make_pan(out: Path, *, seed: int, count: int, fps: float, size: tuple[int, int]) -> None:
    """Write a pan of `count` frames of `size` (height, width), and its truth, into a folder.

    Scenes are those of no split of `ureca worlds make`: their seeds have a branch of their own.
    """
    scene_seed = int(np.random.SeedSequence([seed, 3]).generate_state(1)[0])
    world = build_world(draw_scene(scene_seed), shadow=_SHADOW_MAP, samples=_SAMPLES)
    settle_world(world)
    truth = PanTruth(world, out, _describe(world, size))
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    clip = cv2.VideoWriter(str(out / "pan.mp4"), codec, fps, size[::-1])
    for frame in _paint_frames(world, count, size):
        clip.write(np.ascontiguousarray(frame.picture[..., ::-1]))
        truth.add(frame)
    clip.release()
    truth.write()
