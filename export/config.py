"""Configures an export (`configs/export/*.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

TORCH_TENSORRT: Final = "torch-tensorrt"
DISTRIBUTIONS: Mapping[str, str] = {
    "tensorrt": "torch-tensorrt",
    "tensorrt-rtx": "torch-tensorrt-rtx",
}
"""torch-tensorrt's packages by `--runtime`; the names of the extras, too. Both have one import
name, so an environment holds one of them.
"""


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Bounds of the parity check. A bundle beyond one of them gets no manifest."""

    max_abs_logit_diff: float = 1e-3
    """Float32 graphs against torch, forced captions and zero-length edges alike."""
    float_agreement: float = 0.999
    """Equal choices of the float32 graphs; below 1 only because near ties exist."""
    int8_agreement: float = 0.98
    """Equal choices on forced captions that a graph must keep to ship as int8."""
    int4_agreement: float = 0.9
    """The same for the language model of a full-size captioner in int4."""
    control_agreement: float = 0.9
    """Weights of another seed must stay below this, or the comparison sees nothing."""
    score_agreement: float = 0.95
    """Texts whose best region the graph `score` must keep."""
    mask_iou: float = 0.995
    """Mean IoU of the bundle's masks with those of torch: of clicks, of boxes and of everything."""
    mask_score_diff: float = 1e-3
    """By which scores of these masks, expected IoUs 0..1, may differ."""
    mask_control_iou: float = 0.9
    """Weights of another seed must stay below this, or the comparison of masks sees nothing."""
    meteor_drop: float = 0.003
    """METEOR, 0..1, by which the bundle's captions may be worse than the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Runtime, precision, limits and parity check of one export."""

    runtime: Literal["onnx", "ort-gpu", "tensorrt", "tensorrt-rtx", "aoti", "auto"] = "onnx"
    precision: Literal["fp32", "fp16", "int8", "int4"] | None = None
    """None: the default of the runtime, the first in `export.runtime_selection` (int8 for onnx)."""
    builder: Literal["onnx", "torch-tensorrt"] = "onnx"
    """What makes the plans of `tensorrt` and `tensorrt-rtx`: their parser of ONNX, or the
    converters of torch-tensorrt.
    """
    target: str | None = None
    """`ort-gpu`: cuda, tensorrt or cpu; `tensorrt-rtx`: sm_80+ or one device such as sm_75. None:
    the first of these; the other runtimes export for the machine they are on.
    """
    opset: int = 20
    """ONNX opset. 20 is the oldest that has all operators, and opens in ONNX Runtime 1.20 (the
    newest for Python 3.10 is 1.23, which knows opset 23). `lm_static` takes at least 24.
    """
    max_regions: int = 32
    """Rows that one call of the bundle's engine accepts."""
    buckets: tuple[int, ...] | None = None
    """Batch sizes that a GPU prepares for, ascending; None: powers of two for GPU runtimes."""
    static_cache: bool = False
    """Also export `lm_static`; it holds the language model once more."""
    parity_regions: int = 200
    """Regions on which the bundle is compared with its checkpoint."""
    tolerances: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        for name in ("max_regions", "parity_regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        sizes = self.buckets or ()
        if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
            raise ValueError(f"buckets must ascend from 1 or more, got {list(sizes)}")
        if sizes and sizes[-1] < self.max_regions:
            raise ValueError(
                f"the largest bucket is {sizes[-1]}, but a call may hold {self.max_regions} "
                "regions: add a bucket, or lower max_regions"
            )
