"""Procedural pictures for surfaces. Every function returns uint8 RGB of shape (n, n, 3)."""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ureca.models.data.synthetic.objects.palette import Rgb

Texture = NDArray[np.uint8]
Field = NDArray[np.float64]
Generator = np.random.Generator

WOOD_TONES: Final = MappingProxyType(
    {
        "oak": ((0.80, 0.64, 0.45), (0.66, 0.48, 0.30)),
        "beech": ((0.86, 0.71, 0.53), (0.76, 0.58, 0.39)),
        "teak": ((0.66, 0.45, 0.26), (0.48, 0.29, 0.14)),
        "mahogany": ((0.50, 0.26, 0.16), (0.35, 0.16, 0.09)),
        "walnut": ((0.47, 0.33, 0.22), (0.31, 0.20, 0.13)),
    }
)
"""Light and dark colour of each wood. No training view shows walnut."""


def _to_texture(picture: Field) -> Texture:
    return np.clip(picture * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _blend(first: Rgb | Field, second: Rgb | Field, weight: Field) -> Field:
    share = weight[..., None]
    return np.asarray(first) * (1.0 - share) + np.asarray(second) * share


def noise(rng: Generator, n: int, *, cells: tuple[int, int] = (4, 4), octaves: int = 4) -> Field:
    """Smooth noise in 0..1 of shape (n, n); cells are the coarsest (rows, columns)."""
    total = np.zeros((n, n))
    for octave in range(octaves):
        rows, columns = (min(n, max(2, c * 2**octave)) for c in cells)
        layer = rng.normal(size=(rows, columns))
        total += cv2.resize(layer, (n, n), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def _plank(rng: Generator, n: int, tone: str) -> Field:
    """One board (n, n, 3) with the grain along the columns."""
    light, dark = WOOD_TONES[tone]
    bend = noise(rng, n, cells=(6, 2), octaves=4)
    rows = np.linspace(0.0, rng.uniform(1.0, 4.0), n)[:, None]
    rings = np.sin((bend * rng.uniform(3, 8) + rows) * np.pi * 2) * 0.5 + 0.5
    fibre = noise(rng, n, cells=(64, 3), octaves=3)
    return _blend(light, dark, np.clip(rings * 0.5 + fibre * 0.5, 0, 1)) * rng.uniform(0.92, 1.06)


def wood(rng: Generator, tone: str, *, n: int = 256, planks: int = 1) -> Texture:
    """Wood of a named tone; several planks are laid side by side with dark joints."""
    picture = np.zeros((n, n, 3))
    edges = np.linspace(0, n, planks + 1).astype(int)
    for top, bottom in pairwise(edges.tolist()):
        picture[top:bottom] = _plank(rng, n, tone)[: bottom - top]
        if planks > 1:
            picture[top : top + max(1, n // 200)] *= 0.5
    return _to_texture(picture)


def mottled(rng: Generator, colour: Rgb, *, n: int = 128, strength: float = 0.06) -> Texture:
    """A plain colour with faint patches, as on paint, fruit or felt."""
    patches = noise(rng, n, cells=(6, 6), octaves=4)[..., None] - 0.5
    return _to_texture(np.asarray(colour) * (1.0 + 2.0 * strength * patches))


def stripes(first: Rgb, second: Rgb, *, count: int, n: int = 128, upright: bool = False) -> Texture:
    """Even stripes; upright stripes run along the second texture axis."""
    band = (np.arange(n) * count * 2 // n % 2).astype(np.float64)
    weight = np.tile(band[:, None], (1, n))
    return _to_texture(_blend(first, second, weight.T if upright else weight))


def checks(first: Rgb, second: Rgb, *, count: int, n: int = 128) -> Texture:
    """A chequer board of count x count pairs."""
    cell = np.arange(n) * count * 2 // n % 2
    return _to_texture(_blend(first, second, (cell[:, None] ^ cell[None]).astype(np.float64)))


def dots(first: Rgb, second: Rgb, *, count: int, n: int = 192) -> Texture:
    """Polka dots of the second colour, every other row shifted by half a step."""
    y, x = np.mgrid[0:n, 0:n] / n * count
    shifted = (x + 0.5 * (y.astype(int) % 2)) % 1 - 0.5
    return _to_texture(
        _blend(first, second, ((y % 1 - 0.5) ** 2 + shifted**2 < 0.07).astype(float))
    )


def zigzag(first: Rgb, second: Rgb, *, count: int, n: int = 192) -> Texture:
    """Chevron bands (a held-back pattern)."""
    y, x = np.mgrid[0:n, 0:n] / n * count
    wave = np.abs(x % 1 - 0.5) + y
    return _to_texture(_blend(first, second, (wave % 1 < 0.5).astype(float)))


def tablecloth(rng: Generator, first: Rgb, second: Rgb, *, n: int = 256) -> Texture:
    """Gingham: crossing half-tone bands with a fine weave."""
    count = int(rng.integers(7, 12))
    band = (np.arange(n) * count * 2 // n % 2).astype(np.float64)
    weave = 1.0 + 0.05 * rng.standard_normal((n, n, 1))
    return _to_texture(_blend(first, second, (band[:, None] + band[None]) / 2) * weave)


def tiles(rng: Generator, colour: Rgb, *, count: int, n: int = 256) -> Texture:
    """Square tiles with light grout."""
    steps = rng.uniform(0.94, 1.03, (count, count))
    shade = cv2.resize(steps, (n, n), interpolation=cv2.INTER_NEAREST).astype(np.float64)
    picture: Field = np.asarray(colour, dtype=np.float64) * shade[..., None]
    joint = np.arange(n) * count % n < max(3, n // 90) * count / 2
    picture[joint] = picture[:, joint] = (0.72, 0.7, 0.67)
    return _to_texture(picture)


def bricks(rng: Generator, *, rows: int = 10, n: int = 384) -> Texture:
    """Red-brown bricks in running bond with pale mortar."""
    y, x = np.mgrid[0:n, 0:n] / n
    row = (y * rows).astype(int)
    along = (x * rows / 2 + 0.5 * (row % 2)) % (rows / 2)
    shade = rng.uniform(0.78, 1.08, (rows + 1, rows + 1))[row, along.astype(int)]
    picture = (
        np.array((0.62, 0.32, 0.24))
        * (shade * (0.9 + 0.2 * noise(rng, n, cells=(30, 30))))[..., None]
    )
    mortar = (y * rows % 1 < 0.1) | (along % 1 < 0.045)
    picture[mortar] = (0.74, 0.71, 0.67)
    return _to_texture(picture)


def panels(colour: Rgb, *, count: int = 8, n: int = 256) -> Texture:
    """Upright wall panels with dark grooves (a held-back wall)."""
    picture: Field = np.tile(np.asarray(colour, dtype=np.float64), (n, n, 1))
    phase = np.arange(n) * count % n
    picture[:, phase < count * 3] *= 0.7
    return _to_texture(picture)


def steel(*, n: int = 128) -> Texture:
    """Polished metal: soft bright and dark bands as of a reflected room, finely brushed."""
    rng = np.random.default_rng(7)
    rows, columns = noise(rng, n, cells=(5, 3), octaves=2), noise(rng, n, cells=(3, 5), octaves=2)
    bands = np.clip((rows + columns - 1.0) * 1.6 + 0.5, 0, 1)
    brushed = rng.normal(1.0, 0.03, (n, 1))
    return _to_texture(_blend((0.24, 0.25, 0.27), (0.93, 0.94, 0.96), bands) * brushed[..., None])


def marble(rng: Generator, *, n: int = 256) -> Texture:
    """White marble with gray veins."""
    wave = noise(rng, n, cells=(3, 3), octaves=6) * 4 + noise(rng, n, cells=(2, 2), octaves=2) * 2
    veins = 1.0 - np.abs(np.sin(wave * np.pi)) ** 0.3
    return _to_texture(_blend((0.93, 0.92, 0.9), (0.45, 0.46, 0.48), np.clip(veins * 1.3, 0, 1)))


def printed_label(rng: Generator, paper: Rgb, ink: Rgb, *, n: int = 192) -> Texture:
    """A paper label: a narrow band, an invented word and a few lines of small print."""
    picture = _to_texture(np.tile(np.asarray(paper, dtype=np.float64), (n, n, 1)))
    colour = tuple(int(255 * channel) for channel in ink)
    picture[int(n * 0.08) : int(n * 0.16)] = colour
    word = "".join(rng.choice(list("BDFKLMNRSTV")) + rng.choice(list("AEIOU")) for _ in range(3))
    cv2.putText(picture, word, (n // 6, n // 2), cv2.FONT_HERSHEY_DUPLEX, n / 190, colour, 2)
    for line in range(3):
        y = int(n * (0.66 + 0.08 * line))
        cv2.line(picture, (n // 5, y), (int(n * rng.uniform(0.6, 0.85)), y), colour, 2)
    # Texture rows start at the bottom of a mesh, picture rows at the top.
    return np.ascontiguousarray(picture[::-1])
