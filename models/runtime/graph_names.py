"""Names of graphs and tensors in a bundle. The exporter writes them and the runtimes bind them."""

from __future__ import annotations

from dataclasses import dataclass

VISION, REGIONS, LM, GATHER = "vision", "regions", "lm", "gather"
GRAPHS = (VISION, REGIONS, LM, GATHER)
LM_STATIC = "lm_static"
"""`lm` with a cache of fixed length that is updated in place: for GPUs, whose graphs need fixed
shapes and addresses. Bundles for the CPU do not have it, because it gains nothing there.
"""

SCORE = "score"
"""The language model over given texts: one pass, the log-probability of every word. Bundles that
answer texts with regions have it (`models/runtime/scoring.py`).
"""

SEGMENT, PROMPT, MASKS = "segment", "prompt", "masks"
MASK_GRAPHS = (SEGMENT, PROMPT, MASKS)
"""The mask head, where a bundle has one (`models/runtime/segmentation/bundled.py`): its shapes are
static, and no engine runs them.
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
        """Return the names for `layers` layers."""
        return cls(*(_kv_names(kind, layers) for kind in ("prefix", "own", "next")))


def _kv_names(kind: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{part}_{layer}" for part in "kv" for layer in range(layers))
