"""Compiles a scene for MuJoCo and runs the physics until it rests. Lengths in metres, time in
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ureca.models.data.synthetic.objects import shapes
from ureca.models.data.synthetic.objects.parts import Collider, Item, ObjectPart, SurfaceAppearance
from ureca.models.data.synthetic.objects.shapes import FloatArray, Mesh
from ureca.models.data.synthetic.scenes.mujoco_import import mujoco
from ureca.models.data.synthetic.scenes.scene import ItemPlacement, Lighting, Scene

SHOWN_GROUP: Final = 1
COLLIDER_GROUP: Final = 3
NOTHING: Final = -1

_FLOOR_Z: Final = -0.72
_STEP: Final = 0.004
_SHAPES: Final = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}


@dataclass(frozen=True)
class Piece:
    """What one visible geom is: a part of an item, or (item is None) a backdrop by index."""

    item: int | None
    part: int


@dataclass
class World:
    """A compiled scene. piece_of_geom maps geom ids to indices into pieces, or NOTHING."""

    scene: Scene
    model: mujoco.MjModel
    data: mujoco.MjData
    pieces: tuple[Piece, ...]
    piece_of_geom: NDArray[np.int16]
    bodies: tuple[int, ...]

    def step(self, seconds: float) -> None:
        """Run the physics."""
        for _ in range(round(seconds / self.model.opt.timestep)):
            mujoco.mj_step(self.model, self.data)

    def pose(self, item: int) -> tuple[FloatArray, FloatArray]:
        """Position (3,) and rotation matrix (3, 3) of an item now."""
        body = self.bodies[item]
        return self.data.xpos[body].copy(), self.data.xmat[body].reshape(3, 3).copy()

    def outline(self, item: int) -> FloatArray:
        """All mesh vertices (n, 3) of an item in world coordinates."""
        position, rotation = self.pose(item)
        parts = self.scene.placements[item].item.parts
        local = np.concatenate([part.mesh.vertices for part in parts])
        return np.asarray(local @ rotation.T + position, dtype=np.float64)

    def on_table(self, item: int) -> bool:
        """Whether an item is still on the table top (things may roll off)."""
        return float(self.pose(item)[0][2]) > -0.03


class _WorldBuilder:
    """Turns a scene into a MuJoCo specification, numbering the visible pieces as it goes."""

    def __init__(self, scene: Scene, *, shadow: int, samples: int) -> None:
        self.scene = scene
        self.spec = mujoco.MjSpec()
        self.pieces: list[Piece] = []
        self._materials: dict[int, str] = {}
        self.spec.option.timestep = _STEP
        self.spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        self.spec.option.impratio = 3
        self.spec.visual.quality.shadowsize = shadow
        self.spec.visual.quality.offsamples = samples
        self.spec.visual.map.znear = 0.02
        self.spec.stat.extent = 1.0
        self.spec.stat.center = np.array([0.0, 0.0, 0.05])

    def build(self) -> mujoco.MjSpec:
        """Add everything and return the specification."""
        self._light(self.scene.lighting)
        self._room()
        for index, placement in enumerate(self.scene.placements):
            self._item(index, placement)
        return self.spec

    def _light(self, lighting: Lighting) -> None:
        headlight = self.spec.visual.headlight
        headlight.ambient = np.full(3, lighting.ambient)
        headlight.diffuse = np.full(3, lighting.frontal)
        headlight.specular = np.zeros(3)
        place = np.array(lighting.place)
        self.spec.worldbody.add_light(
            pos=place,
            dir=-place / np.linalg.norm(place),
            diffuse=np.array(lighting.key),
            specular=np.full(3, 0.45),
            cutoff=60.0,
            exponent=1.0,
            castshadow=True,
        )
        # Even light towards the wall, so that its colour can be read as well as the table's.
        self.spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=np.array([0.0, -2.0, 2.0]),
            dir=np.array([0.0, 0.85, -0.53]),
            diffuse=np.full(3, lighting.fill),
            specular=np.zeros(3),
            castshadow=False,
        )

    def _room(self) -> None:
        width, depth = self.scene.table_size
        legs = [
            shapes.box(
                (0.05, 0.05, 0.68), centre=(sx * (width / 2 - 0.06), sy * (depth / 2 - 0.06), -0.38)
            )
            for sx in (-1, 1)
            for sy in (-1, 1)
        ]
        top = shapes.box((width, depth, 0.04), radius=0.006, centre=(0.0, 0.0, -0.02))
        back = depth / 2 + 0.55
        floor = shapes.box((6.0, 6.0, 0.04), centre=(0.0, 0.0, _FLOOR_Z - 0.02))
        wall = shapes.joined(
            [
                shapes.box((4.4, 0.04, 3.0), centre=(0.0, back + 0.02, _FLOOR_Z + 1.5)),
                shapes.box((0.04, 4.4, 3.0), centre=(-2.2, back - 2.2, _FLOOR_Z + 1.5)),
                shapes.box((0.04, 4.4, 3.0), centre=(2.2, back - 2.2, _FLOOR_Z + 1.5)),
            ]
        )
        meshes = (shapes.joined([top, *legs]), floor, wall)
        for index, (backdrop, mesh) in enumerate(zip(self.scene.backdrops, meshes, strict=True)):
            self._show(self.spec.worldbody, mesh, backdrop.look, Piece(None, index))
        solid = Collider("box", (width / 2, depth / 2, 0.02), (0.0, 0.0, -0.02))
        self._collide(self.spec.worldbody, solid)

    def _item(self, index: int, placement: ItemPlacement) -> None:
        item = placement.item
        body = self.spec.worldbody.add_body(
            name=f"item{index}", pos=np.array(placement.position), quat=_make_quaternion(placement)
        )
        if item.fixed:
            body.mocap = True
        else:
            body.add_freejoint()
        for collider in item.colliders:
            self._collide(body, collider)
        for number, part in enumerate(item.parts):
            self._show(body, part.mesh, part.look, Piece(index, number))

    def _collide(self, body: mujoco.MjsBody, collider: Collider) -> None:
        size = np.zeros(3)
        size[: len(collider.size)] = np.maximum(collider.size, 0.0015)
        half = collider.yaw / 2
        body.add_geom(
            type=_SHAPES[collider.shape],
            size=size,
            pos=np.array(collider.position),
            quat=np.array([np.cos(half), 0.0, 0.0, np.sin(half)]),
            density=300.0,
            friction=np.array([0.8, 0.01, 0.002]),
            condim=4,
            group=COLLIDER_GROUP,
        )

    def _show(
        self, body: mujoco.MjsBody, mesh: Mesh, look: SurfaceAppearance, piece: Piece
    ) -> None:
        name = f"piece{len(self.pieces)}"
        self.pieces.append(piece)
        self.spec.add_mesh(
            name=name,
            uservert=mesh.vertices.ravel(),
            userface=mesh.faces.ravel(),
            usernormal=mesh.normals.ravel(),
            usertexcoord=mesh.uv.ravel(),
            # Thin open shells have no volume to derive an inertia from.
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=self._material(look),
            contype=0,
            conaffinity=0,
            mass=0.0,
            group=SHOWN_GROUP,
        )

    def _material(self, look: SurfaceAppearance) -> str:
        """Name of the material of a look; parts that share a look share the material."""
        if id(look) in self._materials:
            return self._materials[id(look)]
        name = self._materials[id(look)] = f"look{len(self._materials)}"
        shine = {"specular": look.gloss * 0.7, "shininess": 0.15 + 0.6 * look.gloss}
        material = self.spec.add_material(name=name, rgba=np.array([*look.rgb, 1.0]), **shine)
        if look.texture is not None:
            self._texture(name, look.texture)
            material.rgba = np.ones(4)
            material.texrepeat = np.array(look.repeat)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        return name

    def _texture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        texture = self.spec.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            width=pixels.shape[1],
            height=pixels.shape[0],
            nchannel=3,
        )
        texture.data = pixels.tobytes()


def _make_quaternion(placement: ItemPlacement) -> FloatArray:
    half = placement.yaw / 2
    yaw = np.array([np.cos(half), 0.0, 0.0, np.sin(half)])
    if not placement.lying:
        return yaw
    tipped, both = np.array([np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0]), np.zeros(4)
    mujoco.mju_mulQuat(both, yaw, tipped)
    return both


def build_world(scene: Scene, *, shadow: int = 2048, samples: int = 4) -> World:
    """Compile a scene; shadow is the shadow map's edge, samples the anti-aliasing of colour."""
    builder = _WorldBuilder(scene, shadow=shadow, samples=samples)
    model = builder.build().compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    piece_of_geom = np.full(model.ngeom + 1, NOTHING, dtype=np.int16)
    for index in range(len(builder.pieces)):
        piece_of_geom[model.geom(f"piece{index}").id] = index
    bodies = tuple(model.body(f"item{index}").id for index in range(len(scene.placements)))
    return World(scene, model, data, tuple(builder.pieces), piece_of_geom, bodies)


def settle_world(world: World, *, seconds: float = 1.2) -> None:
    """Run the physics until everything rests; damping stops round items."""
    for step in range(round(seconds / _STEP)):
        mujoco.mj_step(world.model, world.data)
        if step % 10 == 0:
            world.data.qvel[:] *= 0.9
    mujoco.mj_forward(world.model, world.data)


def find_part(scene: Scene, piece: Piece) -> tuple[Item, ObjectPart] | None:
    """Return the item and part of a piece, or None for a backdrop."""
    if piece.item is None:
        return None
    item = scene.placements[piece.item].item
    return item, item.parts[piece.part]
