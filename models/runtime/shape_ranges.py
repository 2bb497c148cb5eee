"""Computes the minimum and maximum of each free dimension of a graph from the model's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ureca.bundle import TensorSpec
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graph_names import LM, LM_STATIC, REGIONS, SCORE

Range = tuple[int, int, int]
"""Minimum, typical and maximum size of a free dimension."""
Ranges = Mapping[str, Range]
_BATCHED = frozenset({REGIONS, LM, LM_STATIC, SCORE})
"""Graphs whose rows N are the regions of a batch."""


def count_own_slots(config: CaptionerConfig) -> int:
    """Return the length of a fixed own cache: region tokens, the start token and the longest
    caption.
    """
    return config.regions.count_tokens(count_max_tiles(config)) + 1 + config.language.max_new_tokens


def count_max_tiles(config: CaptionerConfig) -> int:
    """Return the tiles of the largest image, with its thumbnail."""
    return config.vision.max_tiles + (config.vision.max_tiles > 1)


def build_profiles(
    name: str, config: CaptionerConfig, *, max_regions: int, buckets: Sequence[int] = ()
) -> tuple[Ranges, ...]:
    """Return the ranges of a graph's dimensions, ascending. `lm` has one more, the first: for the
    prefix pass. With `buckets` each of these numbers of rows has ranges of its own.
    """
    tiles = count_max_tiles(config)
    image, slots = config.vision.tokens_per_tile * tiles, count_own_slots(config)
    prompt = config.regions.count_tokens(tiles) + 1
    common: Ranges = {
        "T": (1, 1, tiles),
        "K": (1, prompt - 1, prompt - 1),
        "N": (1, min(8, max_regions), max_regions),
        "M": (1, min(8, max_regions), max_regions),
        "Q": (1, 1, prompt),
        "P": (0, image, image),
        "S": (0, min(16, slots), slots),
    }
    if name == SCORE:
        longest = config.language.max_new_tokens + 1
        common = {**common, "Q": (1, min(8, longest), longest)}
    ranges = _split_rows(common, buckets) if name in _BATCHED else (common,)
    if name != LM:
        return ranges
    least = config.vision.tokens_per_tile
    prefix = {"N": (1, 1, 1), "Q": (least, image, image), "P": (0, 0, 0), "S": (0, 0, 0)}
    return (prefix, *ranges)


def _split_rows(common: Ranges, buckets: Sequence[int]) -> tuple[Ranges, ...]:
    return tuple({**common, "N": (rows, rows, rows)} for rows in buckets) or (common,)


def join_ranges(ranges: Sequence[Ranges]) -> Ranges:
    """Return one profile that contains all of `ranges`, for runtimes that know only one. The last
    one gives the typical size.
    """
    return {
        d: (min(r[d][0] for r in ranges if d in r), last[1], max(r[d][2] for r in ranges if d in r))
        for d, last in ranges[-1].items()
    }


def compute_shapes(spec: TensorSpec, ranges: Ranges) -> list[list[int]]:
    """Return the tensor's shape at the minimum, typical and maximum sizes."""
    return [[d if isinstance(d, int) else ranges[d][k] for d in spec.shape] for k in range(3)]
