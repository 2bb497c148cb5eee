"""Settings of a stage that learns from whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ureca.models.data.regions import HELD_OUT_EVERY
from ureca.models.mllm.training.config import MllmDataConfig


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage. Everything random follows from (seed, step, picture), so that a resumed run equals
    an unbroken one and several workers learn what one does.
    """

    data: tuple[MllmDataConfig, ...]
    start_from: str
    """A checkpoint folder: `wrap` made it, or the stage before."""
    steps: int = 1000
    pictures_per_step: int = 32
    """Pictures that one update learns from, over all workers; each is a pass of its own."""
    learning_rate: float = 1e-4
    warmup_share: float = 0.03
    weight_decay: float = 0.05
    gradient_clip: float = 5.0
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: arithmetic in bfloat16 where torch's autocast says so; what learns stays float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    seed: int = 0
    held_out_every: int = HELD_OUT_EVERY
    """One picture in this many (by hash of its key) is never trained on; 0 trains on all."""
    save_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "pictures_per_step", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.data:
            raise ValueError("data must name at least one folder of regions")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
