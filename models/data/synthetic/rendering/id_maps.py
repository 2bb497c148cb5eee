"""What lies at every pixel of a rendered view, as a small PNG and a list of the pieces in it."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from ureca.models.data.synthetic.rendering.render import Ids
from ureca.models.data.synthetic.scenes.world import NOTHING, World

MAX_PIECES: Final = 255
"""A map has one byte a pixel; 0 is nothing."""


def list_pieces(world: World, ids: Ids) -> tuple[bytes, list[dict[str, Any]]]:
    """An 8-bit grey PNG [H, W] of an id map, and what its values stand for.

    Every row has `n` (the value), `thing` (node of the item, or name of the backdrop) and, for
    parts of items, `part`. Nodes are those of region ids: `<image_key>_<node>`. When more than 255
    pieces are seen, the smallest become 0.
    """
    numbers, counts = np.unique(ids[ids != NOTHING], return_counts=True)
    kept = np.sort(numbers[np.argsort(-counts, kind="stable")[:MAX_PIECES]])
    table = np.zeros(len(world.pieces) + 1, np.uint8)
    table[kept] = np.arange(1, len(kept) + 1)
    coded = np.where(ids == NOTHING, np.uint8(0), table[ids])
    rows = [_make_row(world, n, int(piece)) for n, piece in enumerate(kept, 1)]
    return bytes(cv2.imencode(".png", coded)[1]), rows


def _make_row(world: World, n: int, number: int) -> dict[str, Any]:
    piece = world.pieces[number]
    if piece.item is None:
        return {"n": n, "thing": world.scene.backdrops[piece.part].name}
    return {"n": n, "thing": f"o{piece.item}", "part": f"o{piece.item}p{piece.part}"}
