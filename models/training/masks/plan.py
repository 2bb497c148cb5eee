"""Which pictures and masks every step learns from, and how they are turned into arrays.

Everything random is drawn by generators seeded with (seed, epoch): the plan of an epoch is a pure
function, and every visit carries a seed of its own for what is cut and drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask, Rle
from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.runtime.segmentation.canvas import GREY, normalise, place
from ureca.models.runtime.segmentation.mask_selection import find_innermost_pixel
from ureca.models.training.loop import Plan
from ureca.models.training.masks.config import MaskTrainConfig
from ureca.models.training.masks.samples import FREE, MaskedPicture
from ureca.protocol import rle

F32 = npt.NDArray[np.float32]
MAP_STRIDE = 4
_LEAST_PX = 16
"""Masks with fewer pixels in the window are left out."""
_INNERMOST = 0.3
_BOX_NOISE = 0.06


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at a picture (its place in the plan); `seed` decides the window and the clicks. A
    seed of 0 looks at the whole picture, unchanged, clicked in the middle.
    """

    picture: int
    seed: int


@dataclass(frozen=True, slots=True)
class MaskBatch:
    """B pictures with K masks each; masks of weight 0 are padding.

    `pixels` f32 [B, 3, H, W]; `targets` f32 [B, K, H/4, W/4] 0..1; `points_px` f32 [B, K, 2];
    `boxes_px` f32 [B, K, 4]; `slots` i64 [B, K]; `weights` f32 [B, K].
    """

    pixels: F32
    targets: F32
    points_px: F32
    boxes_px: F32
    slots: npt.NDArray[np.int64]
    weights: F32


