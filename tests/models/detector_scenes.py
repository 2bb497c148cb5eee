"""Scenes of coloured rectangles, and what a detector of `detector_graphs` should find in them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.detector_graphs import (
    SCORES,
)
from ureca.models.runtime.segmentation.detectors.config import (
    make_detector_config,
)
from ureca.models.runtime.segmentation.detectors.onnx_detector import (
    OnnxDetector,
)

NAMES = ("red", "green", "blue")
PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1]}
"""The test's networks expect channels 0..1."""
SIZES = [(77, 131), (131, 77), (64, 96), (240, 321)]
SHARES = {
    "red": (0.1, 0.15, 0.45, 0.6),
    "green": (0.5, 0.1, 0.9, 0.5),
    "blue": (0.55, 0.6, 0.95, 0.95),
}
"""Boxes xyxy of the coloured things, as shares of the image's sides."""


def boxes_of(size):
    height, width = size
    return {
        name: tuple(
            round(share * side) for share, side in zip(box, (width, height) * 2, strict=True)
        )
        for name, box in SHARES.items()
    }


def picture(size, *, without=()):
    image = np.full((*size, 3), 20, np.uint8)
    for channel, (name, (x0, y0, x1, y1)) in enumerate(boxes_of(size).items()):
        if name not in without:
            image[y0:y1, x0:x1] = 0
            image[y0:y1, x0:x1, channel] = 255
    return image


def truth(size, name):
    x0, y0, x1, y1 = boxes_of(size)[name]
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def iou(one, other):
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def opened(path, layout, **more):
    return OnnxDetector(path, make_detector_config({"layout": layout, **more}))


def check_found(detector, size, *, names=NAMES, least=0.8):
    """All three things, best score first, as masks in pixels of the image."""
    found = detector.everything(detector.encode(picture(size)))
    assert [one.label for one in found] == list(names)
    assert [one.score for one in found] == pytest.approx(SCORES, abs=0.05)
    for one, colour in zip(found, NAMES, strict=True):
        assert iou(one.mask(size), truth(size, colour)) > least, (colour, size)
        assert max(one.logits.shape) <= 512
