"""Pictures and id masks of a world through MuJoCo's OpenGL renderer, without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ureca.models.data.synthetic.objects.shapes import FloatArray
from ureca.models.data.synthetic.scenes.mujoco_import import mujoco
from ureca.models.data.synthetic.scenes.world import NOTHING, SHOWN_GROUP, World

Rgb8 = NDArray[np.uint8]
Ids = NDArray[np.int16]


@dataclass(frozen=True)
class SceneCamera:
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

    @property
    def position(self) -> FloatArray:
        """Where the camera is (3,)."""
        return np.asarray(np.array(self.target) - self.distance * self.axes[2])

    def project(self, points: FloatArray, size: tuple[int, int]) -> FloatArray:
        """Project (n, 3) points to (n, 3): x and y in pixels, depth in m; size is (h, w)."""
        axes = self.axes
        seen = (points - self.position) @ axes.T
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


def _make_options() -> mujoco.MjvOption:
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[SHOWN_GROUP] = 1
    return options


@lru_cache(maxsize=1)
def _get_gl_context() -> mujoco.GLContext:
    """The process's one OpenGL context; making a new one per scene would double the cost."""
    return mujoco.GLContext(64, 64)


class Painter:
    """Draws one world at one size (h, w); use as a context manager, in one thread only."""

    def __init__(self, world: World, size: tuple[int, int], *, ids: bool) -> None:
        self.world = world
        self._size = size
        self._options, self._perturbation = _make_options(), mujoco.MjvPerturb()
        _get_gl_context().make_current()
        self._scene = mujoco.MjvScene(world.model, maxgeom=2000)
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        for flag in flags:
            self._scene.flags[flag] = ids
        self._buffers = _make_buffers(world.model, size, smooth=not ids)

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffers.free()

    def picture(self, camera: SceneCamera) -> Rgb8:
        """RGB of shape (h, w, 3)."""
        self.world.model.vis.global_.fovy = camera.field
        mujoco.mjv_updateScene(
            self.world.model,
            self.world.data,
            self._options,
            self._perturbation,
            camera.as_mujoco(),
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        pixels = np.zeros((*self._size, 3), dtype=np.uint8)
        view = mujoco.MjrRect(0, 0, self._size[1], self._size[0])
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        mujoco.mjr_render(view, self._scene, self._buffers)
        mujoco.mjr_readPixels(pixels, None, view, self._buffers)
        # OpenGL counts rows from the bottom.
        return np.ascontiguousarray(pixels[::-1])

    def ids(self, camera: SceneCamera) -> Ids:
        """Index into world.pieces for every pixel (h, w); NOTHING where there is none."""
        colours = self.picture(camera).astype(np.int64)
        # An id colour is one more than the drawn thing's number in the scene; 0 is nothing.
        numbers = colours[..., 0] + (colours[..., 1] << 8) + (colours[..., 2] << 16)
        return np.asarray(self._piece_of_number()[numbers], dtype=np.int16)

    def _piece_of_number(self) -> Ids:
        pieces = np.full(self._scene.ngeom + 1, NOTHING, dtype=np.int16)
        for drawn in self._scene.geoms[: self._scene.ngeom]:
            if drawn.objtype == mujoco.mjtObj.mjOBJ_GEOM and drawn.segid >= 0:
                pieces[drawn.segid + 1] = self.world.piece_of_geom[drawn.objid]
        return pieces


def _make_buffers(
    model: mujoco.MjModel, size: tuple[int, int], *, smooth: bool
) -> mujoco.MjrContext:
    """Off-screen buffers of a size (h, w) and the model's meshes, uploaded."""
    quality, samples = model.vis.quality, model.vis.quality.offsamples
    model.vis.global_.offheight, model.vis.global_.offwidth = size
    if not smooth:
        # Anti-aliasing would blend neighbouring ids into ones that do not exist.
        quality.offsamples = 0
    buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    quality.offsamples = samples
    return buffers


def paint_views(
    world: World, cameras: Sequence[SceneCamera], size: tuple[int, int]
) -> list[tuple[Rgb8, Ids]]:
    """Picture and ids of a world from several cameras; size is (h, w)."""
    with Painter(world, size, ids=False) as painter:
        pictures = [painter.picture(camera) for camera in cameras]
    with Painter(world, size, ids=True) as painter:
        ids = [painter.ids(camera) for camera in cameras]
    return list(zip(pictures, ids, strict=True))
