"""Configures a text segmenter: towers, boxes, prompt, and stages of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.models.mllm.config import LoraConfig
from ureca.models.mllm.staged.config import StageConfig

QUESTION_TEXT = "{text}"


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Where boxes of objects and parts come from.

    `grid`: windows of several sizes, without a detector. `mask-head`: the masks of a bundle's mask
    head; what lies in a mask twice its size is a part. `detector`: an open-vocabulary detector of
    `transformers` (`*ForZeroShotObjectDetection`), asked for two lists of words.
    """

    kind: Literal["grid", "mask-head", "detector"] = "grid"
    folder: str = ""
    """Of the bundle (empty: the shipped one) or the detector."""
    object_words: tuple[str, ...] = ()
    part_words: tuple[str, ...] = ()
    max_objects: int = 32
    max_parts: int = 32
    least_score: float = 0.1
    """Of a detector's box."""

    def __post_init__(self) -> None:
        if self.kind == "detector" and not (self.folder and self.object_words):
            raise ValueError("proposals of a detector need its folder and object_words")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The multi-granularity flow: one token for each box, of the high-resolution map."""

    detail_px: int = 768
    """Side of the high-resolution tower's input."""
    cells: int = 4
    """Samples along a side of a box (RoIAlign by bilinear samples)."""
    inner: int = 1024
    heads: int = 8
    """Of the attention from box tokens to image tokens; its gate begins at zero."""


@dataclass(frozen=True, kw_only=True)
class UniresConfig:
    """The whole text segmenter except the configurations of its models."""

    name: str = "ureca-unires"
    captioner: str = "captioner"
    """Folder of the `ureca mllm` checkpoint, relative to this one; likewise the other two."""
    detail: str = "detail"
    decoder: str = "decoder"
    captioner_sha256: str = ""
    detail_sha256: str = ""
    decoder_sha256: str = ""
    flow: FlowConfig = field(default_factory=FlowConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    lora: LoraConfig | None = None
    """Set where the language model has adapters."""
    tiles: int = 1
    """Tiles of the low-resolution image."""
    question: str = "Where is {text}?"
    max_masks: int = 8
    min_present: float = 0.5
    """1 - P(none) from which the answer is not empty."""

    def __post_init__(self) -> None:
        if QUESTION_TEXT not in self.question:
            raise ValueError(f"question must hold {QUESTION_TEXT!r}, got {self.question!r}")
        if self.max_masks < 1 or self.tiles < 1:
            raise ValueError("max_masks and tiles must be at least 1")


@dataclass(frozen=True, kw_only=True)
class UniresTrainConfig(StageConfig):
    """One stage of training; the paper's is one joint stage, whose settings are unknown.

    1: what is new learns (flow, `[SEG]` and `[NONE]`, the projection to the mask decoder). 2: that,
    adapters of the language model, and the mask decoder. Image encoders never learn. Weights of the
    losses are LISA's (arXiv 2308.00692).
    """

    stage: Literal[1, 2] = 1
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=8, alpha=16.0))
    """Adapters of stage 2, when the checkpoint has none."""
    words_weight: float = 1.0
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    texts_per_picture: int = 8
    """Texts of one picture that learn behind one image prefix."""
    none_share: float = 0.2
    """Texts of other pictures, as a share, where the folder has no texts of its own that mean
    nothing."""
    gradient_checkpointing: bool = True
