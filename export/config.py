"""How a checkpoint is exported (`configs/export/*.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Bounds of an export; a bundle beyond one of them gets no manifest."""

    max_abs_logit_diff: float = 1e-3
    """Float32 graphs against torch, forced captions and zero-length edges alike."""
    float_agreement: float = 0.999
    """Equal choices of the float32 graphs; below 1 only because near ties exist."""
    int8_agreement: float = 0.98
    """Equal choices on forced captions that a graph must keep to ship as int8."""
    control_agreement: float = 0.9
    """Weights of another seed must stay below this, or the comparison sees nothing."""
    meteor_drop: float = 0.003
    """METEOR, 0..1, by which the bundle's captions may be worse than the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Precision, limits and proof of one export."""

    precision: Literal["int8", "fp32"] = "int8"
    opset: int = 24
    max_regions: int = 32
    """Rows that one call of the bundle's engine accepts."""
    static_cache: bool = False
    """Also export `lm_static`, which GPU runtimes need; it holds the language model once more."""
    parity_regions: int = 200
    """Regions on which the bundle is compared with its checkpoint."""
    tolerances: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        for name in ("max_regions", "parity_regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
