"""Draws sampled regions as small images: the mask's outline bright, everything else slightly
darker.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ureca.datatypes import Image, Mask
from ureca.models.evaluation.measures.scores import ScoredCaption

_SIDE_PX = 340
_QUALITY = 82
_DIM = 0.62
_OUTLINE = (255, 214, 10)


def draw_outline(image: Image, mask: Mask) -> Image:
    """Return the image u8 [H, W, 3], enlarged to its report size, with the mask's outline."""
    scale = _SIDE_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    inside = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    drawn = np.where(inside[..., None] > 0, picture, (picture * _DIM).astype(np.uint8))
    lines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas = np.ascontiguousarray(drawn)
    cv2.drawContours(canvas, lines, -1, (0, 0, 0), 4)
    cv2.drawContours(canvas, lines, -1, _OUTLINE, 2)
    return np.asarray(canvas, np.uint8)


def encode_data_uri(image: Image) -> str:
    """Encode an image u8 [H, W, 3] RGB as a JPEG inside a URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def sample_regions(
    scored: Sequence[ScoredCaption],
    wanted: Callable[[ScoredCaption], bool],
    count: int,
    *,
    seed: int,
) -> list[ScoredCaption]:
    """Sample at most `count` regions of the wanted sort, by the seed, from different images."""
    order = np.random.default_rng(seed).permutation(len(scored))
    drawn: dict[str, ScoredCaption] = {}
    for index in order:
        item = scored[index]
        if wanted(item):
            drawn.setdefault(item.case.image_key, item)
        if len(drawn) == count:
            break
    return list(drawn.values())
