"""Generated clips with exact truth, on which things leave, hide, stop, are covered and cross.

A sprite, cut out of one clip by its true masks, moves over a picture of another clip that stands
still, as before a fixed camera. DAVIS has no frame without its object and no fixed camera, so it
cannot see a region that stays on the background. Everything follows from (clips, kind, seed).
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Frame, Image, Mask
from ureca.errors import SourceError

KINDS = ("leaves", "pillar", "covered", "stops", "twins")
WIDTH, HEIGHT, FPS = 320, 180, 24
_FRAMES = 96
_SIDE_PX = 70
"""Longest side of a sprite."""
_MIN_SHARE = 0.01
"""A true mask below this share of its picture is too coarse for a sprite."""

F32 = npt.NDArray[np.float32]
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CutOut:
    """A thing cut out of a clip: RGB f32 [h, w, 3] and cover f32 [h, w], one of each a step."""

    rgb: tuple[F32, ...]
    cover: tuple[F32, ...]

    def step(self, number: int) -> tuple[F32, F32]:
        """The look of step `number`; it goes forward and backward through all of them."""
        last = len(self.rgb) - 1
        at = number % max(1, 2 * last)
        at = min(at, 2 * last - at)
        return self.rgb[at], self.cover[at]


@dataclass(slots=True)
class GeneratedClip:
    """Frames, and by region id the visible mask bool [H, W] and the visible share 0..1 on each."""

    name: str
    frames: list[Frame] = field(default_factory=list)
    truths: dict[str, list[Mask]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One thing of a scene: the place of its top left corner on each frame, and an id when it is
    followed.
    """

    sprite: CutOut
    places: Sequence[Place]
    rid: str = ""


def generate(clips: Sequence[Path], kind: str, seed: int) -> GeneratedClip:
    """The clip of `kind` and `seed` out of `clips`, tars of `frames/*` and `masks/*.png`. Raises
    `SourceError` when one of them has not both.
    """
    random = np.random.default_rng([seed, KINDS.index(kind)])
    one, other = random.choice(len(clips), 2, replace=False)
    sprite = _read_sprite(clips[int(one)], random)
    background = _read_background(clips[int(other)], random)
    things, occluders = _SCENES[kind](sprite, background, random)
    clip = GeneratedClip(f"{kind}-{seed}")
    noise = float(random.choice([0.0, 2.0, 4.0]))
    for number in range(_FRAMES):
        picture = _draw(clip, number, background, [*things, *occluders])
        if noise:
            picture += random.normal(0, noise, picture.shape).astype(np.float32)
        image = np.asarray(picture.round().clip(0, 255), np.uint8)
        at_ns = 1 + round(number * 1e9 / FPS)
        clip.frames.append(Frame(clip.name, bytes(16), number, at_ns, image))
    return clip


# --- pictures ------------------------------------------------------------------------------------


def _read_sprite(path: Path, random: np.random.Generator) -> CutOut:
    """Some looks in a row of the clip's object, all at one scale; half of the time only one."""
    with tarfile.open(path) as archive:
        names = _names(archive, "masks/")
        start, count = int(random.integers(len(names))), int(random.choice([1, 8]))
        chosen = names[start : start + count]
        masks = [_decode(archive, name, cv2.IMREAD_GRAYSCALE) > 0 for name in chosen]
        if min(mask.mean() for mask in masks) < _MIN_SHARE:
            chosen, masks = names[:1], [_decode(archive, names[0], cv2.IMREAD_GRAYSCALE) > 0]
        frames = _names(archive, "frames/")
        pictures = [_decode(archive, frames[names.index(name)]) for name in chosen]
    boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    height, width = max(box[3] for box in boxes), max(box[2] for box in boxes)
    scale = _SIDE_PX * float(random.uniform(0.6, 1.3)) / max(height, width)
    looks = [
        _cut(picture, mask, box, (height, width), scale)
        for picture, mask, box in zip(pictures, masks, boxes, strict=True)
    ]
    return CutOut(tuple(look[0] for look in looks), tuple(look[1] for look in looks))


