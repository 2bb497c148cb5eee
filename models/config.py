"""What a captioner is made of: frozen sizes and switches, and the named presets.

Pure data: importing this module loads no framework, so the node, the exporter and the
trainer can all read the same description. `CaptionerConfig` is stored beside every
checkpoint as JSON and inside every bundle manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TRUNK_CHANNELS: tuple[int, int, int] = (40, 112, 320)
"""Channels of EfficientNet-Lite0 at strides 8, 16 and 32 (arXiv 1905.11946, Lite variant)."""

TRUNK_HEAD_CHANNELS = 1280
"""Channels after the 1x1 head convolution: the space that the ImageNet classifier reads."""


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
"""ImageNet classes that the trunk's classifier tells apart: a prior over names."""


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """Which tokens describe one region. Every switch except the mask tokens is an addition to the
    paper.
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

    def tokens(self, tiles: int) -> int:
        """Tokens of one region in a picture of `tiles` tiles (thumbnail included)."""
        grids = len(self.grids)
        return self.num_mask_tokens * tiles + 2 * self.pooled_features + 2 * grids

    @property
    def grids(self) -> tuple[float, ...]:
        """How many times the region's box each grid is wide."""
        sizes = ((self.roi, 1.0), (self.context, 2.0), (self.surroundings, 5.0))
        return tuple(times for wanted, times in sizes if wanted)

    @property
    def has_features(self) -> bool:
        """Whether anything beside the mask is read."""
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
    """The whole captioner; JSON of this class travels with checkpoints and bundles."""

    name: str = "ureca-nano"
    vision: VisionConfig = field(default_factory=VisionConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)


def tiny_config() -> CaptionerConfig:
    """A captioner small enough to build, export and run inside a unit test."""
    return CaptionerConfig(
        name="ureca-tiny",
        vision=VisionConfig(tile_px=64, mask_px=32),
        regions=RegionConfig(fused_channels=16, surroundings=True),
        language=LanguageConfig(
            vocab_size=512, width=32, layers=2, heads=2, ff_width=64, max_new_tokens=8
        ),
    )
