"""Configures a `ureca-mllm` captioner on its base model: frozen sizes, texts, switches.

It is pure data, stored as `mllm.json` beside the weights. The defaults are those of URECA's best
run (arXiv 2504.05305, table 6: 16 mask tokens) over InternVL 2.5; `configs/model/*.yaml` override
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ureca.datatypes import Style
from ureca.errors import ConfigError

Layout = Literal["plain", "rows", "each"]
"""How a family writes the image block: all tiles in a row, Idefics3's marks of row and column, or
every tile between the marks of an image."""

Precision = Literal["fp32", "bf16", "int8", "int4"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How images are tiled and normalised. Sizes follow the base model."""

    tile_px: int = 448
    tokens_per_tile: int = 256
    max_tiles: int = 6
    """Tiles of a picture, without the thumbnail: URECA trained with 6 and demonstrated with 12."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resampling: Literal["ours", "official"] = "ours"
    """`official` resizes as the published weights saw it (Pillow): pictures bicubic, and the mask's
    thumbnail smoothly, so that it is not strictly 0 or 1.
    """

    def __post_init__(self) -> None:
        for name in ("tile_px", "tokens_per_tile", "max_tiles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The mask encoder ("arch 3") and optional tokens beside it."""

    num_mask_tokens: int = 16
    """Channels of the encoder; channel n becomes mask token n of its tile."""
    side_px: int = 448
    """Side of a mask tile; two convolutions of stride 2 and the shared linear layer follow."""
    legacy_scale: bool = False
    """Masks of 0..255 instead of 0..1: what the published weights were trained on."""
    feature_token: bool = False
    """One more token: the image tokens averaged inside the mask (an addition to the paper)."""
    region_tokens: int = 0
    """Additional tokens: the picture tower's own region features, if the family has them (an
    addition to the paper). All of them, or 0.
    """
    region_width: int = 384
    """Width of the layer between them and the language model."""

    def __post_init__(self) -> None:
        if self.num_mask_tokens < 1:
            raise ValueError(f"num_mask_tokens must be at least 1, got {self.num_mask_tokens}")
        if self.side_px < 4 or self.side_px % 4:
            raise ValueError(f"side_px must be a multiple of 4, got {self.side_px}")

    @property
    def cells(self) -> int:
        """Values of one channel after the convolutions: the input of the shared linear layer."""
        return (self.side_px // 4) ** 2

    def count_tokens(self, tiles: int) -> int:
        """Tokens of one region in a picture of `tiles` tiles (thumbnail included)."""
        return self.num_mask_tokens * tiles + self.feature_token + self.region_tokens


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The texts around image and mask. Everything before the mask block is the shared prefix."""

    begin: str = "<|im_start|>user\n"
    image_open: str = "<img>"
    image_token: str = "<IMG_CONTEXT>"
    image_close: str = "</img>\n"
    mask_open: str = "<mask>"
    mask_token: str = "<MASK_CONTEXT>"
    mask_close: str = "</mask>\n"
    short: str = "Name this region in a few words."
    long: str = "Describe this region in detail."
    attributes: dict[str, str] = field(default_factory=dict)
    """Instructions that ask for one attribute of the region, by its name."""
    end: str = "<|im_end|>\n<|im_start|>assistant\n"
    stop: tuple[str, ...] = ("<|im_end|>",)
    """Tokens that end a caption. Training teaches the first one."""

    def __post_init__(self) -> None:
        if not self.stop:
            raise ValueError("stop must name at least one token")
        if bool(self.mask_open.strip()) != bool(self.mask_close.strip()):
            raise ValueError("mask_open and mask_close name a token each, or neither of them does")

    def instruction(self, style: Style, attribute: str = "") -> str:
        """Return the instruction of a style, or that of an attribute. Raises `ConfigError` for an
        attribute that the captioner is not asked for.
        """
        if attribute:
            if attribute not in self.attributes:
                raise ConfigError(
                    f"no instruction for the attribute {attribute!r}: `prompt.attributes` has "
                    f"{', '.join(self.attributes) or 'none'}"
                )
            return self.attributes[attribute]
        return self.short if style == "short" else self.long

    @property
    def marks(self) -> tuple[str, ...]:
        """The two tokens around the mask block, if there are any."""
        return tuple(filter(None, (self.mask_open.strip(), self.mask_close.strip())))

    @property
    def mask_specials(self) -> tuple[str, ...]:
        """The tokens that a base model may not know yet: marks and placeholder."""
        return (*self.marks[:1], self.mask_token, *self.marks[1:])


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank additions to linear layers of the language model (arXiv 2106.09685).

    URECA's 8B runs: rank 128, alpha 256, dropout 0.05 on attention and feed-forward matrices.
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in 0..1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class MllmConfig:
    """The whole captioner except the base's own configuration, which is `base/config.json`."""

    name: str = "ureca-mllm"
    family: str = "internvl"
    base: str = "base"
    """Folder of the base model, relative to the checkpoint."""
    base_sha256: str = ""
    """Hash of the base's configuration and weights; empty: not checked."""
    picture: PictureConfig = field(default_factory=PictureConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    lora: LoraConfig | None = None
    """Set where `lora.safetensors` lies beside the checkpoint."""
    projector: bool = False
    """Set where `projector.safetensors` lies beside the checkpoint: an image projector that learnt,
    in place of the base's.
    """
    base_learned: bool = False
    """Set where the base itself learnt: it cannot be replaced by the one that it was made from."""
    precision: Precision = "fp32"
    """How the base is loaded to caption: int8 and int4 need `bitsandbytes`."""
    max_regions: int = 32
    max_new_tokens: int = 128
    threads: int = 0
    """CPU threads; 0 leaves torch's default."""
