"""Path-traced pictures of a world: Mitsuba and a denoiser, for views that look less like a game.

Only the picture differs: the scene, the camera and the ids stay MuJoCo's, so one id map serves
both looks. Needs the packages `mitsuba` and `pyoidn`. Runs on Mitsuba's `scalar_rgb`, which needs
nothing else; the faster `llvm_ad_rgb` is taken when `DRJIT_LIBLLVM_PATH` names an LLVM library
(16 or later: older ones end the process).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ureca.errors import MissingExtraError
from ureca.models.data.synthetic.objects.parts import METAL_RGB, SurfaceAppearance
from ureca.models.data.synthetic.objects.shapes import FloatArray
from ureca.models.data.synthetic.rendering.render import Rgb8, SceneCamera
from ureca.models.data.synthetic.scenes.scene import Lighting
from ureca.models.data.synthetic.scenes.world import World, find_part

SAMPLES: Final = 8
"""Samples per pixel; with the denoiser eight look better than 64 without."""

_KEY_SHARE: Final = 1.1
"""Light from the lamp on the table, relative to the light from all around."""
_WHITE_LEVEL: Final = 0.66
"""Linear brightness of a white surface in the typical light of the picture."""
_GUIDES: Final = 2
_BRIGHTEST: Final = 40.0

Pixels = NDArray[np.float32]
Properties = dict[str, Any]  # what mitsuba.load_dict takes: nested dictionaries of its own objects


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name!r} is not installed ({error}); --look mitsuba needs it: pip install mitsuba"
            " pyoidn, or leave --look out for the OpenGL look"
        ) from error


@lru_cache(maxsize=1)
def import_mitsuba() -> ModuleType:
    """Import Mitsuba with its variant set. Raises `MissingExtraError` with the remedy."""
    module = _import("mitsuba")
    _import("pyoidn")
    fast = bool(os.environ.get("DRJIT_LIBLLVM_PATH"))
    module.set_variant("llvm_ad_rgb" if fast else "scalar_rgb")
    module.set_log_level(module.LogLevel.Error)
    return module


def _to_linear(values: FloatArray) -> FloatArray:
    """Display (sRGB) values in 0..1 as linear ones."""
    high = ((values + 0.055) / 1.055) ** 2.4
    return np.where(values <= 0.04045, values / 12.92, high)


def _to_display(values: Pixels) -> Rgb8:
    """Linear values as display bytes; the very bright ones roll off softly."""
    soft = np.where(values > 0.8, 0.8 + 0.2 * np.tanh((values - 0.8) / 0.4), values)
    soft = np.clip(soft, 0, 1)
    high = 1.055 * soft ** (1 / 2.4) - 0.055
    return (np.where(soft <= 0.0031308, soft * 12.92, high) * 255 + 0.5).astype(np.uint8)


def _make_material(look: SurfaceAppearance) -> Properties:
    """The material of a look."""
    mi = import_mitsuba()
    metal = look.rgb == METAL_RGB
    base: Properties = {"type": "rgb", "value": _to_linear(np.array(look.rgb)).tolist()}
    if metal:
        base = {"type": "rgb", "value": [0.78, 0.78, 0.8]}
    elif look.texture is not None:
        picture = _to_linear(look.texture.astype(np.float64) / 255.0)
        bitmap = mi.Bitmap(np.ascontiguousarray(picture, np.float32))
        scale = mi.ScalarTransform4f().scale([look.repeat[0], look.repeat[1], 1.0])
        base = {"type": "bitmap", "bitmap": bitmap, "raw": True, "to_uv": scale}
    rough = 0.22 if metal else 0.75 - 0.5 * look.gloss
    plastic = {"base_color": base, "roughness": rough, "metallic": 1.0 if metal else 0.0}
    return {"type": "twosided", "inner": {"type": "principled", "specular": 0.4, **plastic}}


def _list_corners(world: World, geom: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Vertices (n, 3), normals (n, 3) and texture places (n, 2) of a geom, three a face."""
    model, data = world.model, world.data
    mesh = int(model.geom_dataid[geom])
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] + model.mesh_face[faces].ravel()]
    normals = model.mesh_normal[model.mesh_normaladr[mesh] + model.mesh_facenormal[faces].ravel()]
    places = model.mesh_texcoord[
        model.mesh_texcoordadr[mesh] + model.mesh_facetexcoord[faces].ravel()
    ]
    turn = data.geom_xmat[geom].reshape(3, 3).T
    return vertices @ turn + data.geom_xpos[geom], normals @ turn, places


