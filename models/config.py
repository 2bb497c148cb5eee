"""Configures a captioner: frozen sizes, switches, and the named presets.

Importing this module loads no framework, so the node, the exporter and the trainer read the same
description. `CaptionerConfig` is stored as JSON beside every checkpoint and in every bundle
manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TRUNK_CHANNELS: tuple[int, int, int] = (40, 112, 320)
"""Channels of EfficientNet-Lite0 at strides 8, 16 and 32 (arXiv 1905.11946, Lite variant)."""

DETECTOR_CHANNELS: tuple[int, int, int] = (64, 128, 256)
"""Channels of YOLOX-nano at strides 8, 16 and 32 (arXiv 2107.08430)."""

TRUNK_HEAD_CHANNELS = 1280
"""Channels after the 1x1 head convolution, which are the input of the ImageNet classifier."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """How images and masks are split into tiles and encoded.

    `tile_px` is the side of one square tile. A picture is cut into `cols x rows <= max_tiles`
    tiles (plus a whole-picture thumbnail when there is more than one), and **the same grid cuts
    the mask**: URECA's dynamic mask modelling (arXiv 2504.05305, section 4). `mask_px` is the side
    of one mask tile and must be `tile_px / 2` so that mask cells line up with feature cells.
    """

    tile_px: int = 320
    mask_px: int = 160
    max_tiles: int = 1
    pixel_shuffle: int = 2
    """Stride-32 cells are merged `pixel_shuffle x pixel_shuffle` into one image token."""

    def __post_init__(self) -> None:
        if self.tile_px % (32 * self.pixel_shuffle):
            raise ValueError(
                f"tile_px must be a multiple of {32 * self.pixel_shuffle}, got {self.tile_px}"
            )
        if self.mask_px * 2 != self.tile_px:
            raise ValueError(
                f"mask_px must be tile_px / 2 = {self.tile_px // 2}, got {self.mask_px}"
            )
        if self.max_tiles < 1:
            raise ValueError(f"max_tiles must be at least 1, got {self.max_tiles}")

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that one tile contributes to the shared prefix."""
        return (self.tile_px // (32 * self.pixel_shuffle)) ** 2


CLASSES = 1000
"""ImageNet classes of the trunk's classifier. They serve as a prior over names."""


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """The tokens that describe one region. All of them except the mask tokens are additions to the
    paper, each with a switch.
    """

    num_mask_tokens: int = 2
    """Channels of the mask encoder; channel n becomes mask token n (URECA table 6 studies 4, 8,
    16).
    """
    pooled_features: bool = True
    """Two tokens of image features averaged inside the mask: fine (strides 4-16) and semantic
    (the classifier's space).
    """
    class_prior: bool = True
    """Adds an embedding of the ImageNet classes that the region resembles to the semantic token."""
    colour: bool = True
    """Adds colour statistics of the region, and of the picture for its light, to the fine token."""
    box_geometry: bool = True
    """Adds the Fourier-coded box to the pooled tokens."""
    roi: bool = True
    """Two tokens of an 8x8 grid in the tight box: features, colour and mask."""
    context: bool = True
    """Two more from a box of twice the size, which contains neighbours and the whole of a part."""
    surroundings: bool = False
    """Two more from a box of five times the size: objects to the left and right, and what the
    region is on.
    """
    fused_channels: int = 128
    """Channels of the pyramid that regions are pooled and sampled from."""
    detector: bool = False
    """Adds the maps of a COCO-trained detector (YOLOX-nano) to the pyramid and the semantic token:
    they tell things apart that ImageNet's do not.
    """

    def count_tokens(self, tiles: int) -> int:
        """Tokens of one region in a picture of `tiles` tiles (thumbnail included)."""
        grids = len(self.grids)
        return self.num_mask_tokens * tiles + 2 * self.pooled_features + 2 * grids

    @property
    def grids(self) -> tuple[float, ...]:
        """Width of each grid in multiples of the region's box."""
        sizes = ((self.roi, 1.0), (self.context, 2.0), (self.surroundings, 5.0))
        return tuple(times for wanted, times in sizes if wanted)

    @property
    def named_channels(self) -> int:
        """Channels of the stride-32 map from which the semantic token is pooled."""
        return TRUNK_HEAD_CHANNELS + DETECTOR_CHANNELS[2] * self.detector

    @property
    def has_features(self) -> bool:
        """Whether the model reads image features of a region and not only its mask."""
        return self.pooled_features or bool(self.grids)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A small pre-norm causal transformer (RMSNorm, RoPE, SwiGLU, tied embeddings)."""

    vocab_size: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 4
    ff_width: int = 512
    max_new_tokens: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must split into {self.heads} heads of even size")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Configures the whole captioner. Checkpoints and bundles contain it as JSON."""

    name: str = "ureca-nano"
    vision: VisionConfig = field(default_factory=VisionConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)


def make_tiny_config() -> CaptionerConfig:
    """Return a captioner small enough to build, export and run in a unit test."""
    return CaptionerConfig(
        name="ureca-tiny",
        vision=VisionConfig(tile_px=64, mask_px=32),
        regions=RegionConfig(fused_channels=16, surroundings=True),
        language=LanguageConfig(
            vocab_size=512, width=32, layers=2, heads=2, ff_width=64, max_new_tokens=8
        ),
    )
