"""Names of graphs and tensors inside a bundle: what the exporter writes and the runtimes bind."""

from __future__ import annotations

from dataclasses import dataclass

VISION, REGIONS, LM, GATHER = "vision", "regions", "lm", "gather"
GRAPHS = (VISION, REGIONS, LM, GATHER)
LM_STATIC = "lm_static"
"""`lm` with a cache of fixed length that is written in place: for GPUs, whose graphs need fixed
shapes and addresses. Not part of a bundle for the CPU, where it gains nothing.
"""

MAPS = ("map_fine", "map_middle", "map_coarse", "map_colour")
VISION_OUTPUTS = ("image_tokens", *MAPS)


@dataclass(frozen=True, slots=True)
class LmNames:
    """Tensor names of `lm` and `gather` for a number of layers: keys of all layers, then values.

    `prefix` [H, 1, P, hd], `own` [H, N, S, hd] and `grown` [H, N, S + T, hd] are all float32.
    """

    prefix: tuple[str, ...]
    own: tuple[str, ...]
    grown: tuple[str, ...]

    @classmethod
    def of(cls, layers: int) -> LmNames:
        """Names for `layers` layers."""
        return cls(*(_kv(kind, layers) for kind in ("prefix", "own", "next")))


def _kv(kind: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{part}_{layer}" for part in "kv" for layer in range(layers))