def _cut(
    picture: Image, mask: Mask, box: Sequence[int], size: tuple[int, int], scale: float
) -> tuple[F32, F32]:
    """The object, bottom centre on one point of all looks, at `scale`."""
    x, y, width, height = box
    left, top = (size[1] - width) // 2, size[0] - height
    rgb, cover = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    rgb[top:, left : left + width] = picture[y : y + height, x : x + width]
    cover[top:, left : left + width] = mask[y : y + height, x : x + width]
    small = (max(8, round(size[1] * scale)), max(8, round(size[0] * scale)))
    soft = np.asarray(cv2.resize(cover, small, interpolation=cv2.INTER_AREA), np.float32)
    weighted = cv2.resize(rgb * cover[..., None], small, interpolation=cv2.INTER_AREA)
    return np.asarray(weighted / np.maximum(soft, 1e-3)[..., None], np.float32), soft


def _read_background(path: Path, random: np.random.Generator) -> F32:
    with tarfile.open(path) as archive:
        names = _names(archive, "frames/")
        picture = _decode(archive, names[int(random.integers(len(names)))])
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _names(archive: tarfile.TarFile, folder: str) -> list[str]:
    names = sorted(
        member.name
        for member in archive.getmembers()
        if member.isfile() and member.name.startswith(folder)
    )
    if not names:
        raise SourceError(f"{archive.name!r}: expected files in {folder}, there are none")
    return names


def _decode(archive: tarfile.TarFile, name: str, flags: int = cv2.IMREAD_COLOR_RGB) -> Image:
    file = archive.extractfile(name)
    data = np.frombuffer(b"" if file is None else file.read(), np.uint8)
    picture = cv2.imdecode(data, flags) if len(data) else None
    if picture is None:
        raise SourceError(f"{archive.name!r}: {name} is no picture")
    return np.asarray(picture, np.uint8)


# --- scenes --------------------------------------------------------------------------------------

Scene = tuple[list[_Layer], list[_Layer]]
"""Layers that are drawn from back to front, the followed ones first; and occluders over them."""


def _leaves(sprite: CutOut, _: F32, random: np.random.Generator) -> Scene:
    """It walks out of the picture; every other time it comes back the same way."""
    height, width = sprite.cover[0].shape
    speed, goes_right = random.uniform(1.5, 5.0), random.random() < 0.5
    start = random.uniform(0.3, 0.5) * (WIDTH - width)
    way = (start + width + 4) / speed
    away, returns = random.integers(12, 40), random.random() < 0.5
    xs = []
    for number in range(_FRAMES):
        back = max(0.0, number - way - away) if returns else 0.0
        xs.append(start - speed * (min(number, way) - back))
    xs = [WIDTH - width - x if goes_right else x for x in xs]
    y = _ground(height, random)
    return [_Layer(sprite, [(x, y) for x in xs], "object")], []


def _pillar(sprite: CutOut, background: F32, random: np.random.Generator) -> Scene:
    """It walks behind a pillar wider than itself, waits there or not, and comes out again."""
    height, width = sprite.cover[0].shape
    speed = random.uniform(2.0, 5.0)
    pillar = _pillar_of(width * random.uniform(1.05, 1.4), background, random)
    left = (WIDTH - pillar.cover[0].shape[1]) / 2
    hidden_at = left + 2 - (left - width - 10)
    wait, turns = int(random.integers(0, 25)), random.random() < 0.3
    xs = []
    for number in range(_FRAMES):
        walked = speed * number
        if walked > hidden_at:
            walked = hidden_at + max(0.0, walked - hidden_at - speed * wait)
        if turns and walked > hidden_at:
            walked = hidden_at - (walked - hidden_at)
        xs.append(left - width - 10 + walked)
    if random.random() < 0.5:
        xs = [WIDTH - width - x for x in xs]
    y = _ground(height, random)
    things = [_Layer(sprite, [(x, y) for x in xs], "object")]
    return things, [_Layer(pillar, [(left, 0.0)] * _FRAMES)]


def _covered(sprite: CutOut, background: F32, random: np.random.Generator) -> Scene:
    """It stands still; something wider passes in front of it and may stop there for a while."""
    height, width = sprite.cover[0].shape
    x, y = random.uniform(0.35, 0.5) * WIDTH - width / 2, _ground(height, random)
    panel = _pillar_of(width * random.uniform(1.2, 1.6), background, random)
    wide = panel.cover[0].shape[1]
    speed, wait = random.uniform(3.0, 6.0), int(random.integers(5, 30))
    stop = x + width / 2 - wide / 2
    places = []
    for number in range(_FRAMES):
        at = -wide + speed * max(0, number - 6)
        if at > stop:
            at = stop + max(0.0, at - stop - speed * wait)
        places.append((at, 0.0))
    still = CutOut(sprite.rgb[:1], sprite.cover[:1])
    return [_Layer(still, [(x, y)] * _FRAMES, "object")], [_Layer(panel, places)]


