"""Pictures and id masks of a world through MuJoCo's OpenGL renderer, without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ureca.models.data.worlds.engine import mujoco
from ureca.models.data.worlds.shapes import FloatArray
from ureca.models.data.worlds.world import NOTHING, SHOWN_GROUP, World

Rgb8 = NDArray[np.uint8]
Ids = NDArray[np.int16]


@dataclass(frozen=True)
class Camera:
    """A camera that looks at a point (m) from a distance (m); angles in degrees.

    azimuth 90 looks along +y (towards the wall), elevation is negative when looking down.
    """

    target: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    field: float = 45.0

    @property
    def axes(self) -> FloatArray:
        """Rows: right, down and forward unit vectors (3, 3)."""
        azimuth, elevation = np.radians(self.azimuth), np.radians(self.elevation)
        flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        forward = np.cos(elevation) * flat + np.array([0.0, 0.0, np.sin(elevation)])
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: FloatArray, size: tuple[int, int]) -> FloatArray:
        """Project (n, 3) points to (n, 3): x and y in pixels, depth in m; size is (h, w)."""
        axes = self.axes
        seen = (points - (np.array(self.target) - self.distance * axes[2])) @ axes.T
        focal = size[0] / 2 / np.tan(np.radians(self.field) / 2)
        depth = np.maximum(seen[:, 2:], 1e-3)
        centre = np.array([size[1] / 2, size[0] / 2])
        return np.concatenate([seen[:, :2] / depth * focal + centre, seen[:, 2:]], axis=1)

    def as_mujoco(self) -> mujoco.MjvCamera:
        """The same camera for MuJoCo; the field of view is set on the model."""
        camera = mujoco.MjvCamera()
        camera.lookat[:] = self.target
        camera.distance, camera.azimuth, camera.elevation = (
            self.distance,
            self.azimuth,
            self.elevation,
        )
        return camera


def _options() -> mujoco.MjvOption:
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[SHOWN_GROUP] = 1
    return options


class Painter:
    """Draws one world at one size; use as a context manager, one at a time per thread."""

    def __init__(self, world: World, size: tuple[int, int], *, ids: bool) -> None:
        self.world = world
        self._options = _options()
        samples = world.model.vis.quality.offsamples
        if ids:
            # Anti-aliasing would blend neighbouring ids into ones that do not exist.
            world.model.vis.quality.offsamples = 0
        self._renderer = mujoco.Renderer(world.model, size[0], size[1], max_geom=2000)
        world.model.vis.quality.offsamples = samples
        if ids:
            self._renderer.enable_segmentation_rendering()

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()

    def _draw(self, camera: Camera) -> NDArray[np.generic]:
        self.world.model.vis.global_.fovy = camera.field
        self._renderer.update_scene(self.world.data, camera.as_mujoco(), self._options)
        return np.asarray(self._renderer.render())

    def picture(self, camera: Camera) -> Rgb8:
        """RGB of shape (h, w, 3)."""
        return self._draw(camera).astype(np.uint8)

    def ids(self, camera: Camera) -> Ids:
        """Index into world.pieces for every pixel (h, w); NOTHING where there is none."""
        drawn = self._draw(camera).astype(np.int64)
        geoms = np.where(drawn[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), drawn[..., 0], NOTHING)
        return self.world.piece_of_geom[geoms]


def paint_views(
    world: World, cameras: Sequence[Camera], size: tuple[int, int]
) -> list[tuple[Rgb8, Ids]]:
    """Picture and ids of a world from several cameras; size is (h, w)."""
    with Painter(world, size, ids=False) as painter:
        pictures = [painter.picture(camera) for camera in cameras]
    with Painter(world, size, ids=True) as painter:
        ids = [painter.ids(camera) for camera in cameras]
    return list(zip(pictures, ids, strict=True))
