"""Configures a query captioner: how pictures enter, which queries are kept, how they are said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.models.mllm.config import IMAGENET_MEAN, IMAGENET_STD
from ureca.models.mllm.staged.config import StageConfig

COCO_LABELS, COCO_THINGS = 133, 80
"""Classes of COCO's panoptic task; in the published segmenters the first 80 are things."""


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """How a picture becomes input: its shorter side to `short_px`, unless the longer one would
    exceed `long_px`; both rounded to multiples of `step_px`. `square_px` above 0 stretches it to a
    square instead (EoMT). No padding, so masks cover the whole picture.
    """

    short_px: int = 800
    long_px: int = 1333
    step_px: int = 32
    square_px: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(self.short_px, self.long_px, self.step_px) < 1 or self.square_px < 0:
            raise ValueError("expected short_px, long_px and step_px of at least 1")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which queries become segments. As `post_process_panoptic_segmentation` of `transformers`,
    with the thresholds of the published panoptic configurations.
    """

    object_score: float = 0.8
    """A query needs this probability of its class."""
    mask: float = 0.5
    overlap: float = 0.8
    """A query needs this share of its mask after others took their pixels."""
    stuff: tuple[int, ...] = ()
    """Classes that are stuff: all queries of one of them are one segment."""


@dataclass(frozen=True, kw_only=True)
class CaptionHeadConfig:
    """What lies between a query and the language model: the prefix [query, picture]."""

    inner: int = 256
    """Width between the two linear layers of each prefix token."""
    gradient: float = 1 / 3
    """Factor of the gradient that goes from words into the segmenter."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a fresh caption decoder; GRiT's, which the paper takes, has the same."""

    width: int = 768
    layers: int = 6
    heads: int = 12


@dataclass(frozen=True, kw_only=True)
class Pix2CapConfig:
    """The whole query captioner except the configurations of its two models."""

    name: str = "ureca-pix2cap"
    segmenter: str = "segmenter"
    """Folder of the segmenter, relative to the checkpoint."""
    segmenter_sha256: str = ""
    picture: PictureInput = field(default_factory=PictureInput)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    head: CaptionHeadConfig = field(default_factory=CaptionHeadConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    stop: str = "<|im_end|>"
    """The token that ends a caption."""
    max_new_tokens: int = 40
    max_regions: int = 32
    task_ids: tuple[int, ...] = ()
    """OneFormer: the words "the task is panoptic", as its tokenizer has them."""


@dataclass(frozen=True, kw_only=True)
class Pix2CapTrainConfig(StageConfig):
    """One stage of training.

    1: the caption head and its language model learn on a frozen segmenter. 2: the segmenter learns,
    too, except its backbone, with its own losses (class 2, mask 5, dice 5) and captions at 0.1, as
    the paper weighs them. Two stages are ours: the paper starts from X-Decoder and GRiT's decoder
    and trains them at once.
    """

    stage: Literal[1, 2] = 1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    caption_weight: float = 0.1
    """Of stage 2; in stage 1 there is nothing to weigh it against."""
    language_rate: float = 0.1
    """Stage 2: times the learning rate for the language model (the paper's factor)."""
    max_words: int = 64
    """Tokens of a caption; a longer one is cut."""
