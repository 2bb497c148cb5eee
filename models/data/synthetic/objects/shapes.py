"""Triangle meshes for the procedural kinds. Lengths in metres, angles in degrees, z up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Point2 = tuple[float, float]
Point3 = tuple[float, float, float]
Bumps = Callable[[FloatArray, FloatArray], FloatArray]
Radii = float | Sequence[float] | FloatArray

_EPSILON = 1e-12


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh: vertices (n, 3), faces (m, 3), unit normals (n, 3), uv (n, 2)."""

    vertices: FloatArray
    faces: IntArray
    normals: FloatArray
    uv: FloatArray

    def moved(self, *, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """Return the mesh shifted by (x, y, z)."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def turned(self, axis: str, degrees: float) -> Mesh:
        """Return the mesh turned about a coordinate axis through the origin."""
        matrix = rotation(axis, degrees)
        return replace(self, vertices=self.vertices @ matrix.T, normals=self.normals @ matrix.T)


def rotation(axis: str, degrees: float) -> FloatArray:
    """Return the (3, 3) right-handed rotation about 'x', 'y' or 'z'."""
    angle = np.radians(degrees)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Return several meshes as one."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([m.faces + k for m, k in zip(meshes, offsets, strict=True)]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
    )


def unit(vectors: FloatArray) -> FloatArray:
    """Scale vectors (..., 3) to length one; zero vectors stay zero."""
    lengths: FloatArray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / (lengths + _EPSILON), dtype=np.float64)


def _grid_faces(rows: int, columns: int) -> IntArray:
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    b, c, d = a + 1, a + columns + 1, a + columns
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _grid_normals(points: FloatArray, *, wrap: bool) -> FloatArray:
    """Area-weighted vertex normals of a grid (m, n, 3); wrap joins first and last column."""
    across, along = points[:-1, 1:] - points[1:, :-1], points[1:, 1:] - points[:-1, :-1]
    quads = np.cross(across, along)
    normals = np.zeros_like(points)
    for di in (0, 1):
        for dj in (0, 1):
            normals[di : di + quads.shape[0], dj : dj + quads.shape[1]] += quads
    if wrap:
        normals[:, 0] = normals[:, -1] = normals[:, 0] + normals[:, -1]
    return unit(normals)


def surface(points: FloatArray, v: FloatArray, *, wrap: bool = True) -> Mesh:
    """Mesh a grid of points (m, n, 3); v (m,) is the texture coordinate of each row."""
    rows, columns = points.shape[:2]
    u = np.linspace(0.0, 1.0, columns)
    uv = np.stack([np.tile(u, (rows, 1)), np.repeat(v[:, None], columns, 1)], -1)
    normals = _grid_normals(points, wrap=wrap)
    faces = _grid_faces(rows, columns)
    return Mesh(points.reshape(-1, 3), faces, normals.reshape(-1, 3), uv.reshape(-1, 2))


def _split_at_creases(profile: FloatArray, crease: float) -> list[slice]:
    """Cut a profile (k, 2) into smooth stretches wherever it bends by more than crease."""
    steps = np.diff(profile, axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True) + _EPSILON
    bends = np.sum(steps[:-1] * steps[1:], axis=1) < np.cos(np.radians(crease))
    cuts = [0, *(np.nonzero(bends)[0] + 1).tolist(), len(profile) - 1]
    return [slice(a, b + 1) for a, b in pairwise(cuts)]


def lathe(
    profile: Sequence[Point2],
    *,
    sides: int = 40,
    crease: float = 35.0,
    squash: Point2 = (1.0, 1.0),
) -> Mesh:
    """Turn (radius, height) points about z; they run so that the outside lies to the right."""
    line = np.array(profile, dtype=np.float64)
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    theta = np.linspace(0.0, 2.0 * np.pi, sides + 1)
    ring = np.stack([np.cos(theta) * squash[0], np.sin(theta) * squash[1]], -1)
    pieces = []
    for part in _split_at_creases(line, crease):
        flat = line[part, 0][:, None, None] * ring
        height = np.broadcast_to(line[part, 1][:, None, None], (*flat.shape[:2], 1))
        pieces.append(surface(np.concatenate([flat, height], -1), length[part] / length[-1]))
    return joined(pieces)


def arc(
    centre: Point2, radius: float, *, start: float, stop: float, points: int = 6
) -> list[Point2]:
    """Points of a circular arc in the profile plane, angles in degrees."""
    angles = np.radians(np.linspace(start, stop, points))
    return [
        (centre[0] + radius * float(np.cos(a)), centre[1] + radius * float(np.sin(a)))
        for a in angles
    ]


def cup_profile(
    bottom: float, top: float, *, height: float, wall: float, curve: float = 1.0
) -> list[Point2]:
    """Closed profile of a hollow vessel: up the outside, over the rim, down the inside."""
    levels = np.linspace(0.0, 1.0, 14)
    radii = bottom + (top - bottom) * levels**curve
    bevel = wall * 1.5
    outside = [(0.0, 0.0), (bottom - bevel, 0.0)]
    outside += arc((bottom - bevel, bevel), bevel, start=-90, stop=0)[1:]
    outside += [
        (float(r), float(z)) for r, z in zip(radii, levels * height, strict=True) if z > bevel
    ]
    rim = arc((top - wall / 2, height), wall / 2, start=0, stop=180)[1:]
    pairs = zip(radii[::-1], levels[::-1] * height, strict=True)
    inside = [(max(float(r) - wall, 1e-4), float(z)) for r, z in pairs if z > wall * 1.2]
    return outside + rim + inside + [(max(inside[-1][0] - bevel / 2, 1e-4), wall), (0.0, wall)]


def cylinder(radius: float, height: float, *, bevel: float = 0.002, sides: int = 40) -> Mesh:
    """A solid cylinder standing on the origin, with rounded edges."""
    inner = radius - bevel
    profile = [(0.0, 0.0), (inner, 0.0), *arc((inner, bevel), bevel, start=-90, stop=0)[1:]]
    profile += [*arc((inner, height - bevel), bevel, start=0, stop=90), (0.0, height)]
    return lathe(profile, sides=sides, crease=50.0)


_BOX_SLOPES = np.array([-1.0, -0.414, 0.0, 0.0, 0.414, 1.0])
_BOX_SIDES = np.array([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])


def _box_face(half: FloatArray, radius: float, axis: int, sign: float) -> Mesh:
    """One rounded face of a box; slopes are tangents of the edge-rounding angles."""
    first, second = ((axis + 1) % 3, (axis + 2) % 3)
    slope = np.zeros((6, 6, 3))
    slope[..., axis] = sign
    slope[..., first], slope[..., second] = np.meshgrid(_BOX_SLOPES, _BOX_SLOPES, indexing="xy")
    side = np.full((6, 6, 3), sign)
    side[..., first], side[..., second] = np.meshgrid(_BOX_SIDES, _BOX_SIDES, indexing="xy")
    normals = unit(slope)
    points = side * (half - radius) + radius * normals
    # Upright faces carry their pictures upright: u runs sideways, v runs up.
    across, up = (second, first) if axis == 1 else (first, second)
    uv = np.stack([points[..., k] / (2 * half[k]) + 0.5 for k in (across, up)], -1)
    if (axis, sign) in ((0, -1.0), (1, 1.0)):
        uv[..., 0] = 1.0 - uv[..., 0]
    faces = _grid_faces(6, 6)
    faces = faces if sign > 0 else faces[:, ::-1]
    return Mesh(points.reshape(-1, 3), faces, normals.reshape(-1, 3), uv.reshape(-1, 2))


def box(size: Point3, *, radius: float = 0.003, centre: Point3 = (0.0, 0.0, 0.0)) -> Mesh:
    """A box with rounded edges; size gives the full edge lengths."""
    half = np.array(size) / 2
    radius = min(radius, float(half.min()) * 0.95)
    faces = [_box_face(half, radius, axis, sign) for axis in range(3) for sign in (-1.0, 1.0)]
    return joined(faces).moved(x=centre[0], y=centre[1], z=centre[2])


def _frames(path: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two normals (m, 3) along a path, carried forward so that the tube does not twist."""
    tangent = unit(np.gradient(path, axis=0))
    helper = np.array([0.0, 0.0, 1.0]) if abs(tangent[0, 2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    current = unit(np.cross(helper, tangent[0]))
    normals = np.zeros_like(path)
    for index, direction in enumerate(tangent):
        current = unit(current - direction * float(np.dot(current, direction)))
        normals[index] = current
    return normals, np.cross(tangent, normals)


def tube(path: Sequence[Point3], radius: Radii, *, sides: int = 12, flat: float = 1.0) -> Mesh:
    """Sweep a circle (or ellipse, flat = second over first axis) along a path, with end caps."""
    line = np.array(path, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(line),))[:, None, None]
    normal, side = _frames(line)
    theta = np.linspace(0.0, 2.0 * np.pi, sides + 1)[None, :, None]
    ring = np.cos(theta) * normal[:, None] + flat * np.sin(theta) * side[:, None]
    points = line[:, None] + radii * ring
    start = np.stack([np.broadcast_to(line[0], points[0].shape), points[0]])
    stop = np.stack([points[-1], np.broadcast_to(line[-1], points[-1].shape)])
    ends = np.array([0.0, 1.0])
    return joined(
        [surface(points, np.linspace(0, 1, len(line))), surface(start, ends), surface(stop, ends)]
    )


def ellipsoid(radii: Point3, *, taper: float = 0.0, bumps: Bumps | None = None) -> Mesh:
    """An ellipsoid about the origin; taper narrows the top, bumps(theta, phi) scales it."""
    phi, theta = np.linspace(-np.pi / 2, np.pi / 2, 24), np.linspace(0, 2 * np.pi, 41)
    around, up = np.meshgrid(theta, phi)
    width = 1.0 + taper * np.sin(up)
    if bumps is not None:
        width = width * bumps(around, up)
    x, y = np.cos(up) * np.cos(around) * width, np.cos(up) * np.sin(around) * width
    points = np.stack([x * radii[0], y * radii[1], np.sin(up) * radii[2]], -1)
    return surface(points, np.linspace(0.0, 1.0, len(phi)))