def _stops(sprite: CutOut, _: F32, random: np.random.Generator) -> Scene:
    """It walks, stands, and walks on: nothing is ever absent."""
    height, width = sprite.cover[0].shape
    speed = random.uniform(1.0, 3.5)
    begin, wait = int(random.integers(8, 25)), int(random.integers(15, 40))
    room = WIDTH - width - 8
    xs = []
    for number in range(_FRAMES):
        walked = min(number, begin) + max(0, number - begin - wait)
        xs.append(4 + min(room, speed * walked))
    if random.random() < 0.5:
        xs = [WIDTH - width - x for x in xs]
    y = _ground(height, random)
    still = CutOut(sprite.rgb[:1], sprite.cover[:1])
    return [_Layer(still, [(x, y) for x in xs], "object")], []


def _twins(sprite: CutOut, _: F32, random: np.random.Generator) -> Scene:
    """Two of it cross; every other time they are shaded balls."""
    if random.random() < 0.5:
        sprite = _ball(random)
    height, width = sprite.cover[0].shape
    speed, slower = random.uniform(1.5, 3.5), random.uniform(0.6, 1.0)
    y, lower = _ground(height, random), random.uniform(-4, 4)
    right = WIDTH - width - 10
    one = [(10 + min(right, speed * n), y) for n in range(_FRAMES)]
    other = [(right - min(right - 10, speed * slower * n), y + lower) for n in range(_FRAMES)]
    return [_Layer(sprite, other, "other"), _Layer(sprite, one, "object")], []


def _ground(height: int, random: np.random.Generator) -> float:
    return float(random.uniform(0.5, 0.9) * (HEIGHT - height))


def _pillar_of(width: float, background: F32, random: np.random.Generator) -> CutOut:
    """A pillar of the picture's height: plain, or a piece of the picture itself, turned over."""
    wide = min(WIDTH - 120, int(width))
    if random.random() < 0.5:
        rgb = np.empty((HEIGHT, wide, 3), np.float32)
        rgb[:] = background.reshape(-1, 3)[int(random.integers(WIDTH * HEIGHT))]
    else:
        left = int(random.integers(WIDTH - wide))
        rgb = np.ascontiguousarray(background[::-1, left : left + wide])
    return CutOut((rgb,), (np.ones((HEIGHT, wide), np.float32),))


def _ball(random: np.random.Generator) -> CutOut:
    side = int(random.integers(24, 56))
    ys, xs = np.mgrid[:side, :side].astype(np.float32) * 2 / (side - 1) - 1
    cover = np.clip((1 - np.hypot(ys, xs)) * side / 2, 0, 1).astype(np.float32)
    light = np.clip(1 - 0.6 * np.hypot(ys + 0.4, xs + 0.4), 0.1, 1)[..., None]
    return CutOut(((light * random.uniform(40, 255, 3)).astype(np.float32),), (cover,))


_SCENES = {
    "leaves": _leaves,
    "pillar": _pillar,
    "covered": _covered,
    "stops": _stops,
    "twins": _twins,
}


# --- drawing -------------------------------------------------------------------------------------


def _draw(clip: GeneratedClip, number: int, background: F32, layers: Sequence[_Layer]) -> F32:
    """The picture f32 [H, W, 3] of frame `number`, layers from back to front; notes what of each
    followed thing can be seen.
    """
    picture = background.copy()
    covers: list[tuple[str, F32, float]] = []
    for layer in layers:
        rgb, cover = layer.sprite.step(number // 2)
        placed = _placed(np.dstack([rgb * cover[..., None], cover]), layer.places[number])
        alpha = placed[..., 3]
        picture = picture * (1 - alpha[..., None]) + placed[..., :3]
        covers = [(rid, seen * (1 - alpha), whole) for rid, seen, whole in covers]
        covers.append((layer.rid, alpha, float((cover > 0.5).sum())))
    for rid, seen, whole in covers:
        if rid:
            mask = np.asarray(seen > 0.5, np.bool_)
            clip.truths.setdefault(rid, []).append(mask)
            clip.shares.setdefault(rid, []).append(float(mask.sum()) / max(1.0, whole))
    return picture


def _placed(pixels: F32, place: Place) -> F32:
    """`pixels` f32 [h, w, C] at `place` (x, y) on an empty picture, to a part of a pixel."""
    shift = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float64)
    moved = cv2.warpAffine(pixels, shift, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return np.asarray(moved, np.float32)
