"""Configures a training run of `ureca-mllm`: frozen, stored beside the run, overridden by YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.errors import ConfigError
from ureca.models.data.regions import HELD_OUT_EVERY
from ureca.models.mllm.config import LoraConfig

_COUNTS = ("regions_per_picture", "phrases_per_region")


@dataclass(frozen=True, kw_only=True)
class MllmDataConfig:
    """One folder of regions in the common format (`docs/data.md`)."""

    root: str
    shards: tuple[str, ...] = ()
    """Keep only records whose shard begins with one of these; empty keeps all."""
    share: float = 1.0
    """How often one epoch visits each region: 0.25 is every fourth, 3 is three times."""
    plain_words: bool = False
    """Lower case, words and commas only, as the nano learns them."""
    class_names: bool = False
    """Say "a <category>" for regions without words (COCO classes)."""

    def __post_init__(self) -> None:
        if self.share <= 0:
            raise ValueError(f"share must be above 0, got {self.share}")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that are trained. The image encoder is only with `everything`."""

    mask: bool = False
    """Mask encoder and its linear layer."""
    feature: bool = False
    """The feature token and what reads the tower's region tokens, where the captioner has them."""
    marks: bool = False
    """What is added to the embeddings of the two new words around the mask block (URECA leaves
    these as they were created)."""
    projector: bool = False
    """The image projector (frozen in URECA; for a base with a new trunk)."""
    lora: bool = False
    """Adapters in the language model."""
    mask_convolution: bool = False
    """What reads the mask inside an image encoder (FineCaption)."""
    everything: bool = False
    """The whole base with its image encoders (FineCaption's last stage): a new base is written."""


STAGES: dict[int, Parts] = {1: Parts(mask=True, feature=True), 2: Parts(lora=True)}
"""URECA: mask modules alone, then adapters alone."""
OWN_TOKEN_STAGES: dict[int, Parts] = {
    1: Parts(projector=True),
    2: Parts(mask_convolution=True),
    3: Parts(everything=True),
}
"""FineCaption: the adapter, what reads the mask, everything."""


@dataclass(frozen=True, kw_only=True)
class MllmTrainConfig:
    """One stage. Everything random follows from `seed` and the step, so a resumed run equals an
    uninterrupted one.
    """

    data: tuple[MllmDataConfig, ...]
    start_from: str
    """A checkpoint folder: `ureca mllm wrap` or `convert` made it, or stage 1."""
    stage: Literal[1, 2, 3] = 1
    """URECA has two stages, FineCaption three."""
    parts: Parts | None = None
    """The trained parts, if they differ from those of the stage."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters of stage 2, when the checkpoint has none."""
    steps: int = 8635
    """URECA: 138,152 regions by 16 are 8,635 steps, one epoch."""
    rows_per_step: int = 16
    """Regions that one update learns from, over all workers."""
    rows_per_pass: int = 4
    """Pictures, with their regions, that one worker has in memory at a time; more are accumulated.
    """
    regions_per_picture: int = 1
    """Regions of one picture that learn behind one image prefix: the same loss, fewer tokens."""
    phrases_per_region: int = 1
    """Phrases of one region that learn behind one prompt."""
    learning_rate: float = 2e-4
    mask_rate: float = 1.0
    """Times the learning rate for the mask encoder: its linear layer sums over all cells of a mask,
    so what suits a fresh projector is too much for it.
    """
    warmup_share: float = 0.03
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    max_length: int = 8192
    """Tokens of a row; a longer caption is cut, a longer prompt is refused."""
    max_tiles: int = 6
    long_share: float = 0.5
    """How often a region with captions of both lengths is asked for the long one."""
    attribute_share: float = 0.0
    """How often a region with texts about its attributes is asked for one of them, of those that
    `prompt.attributes` of the captioner names.
    """
    gradient_checkpointing: bool = True
    shard: bool = False
    """Split the language model's layers over the workers (FSDP2), for bases that do not fit one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: frozen weights and arithmetic in bfloat16, what learns stays in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    seed: int = 0
    held_out_every: int = HELD_OUT_EVERY
    """One picture in this many (by hash of its key) is never trained on; 0 trains on all."""
    save_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "rows_per_step",
            "rows_per_pass",
            "max_length",
            "max_tiles",
            *_COUNTS,
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.data:
            raise ValueError("data must name at least one folder of regions")
        for name in ("long_share", "attribute_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")

    def choose_parts(self, *, own_tokens: bool) -> Parts:
        """Return the parts that are trained in this stage; `own_tokens`: of a family whose regions
        have their own image tokens. Raises `ConfigError` for a stage that the family does not have.
        """
        plans = OWN_TOKEN_STAGES if own_tokens else STAGES
        if self.parts is None and self.stage not in plans:
            raise ConfigError(f"stage {self.stage}: this family has the stages {sorted(plans)}")
        return self.parts or plans[self.stage]