class MaskPlan(Plan[Visit]):
    """Epochs of visits, `share` visits a picture."""

    def __init__(
        self, pictures: Sequence[MaskedPicture], images: ImageStore, config: MaskTrainConfig
    ) -> None:
        self.pictures, self._images, self._config = pictures, images, config

    def epoch(self, epoch: int) -> list[list[Visit]]:
        """Batches of one epoch, a pure function of (seed, epoch). Raises `ConfigError` when an
        epoch has no whole batch.
        """
        rng = random.Random(f"{self._config.seed}/{epoch}")
        visits = [Visit(n, rng.getrandbits(32) | 1) for n in self._draw_visits(rng)]
        rng.shuffle(visits)
        size = self._config.images_per_step
        batches = [visits[n : n + size] for n in range(0, len(visits) - size + 1, size)]
        if not batches:
            raise ConfigError(
                f"{len(visits)} visits an epoch do not fill a batch of {size}: give more data or a "
                "larger `share`"
            )
        return batches

    def _draw_visits(self, rng: random.Random) -> Iterator[int]:
        for number, picture in enumerate(self.pictures):
            share = self._config.data[picture.source].share
            yield from itertools.repeat(number, int(share) + (rng.random() < share % 1))

    def collate(self, visits: Sequence[Visit]) -> MaskBatch:
        """Visits to arrays."""
        rows = [self._make_row(self.pictures[visit.picture], visit.seed) for visit in visits]
        return MaskBatch(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _make_row(self, picture: MaskedPicture, seed: int) -> tuple[npt.NDArray[np.generic], ...]:
        config = self._config
        rng = np.random.default_rng(seed)
        window = config.window_px if seed else config.model.canvas_px
        view = _draw_view(rng, picture, config) if seed else _view_whole(picture, window)
        pixels = warp_picture(self._images.read(picture.image_key), view, window)
        if seed:
            pixels = jitter(pixels, rng)
        masks = _Masks(config.masks_per_image, window)
        order = rng.permutation(len(picture.masks)) if seed else np.arange(len(picture.masks))
        for number in order:
            if masks.full:
                break
            sample = picture.masks[number]
            mask = rle.decode(Rle(size=picture.size, counts=sample.counts))
            masks.add(
                warp_mask(mask, view, window), sample.slot, sample.weight, rng if seed else None
            )
        return normalise(pixels), *masks.arrays()


class _Masks:
    """The K rows of one picture in the making."""

    def __init__(self, count: int, window: tuple[int, int]) -> None:
        height, width = window[0] // MAP_STRIDE, window[1] // MAP_STRIDE
        self._next = 0
        self._targets = np.zeros((count, height, width), np.float32)
        self._points = np.zeros((count, 2), np.float32)
        self._boxes = np.tile(np.array([0, 0, 8, 8], np.float32), (count, 1))
        self._slots = np.full(count, FREE, np.int64)
        self._weights = np.zeros(count, np.float32)

    @property
    def full(self) -> bool:
        return self._next == len(self._weights)

    def add(
        self, mask: npt.NDArray[np.uint8], slot: int, weight: float, rng: np.random.Generator | None
    ) -> None:
        if cv2.countNonZero(mask) < _LEAST_PX:
            return
        n, self._next = self._next, self._next + 1
        size = self._targets.shape[2], self._targets.shape[1]
        self._targets[n] = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        self._points[n] = draw_point(mask, rng)
        x, y, width, height = cv2.boundingRect(mask)
        box = np.array([x, y, x + width, y + height], np.float32)
        if rng is not None:
            noise = rng.normal(0, _BOX_NOISE, 4).clip(-0.15, 0.15)
            box += (noise * np.array([width, height, width, height])).astype(np.float32)
        self._boxes[n], self._slots[n], self._weights[n] = box, slot, weight

    def arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self._targets, self._points, self._boxes, self._slots, self._weights


def draw_point(mask: npt.NDArray[np.uint8], rng: np.random.Generator | None) -> F32:
    """A pixel's centre (x, y) in a mask that is not empty: the innermost one for some draws and
    without a generator, else any.
    """
    if rng is None or rng.random() < _INNERMOST:
        return np.array(find_innermost_pixel(mask > 0), np.float32)
    rows, columns = np.nonzero(mask)
    n = int(rng.integers(len(rows)))
    return np.array([columns[n] + 0.5, rows[n] + 0.5], np.float32)


View = npt.NDArray[np.float64]
"""Matrix [2, 3]: pixels of the picture to pixels of the window."""


def _draw_view(rng: np.random.Generator, picture: MaskedPicture, config: MaskTrainConfig) -> View:
    fitted = place(picture.size, config.model.canvas_px).scale
    low, high = np.log(config.scale)
    scale = fitted * float(np.exp(rng.uniform(low, high)))
    # Where the picture is larger than the window the window lies inside it, and the other way.
    free = [w - side * scale for w, side in zip(config.window_px, picture.size, strict=True)]
    top, left = (float(rng.uniform(min(f, 0), max(f, 0))) for f in free)
    mirrored = rng.random() < 0.5
    across = -scale if mirrored else scale
    left += scale * picture.size[1] if mirrored else 0.0
    return np.array([[across, 0, left], [0, scale, top]])


def _view_whole(picture: MaskedPicture, window: tuple[int, int]) -> View:
    scale = place(picture.size, window).scale
    return np.array([[scale, 0, 0], [0, scale, 0]])


def _centre_pixels(view: View) -> View:
    """The same map for pixel indices, whose centres are at +.5."""
    moved = view.copy()
    moved[:, 2] += view[:, :2].sum(1) / 2 - 0.5
    return moved


def warp_picture(
    image: npt.NDArray[np.uint8], view: View, window: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """A picture u8 [H, W, 3] seen through a view; grey beyond it. Averaged before it shrinks."""
    scale = abs(view[1, 1])
    if scale < 0.75:
        small = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        factors = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        view = np.column_stack((view[:, :2] * factors, view[:, 2]))
    warped = cv2.warpAffine(
        image,
        _centre_pixels(view),
        window[::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(GREY, GREY, GREY),
    )
    return np.asarray(warped, np.uint8)


def warp_mask(mask: Mask, view: View, window: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A mask bool [H, W] seen through a view: u8 0/1 of the window's size."""
    grey = cv2.warpAffine(
        mask.view(np.uint8) * np.uint8(255),
        _centre_pixels(view),
        window[::-1],
        flags=cv2.INTER_LINEAR,
    )
    return (grey > 127).astype(np.uint8)


def jitter(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Other light: gain and offset of every channel, drawn together and a little apart."""
    gain = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.06, 3))
    offset = rng.normal(0, 8) + rng.normal(0, 4, 3)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table[None]), np.uint8)
