"""Configures a training run: frozen, stored beside its checkpoint, overridden by YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.models.config import CaptionerConfig
from ureca.models.data.regions import HELD_OUT_EVERY


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One folder of regions in the common format (`../shared/data/README.md`, or `ureca worlds
    make`).
    """

    root: str
    shards: tuple[str, ...] = ()
    """Keep only records whose shard begins with one of these; empty: keep all."""
    files: tuple[str, ...] = ()
    """Read only region files whose name begins with one of these, such as `regions-parts`; empty:
    read all.
    """
    share: float = 1.0
    """How often one epoch visits each picture: 0.25 is every fourth (others the next time), 3 is
    three times.
    """
    class_names: bool = True
    """Say "a <category>" for regions without human words (COCO classes)."""
    mirror: bool = False
    """Mirror every second visit; "left" and "right" are exchanged in the texts."""
    regions_per_image: int = 5
    """Regions of one picture in one batch; those of a picture with fewer are repeated."""
    texts_per_image: int = 8
    """Phrases that these regions are taught with; a region with several gets more than one."""
    faulty: float = 0.0
    """Part of the pictures, 0..1, that are softened, compressed, blurred or lit otherwise, so that
    sharpness tells nothing about the words of a source.
    """
    name_cap: int = 0
    """At most this many regions of one class name that no person chose for them; 0: no limit."""
    long_texts: bool = True
    """Use long texts; sentences that were said of a whole picture are false of its regions."""
    mask_noise: float = 0.0
    """Share of the masks, 0..1, that are distorted as a tracker's."""
    long_share: float | None = None
    """Part of this source's groups asked for a long caption; None: as `TrainConfig.long_share`."""
    in_prior: bool = True
    """Whether its phrases count for `TrainConfig.prior_weight`; class names and rendered phrases
    would pass for habits of speech.
    """

    def __post_init__(self) -> None:
        for name in ("regions_per_image", "texts_per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.share <= 0:
            raise ValueError(f"share must be above 0, got {self.share}")
        for name in ("mask_noise", "faulty"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class RivalConfig:
    """What else the margin loss (`TrainConfig.margin`) holds phrases against; all of it is off by
    default. Without these, a phrase's rival is another region of its picture.
    """

    fragments: float = 0.0
    """Part of the regions, 0..1, whose phrases have a fragment of that region for a rival."""
    other_parts: float = 0.0
    """Part of the phrases, 0..1, whose rival is a part of another thing, where there is one."""
    statements: str = ""
    """A file of hard statements (`models/data/statements.py`): each pair teaches that the false
    variant fits the whole picture worse. Only pictures of `data` count.
    """
    statement_share: float = 1.0
    """How often an epoch visits each picture that has statements."""
    statements_per_image: int = 4
    """Pairs of a picture in one batch; those of a picture with fewer are repeated."""

    def __post_init__(self) -> None:
        for name in ("fragments", "other_parts"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.statement_share <= 0:
            raise ValueError(f"statement_share must be above 0, got {self.statement_share}")
        if self.statements_per_image < 1:
            raise ValueError(
                f"statements_per_image must be at least 1, got {self.statements_per_image}"
            )

    @property
    def on(self) -> bool:
        """Whether anything of it is used."""
        return bool(self.fragments or self.other_parts or self.statements)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One recipe. Everything random follows from `seed` and the step, so a resumed run equals an
    unbroken one.
    """

    data: tuple[DataConfig, ...]
    model: CaptionerConfig = field(default_factory=CaptionerConfig)
    trunk: Literal["frozen", "tail", "trained"] = "frozen"
    """`frozen` computes the trunk's maps once and keeps them on disk; `tail` does so up to stride
    16 and trains the blocks behind; `trained` is for a GPU.
    """
    cache: str = "runs/features"
    start_from: str = ""
    """A checkpoint folder to start from instead of ImageNet alone; its tokenizer is kept. Empty:
    from scratch.
    """
    tokenizer: str = ""
    """A `tokenizer.json` to use, so that it has the words of later data; empty: that of
    `start_from`, or one learnt from this recipe's data.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """CPU threads; 0 leaves torch's default."""
    seed: int = 0
    steps: int = 2000
    images_per_step: int = 24
    long_share: float = 0.3
    """Share of the groups that are trained on a long caption."""
    learning_rate: float = 1e-3
    trunk_learning_rate: float = 1e-4
    warmup_steps: int = 100
    decay_steps: int = 0
    """The rate stays constant and falls to 2 % over this many last steps; 0 falls along a cosine
    from the start.
    """
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    margin: float = 0.0
    """Nats per token by which a phrase must fit its own region better than another one of the
    picture; below it the difference is added to the loss (arXiv 1511.02283's max-margin MMI).
    """
    margin_weight: float = 0.0
    """Weight of that term; 0 leaves it out."""
    rivals: RivalConfig = field(default_factory=RivalConfig)
    """Harder rivals for that term."""
    phrase_weight: float = 1.0
    """Weight of the cross-entropy on human (or rendered) phrases."""
    prior_weight: float = 0.0
    """Logit adjustment (arXiv 2007.07314): the cross-entropy is taken with this many times the log
    of each word's share of the training phrases added, so that the captions, chosen without it, use
    frequent words less.
    """
    bag_weight: float = 0.0
    """Weight of predicting a region's words directly from its tokens, without the language model.
    """
    reward_weight: float = 0.0
    """Weight of the reward on sampled captions beside the cross-entropy; 0 leaves it out."""
    reward_samples: int = 4
    """Captions drawn for every region; at least 2."""
    reward_tokens: int = 12
    """Longest sampled caption, in tokens."""
    neighbour_weight: float = 0.5
    """How much the similarity to other regions of the image reduces the reward."""
    gradient_clip: float = 1.0
    ema: float = 0.998
    held_out_every: int = HELD_OUT_EVERY
    """One picture in this many (by hash of its key) is never trained on."""
    evaluate_every: int = 250
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "images_per_step", "held_out_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.reward_samples < 2:
            raise ValueError(f"reward_samples must be at least 2, got {self.reward_samples}")
        if not self.data:
            raise ValueError("data must name at least one folder of regions")
        if self.rivals.on and not (self.margin > 0 and self.margin_weight > 0):
            raise ValueError(
                f"rivals count in the margin loss alone: margin and margin_weight must be above 0, "
                f"got {self.margin} and {self.margin_weight}"
            )
