"""Segments of a frame of 32 x 24 as the node publishes them: a cup on a table before a wall."""

from __future__ import annotations

import numpy as np

from ureca.node.segmentation.keyframe_segments import encode_ids
from ureca.protocol.events import NamedSegment, Panoptic

CAPTURED_NS = 12_000_000_034
SIZE = (24, 32)
ROWS = (
    NamedSegment(n=3, rid="cup", kind="thing", share=0.1, caption="a red cup"),
    NamedSegment(n=7, rid="table", kind="stuff", share=0.4, caption="a wooden table"),
    NamedSegment(n=2, rid="r9", kind="stuff", share=0.3),
)


def make_ids(*, cup_x: int = 4) -> np.ndarray:
    """The id map u8 [12, 16]: a wall, a table, a cup, and a rest at the right."""
    ids = np.zeros((12, 16), np.uint8)
    ids[:6, :12], ids[6:, :12] = 2, 7
    ids[4:8, cup_x : cup_x + 3] = 3
    return ids


def make_event(rows: tuple[NamedSegment, ...] = ROWS, *, seq: int = 7, **more: object) -> Panoptic:
    """The event of frame `seq`; `more` are other fields of it, also `ids`."""
    ids = np.asarray(more.pop("ids", make_ids()), np.uint8)
    fields = {"png": encode_ids(ids), "stream": "cam0", "captured_ns": CAPTURED_NS, **more}
    return Panoptic(seq=seq, width=SIZE[1], height=SIZE[0], segments=rows, **fields)
