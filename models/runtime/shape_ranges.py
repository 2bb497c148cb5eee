"""How small and how large each free dimension of a graph may get, from the model's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ureca.bundle import TensorSpec
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graph_names import LM

Range = tuple[int, int, int]
"""Least, likeliest and largest size of a free dimension."""
Ranges = Mapping[str, Range]


def own_slots(config: CaptionerConfig) -> int:
    """Length of a fixed own cache: region tokens, the start token and the longest caption."""
    return config.regions.tokens(max_tiles(config)) + 1 + config.language.max_new_tokens


def max_tiles(config: CaptionerConfig) -> int:
    """Tiles of the largest picture, its thumbnail included."""
    return config.vision.max_tiles + (config.vision.max_tiles > 1)


def profiles(name: str, config: CaptionerConfig, *, max_regions: int) -> tuple[Ranges, ...]:
    """Ranges of a graph's dimensions. `lm` has two: the prefix pass, and everything after it."""
    tiles = max_tiles(config)
    image, slots = config.vision.tokens_per_tile * tiles, own_slots(config)
    prompt = config.regions.tokens(tiles) + 1
    common: Ranges = {
        "T": (1, 1, tiles),
        "K": (1, prompt - 1, prompt - 1),
        "N": (1, min(8, max_regions), max_regions),
        "M": (1, min(8, max_regions), max_regions),
        "Q": (1, 1, prompt),
        "P": (0, image, image),
        "S": (0, min(16, slots), slots),
    }
    if name != LM:
        return (common,)
    least = config.vision.tokens_per_tile
    return ({"N": (1, 1, 1), "Q": (least, image, image), "P": (0, 0, 0), "S": (0, 0, 0)}, common)


def joined(ranges: Sequence[Ranges]) -> Ranges:
    """One profile that holds all of `ranges`, for runtimes that know only one; the last says what
    is likeliest.
    """
    return {
        d: (min(r[d][0] for r in ranges if d in r), last[1], max(r[d][2] for r in ranges if d in r))
        for d, last in ranges[-1].items()
    }


def sizes(spec: TensorSpec, ranges: Ranges) -> list[list[int]]:
    """The tensor's shape at the least, likeliest and largest sizes."""
    return [[d if isinstance(d, int) else ranges[d][k] for d in spec.shape] for k in range(3)]