def _make_mesh(world: World, piece: int, look: SurfaceAppearance) -> Any:  # a mitsuba.Mesh
    mi = import_mitsuba()
    vertices, normals, places = _list_corners(world, world.model.geom(f"piece{piece}").id)
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(_make_material(look))
    count = len(vertices)
    mesh = mi.Mesh(
        f"piece{piece}",
        count,
        count // 3,
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    values = mi.traverse(mesh)
    values["vertex_positions"] = np.ascontiguousarray(vertices, np.float32).ravel()
    values["vertex_normals"] = np.ascontiguousarray(normals, np.float32).ravel()
    values["vertex_texcoords"] = np.ascontiguousarray(places, np.float32).ravel()
    values["faces"] = np.arange(count, dtype=np.uint32)
    values.update()
    return mesh


def _make_lights(lighting: Lighting) -> Properties:
    """Make even light from all sides and a lamp with soft shadows."""
    mi = import_mitsuba()
    place = np.array(lighting.place)
    tint = np.array(lighting.key) / max(lighting.key)
    edge = 0.25
    # A square lamp of radiance L lights what faces it at a distance d with L * area / d^2.
    strength = _KEY_SHARE * np.pi * float(place @ place) / (2 * edge) ** 2
    where = mi.ScalarTransform4f().look_at(
        origin=place.tolist(), target=[0, 0, 0], up=[0.01, 0.02, 1]
    )
    radiance = {"type": "rgb", "value": (tint * strength).tolist()}
    return {
        "around": {"type": "constant", "radiance": {"type": "rgb", "value": 1.0}},
        "lamp": {
            "type": "rectangle",
            "to_world": where @ mi.ScalarTransform4f().scale(edge),
            "emitter": {"type": "area", "radiance": radiance},
        },
    }


def _make_sensor(camera: SceneCamera, size: tuple[int, int]) -> Any:  # a mitsuba.Sensor
    mi = import_mitsuba()
    where = mi.ScalarTransform4f().look_at(
        origin=camera.position.tolist(), target=list(camera.target), up=[0, 0, 1]
    )
    # A wider filter would smear broken samples over their neighbours and blind the denoiser.
    film = {"type": "hdrfilm", "height": size[0], "width": size[1], "rfilter": {"type": "box"}}
    lens = {"fov": camera.field, "fov_axis": "y", "near_clip": 0.01, "to_world": where}
    return mi.load_dict({"type": "perspective", **lens, "film": film})


def _remove_outliers(picture: Pixels) -> Pixels:
    """Return the image without samples that are NaN, negative or far too bright."""
    bad = np.any(~np.isfinite(picture) | (picture < 0), axis=-1, keepdims=True)[..., 0]
    picture = np.where(bad[..., None], 0.0, picture).astype(np.float32)
    if bad.any():
        padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
        rows, columns = np.nonzero(bad)
        around = [padded[rows + i, columns + j] for i in range(3) for j in range(3)]
        picture[bad] = np.median(around, axis=0)
    return np.minimum(picture, _BRIGHTEST * max(float(np.median(picture)), 1e-3))


def _compute_gain(picture: Pixels, albedo: Pixels) -> float:
    """Return the gain that brings a white surface in typical light to its level, for any image
    content.

    Exposing by the picture's own brightness would turn a black table gray.
    """
    own = albedo.mean(axis=-1)
    lit = picture.mean(axis=-1)[own > 0.05] / own[own > 0.05]
    return _WHITE_LEVEL / max(float(np.median(lit)), 1e-3) if lit.size else 1.0


class TracedPainter:
    """Path-traces one world at one size (h, w), in the state in which the painter was made."""

    def __init__(self, world: World, size: tuple[int, int], *, samples: int = SAMPLES) -> None:
        self._mi = import_mitsuba()
        self._size, self._samples = size, samples
        whole: Properties = {"type": "scene", "integrator": {"type": "path", "max_depth": 4}}
        whole |= _make_lights(world.scene.lighting)
        for number, piece in enumerate(world.pieces):
            owner = find_part(world.scene, piece)
            look = world.scene.backdrops[piece.part].look if owner is None else owner[1].look
            whole[f"piece{number}"] = _make_mesh(world, number, look)
        self._scene = self._mi.load_dict(whole)
        self._guides = self._mi.load_dict({"type": "aov", "aovs": "al:albedo,nn:sh_normal"})

    def _render(self, sensor: Any, **options: Any) -> Pixels:
        return np.array(self._mi.render(self._scene, sensor=sensor, **options), dtype=np.float32)

    def picture(self, camera: SceneCamera, *, seed: int = 0) -> Rgb8:
        """RGB of shape (h, w, 3)."""
        sensor = _make_sensor(camera, self._size)
        noisy = _remove_outliers(self._render(sensor, spp=self._samples, seed=seed)[..., :3])
        guides = self._render(sensor, spp=_GUIDES, seed=seed + 1, integrator=self._guides)
        albedo = np.ascontiguousarray(np.clip(np.nan_to_num(guides[..., -6:-3]), 0, 1))
        normal = np.ascontiguousarray(np.nan_to_num(guides[..., -3:]))
        clean = _import("pyoidn").denoise(
            np.ascontiguousarray(noisy), hdr=True, quality="balanced", albedo=albedo, normal=normal
        )
        return _to_display(np.asarray(clean, np.float32) * np.float32(_compute_gain(noisy, albedo)))


def trace_views(world: World, cameras: Sequence[SceneCamera], size: tuple[int, int]) -> list[Rgb8]:
    """Path-trace images of a world from several cameras; size is (h, w)."""
    painter = TracedPainter(world, size)
    return [painter.picture(camera, seed=2 * number) for number, camera in enumerate(cameras)]
