"""A soft mask's outline moved to the edges of the picture, by two rounds of GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask

_SIDE_PX = 240
_ROUNDS = 2
_SURE, _OUT = 0.97, 0.03
F32 = npt.NDArray[np.float32]


def tidy(
    image: Image, soft: F32, *, box_xyxy_px: tuple[float, float, float, float] | None = None
) -> Mask:
    """The mask bool [H, W] of a soft mask f32 [H, W] 0..1 over `image` u8 [H, W, 3].

    What is surer than .97 stays in, what is below .03 or outside the box stays out; GrabCut decides
    the rest at 240 px. Where it finds nothing, or nothing is left to decide, the soft mask at .5 is
    the answer.
    """
    height, width = soft.shape
    plain = np.asarray(soft > 0.5, np.bool_)
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    likely = cv2.resize(soft, size, interpolation=cv2.INTER_AREA)
    labels = np.where(likely > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[likely > _SURE] = cv2.GC_FGD
    labels[likely < _OUT] = cv2.GC_BGD
    if box_xyxy_px is not None:
        inside = np.zeros(labels.shape, bool)
        x0, y0, x1, y1 = (round(side * scale) for side in box_xyxy_px)
        inside[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = True
        labels[~inside] = cv2.GC_BGD
    kinds = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if kinds.all() or not kinds.any():
        return plain
    try:
        # GrabCut draws from OpenCV's generator; the same picture must give the same mask.
        cv2.setRNGSeed(0)
        below, above = np.zeros((1, 65)), np.zeros((1, 65))  # GrabCut's own memory
        cv2.grabCut(small, labels, (0, 0, 1, 1), below, above, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return plain
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not found.any():
        return plain
    grown = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown > 0.5, np.bool_)
