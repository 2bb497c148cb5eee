"""What a training run of the mask head is: stored beside its checkpoint, overridden by YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.models.data.regions import HELD_OUT_EVERY
from ureca.models.nano.masks.config import MaskHeadConfig


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Masks of one kind: which records, and how often their pictures are visited."""

    regions: str
    """A `regions-*.jsonl.gz` in the common format."""
    images: str
    """The data folder of its pictures."""
    shards: tuple[str, ...] = ()
    """Keep only records whose shard begins with one of these; empty keeps all."""
    makers: tuple[str, ...] = ()
    """Keep only records whose `mask_source` begins with one of these; empty keeps all."""
    share: float = 1.0
    """Visits to each picture in one epoch."""
    things_told: bool = True
    """Whether a thing is known to be one: it then trains the second kernel of a point. Otherwise
    the kernel that fits best is trained. Parts, groups and stuff are always told.
    """
    all_free: bool = False
    """Nothing is told: class-free masks."""


@dataclass(frozen=True, kw_only=True)
class MaskTrainConfig:
    """One recipe. Everything random follows from `seed` and the step, so a resumed run equals an
    unbroken one.
    """

    data: tuple[MaskSource, ...]
    model: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    trunk: Literal["frozen", "tail", "trained"] = "frozen"
    """Stage A trains what is behind a frozen trunk; stage B trains its last blocks (the neck of
    YOLOX, stage 32 of EfficientNet-Lite0), then all of it.
    """
    trunk_weights: str = ""
    """Folder of the trunk's own weights (YOLOX-nano); empty: `ureca weights get yolox-nano`."""
    start_from: str = ""
    """A checkpoint folder to start from; empty: a new head on the published trunk."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    seed: int = 0
    steps: int = 4000
    images_per_step: int = 8
    masks_per_image: int = 12
    window_px: tuple[int, int] = (288, 384)
    """Height and width of what is cut from a picture for training, multiples of 32."""
    scale: tuple[float, float] = (0.6, 1.3)
    """Least and greatest size of a picture; 1 fits the canvas of `model`."""
    learning_rate: float = 2e-3
    trunk_learning_rate: float = 1e-4
    warmup_steps: int = 100
    decay_steps: int = 1000
    """The rate falls over this many last steps."""
    weight_decay: float = 0.02
    proposal_weight: float = 0.2
    """Of keeping a detector's boxes what they were while its trunk is trained."""
    gradient_clip: float = 1.0
    ema: float = 0.998
    held_out_every: int = HELD_OUT_EVERY
    log_every: int = 50
    save_every: int = 100
    validation_batches: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "images_per_step", "masks_per_image", "held_out_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(side < 32 or side % 32 for side in self.window_px):
            raise ValueError(f"window_px must be multiples of 32, got {list(self.window_px)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must rise and be above 0, got {list(self.scale)}")
        if not self.data:
            raise ValueError("data must name at least one file of regions")
