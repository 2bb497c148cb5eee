"""Lists the vision-language models of `transformers` that URECA can use, and their parts.

A family fits if its image comes first as a run of tokens per tile. The rest of its forward pass
(packing, new-line tokens, processors) is not used: tiles are cut by our own grid, because the same
grid must cut the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.config import CaptionerConfig
from ureca.models.mllm.config import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    PromptConfig,
)
from ureca.models.mllm.finecaption import fusion
from ureca.models.mllm.finecaption.attributes import INSTRUCTIONS
from ureca.models.mllm.finecaption.sizes import FINECAPTION, read_sizes

_HALF = (0.5, 0.5, 0.5)
NANO_LM = "ureca_nano_lm"
"""`model_type` of a base that `ureca mllm join` made."""
# `Any` below is a model or configuration of `transformers`, whose classes differ by family.


@dataclass(frozen=True)
class Tower:
    """A picture tower that also encodes regions, in its own channels. It is never trained, so its
    output may be cached.
    """

    encode: Callable[[Any, Tensor], tuple[Tensor, Any]]
    """(base, tiles [T, 3, S, S]) -> (image tokens [T, p, c], maps to read regions from)."""
    project: Callable[[Any, Tensor], Tensor]
    """(base, image tokens [T, p, c]) -> [T, p, d]."""
    regions: Callable[[Any, Tensor, Any], Tensor]
    """(base, masks [N, T, M, M], maps) -> region tokens [N, k, c]."""
    shape: Callable[[Any], tuple[int, int, int]]
    """The base's configuration -> (side of a mask tile, k, c)."""


@dataclass(frozen=True)
class RegionTower:
    """A picture tower whose image tokens depend on the mask: every region has its own. What does
    not depend on it is computed once for a frame.
    """

    encode: Callable[[Any, Tensor], Any]
    """(base, tiles [T, 3, S, S]) -> what all regions of the picture share."""
    regions: Callable[[Any, Tensor, Any], Tensor]
    """(base, masks [N, T, M, M], what they share) -> image tokens [N, T * p, d]."""
    mask_px: Callable[[Any], int]
    """The base's configuration -> side of a mask tile."""
    masks: str
    """The layers that read the mask, as an attribute path of `base.model`; a base whose tower is
    configured without `masked` does not have them.
    """


@dataclass(frozen=True)
class Family:
    """The parts of a base model that URECA needs."""

    encode: Callable[[Any, Tensor], Tensor]
    """(base, tiles [T, 3, S, S]) -> projected image tokens [T, p, d]."""
    language: str
    """The language model, as an attribute of `base.model`."""
    projector: str
    """The image projector, as an attribute of `base.model`."""
    grid_side: Callable[[Any, int], float]
    """Tokens along one side of a tile of so many pixels, from the base's configuration."""
    step_px: Callable[[Any], int] | None = None
    """Set if the base accepts images of any size whose sides are multiples of this."""
    axes: Literal[1, 3] = 1
    """Dimensions in which the language model counts positions."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    layout: Layout = "plain"
    prompt: PromptConfig = field(default_factory=PromptConfig)
    tower: Tower | None = None
    """Set if the picture tower has its own region tokens."""
    own_tokens: RegionTower | None = None
    """Set if every region has its own image tokens. Then they stand where others have mask tokens,
    the prefix holds text alone, and a picture is one tile.
    """


def _encode_internvl(base: Any, tiles: Tensor) -> Tensor:
    config = base.config
    return base.model.get_image_features(
        pixel_values=tiles,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        return_dict=True,
    ).pooler_output


def _encode_llava(base: Any, tiles: Tensor) -> Tensor:
    config = base.config
    seen = base.model.vision_tower(tiles, output_hidden_states=True, return_dict=True)
    features = seen.hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        features = features[:, 1:]
    return base.model.multi_modal_projector(features)


def _encode_idefics(base: Any, tiles: Tensor) -> Tensor:
    side = tiles.shape[-1] // base.config.vision_config.patch_size
    whole = torch.ones(len(tiles), side, side, dtype=torch.bool, device=tiles.device)
    seen = base.model.vision_model(pixel_values=tiles, patch_attention_mask=whole)
    return base.model.connector(seen.last_hidden_state)


def _encode_qwen(base: Any, tiles: Tensor) -> Tensor:
    """Order patches as the package's own processor does: blocks that are merged are adjacent."""
    vision = base.config.vision_config
    patch, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    count, channels, side = len(tiles), tiles.shape[1], tiles.shape[-1] // patch
    cut = (side // merge, merge, patch)
    blocks = tiles.view(count, channels, *cut, *cut).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = blocks[..., None, :, :].expand(*blocks.shape[:6], times, patch, patch)
    grid = torch.tensor([[1, side, side]] * count, device=tiles.device)
    seen = base.model.get_image_features(
        patches.reshape(count * side * side, -1), grid, return_dict=True
    )
    return torch.stack(tuple(seen.pooler_output))


def _project_nano(base: Any, tokens: Tensor) -> Tensor:
    projector = base.model.multi_modal_projector
    return projector(tokens.to(projector.linear_1.weight.dtype))


def _encode_nano(base: Any, tiles: Tensor) -> Tensor:
    return _project_nano(base, base.model.vision_tower(tiles).tokens)


def _make_nano_config(config: Any) -> CaptionerConfig:
    return msgspec.convert(config.vision_config.nano, CaptionerConfig)


def _read_nano_shape(config: Any) -> tuple[int, int, int]:
    nano = _make_nano_config(config)
    features = nano.regions.count_tokens(tiles=1) - nano.regions.num_mask_tokens
    return nano.vision.mask_px, features, nano.language.width


def _read_side(value: Any) -> int:
    """Return a side that is given as a number or as a pair."""
    return int(value[0] if isinstance(value, list | tuple) else value)


def _count_internvl_side(config: Any, px: int) -> float:
    return px / _read_side(config.vision_config.patch_size) * config.downsample_ratio


def _read_qwen_step(config: Any) -> int:
    return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)


_CHATML = PromptConfig(
    begin="<|im_start|>user ",
    image_open="",
    image_token="<image>",
    image_close="\n",
    end="<|im_end|><|im_start|>assistant\n",
)
_IDEFICS_PROMPT = PromptConfig(
    begin="<|im_start|>User:",
    image_open="",
    image_token="<image>",
    image_close="<fake_token_around_image>",
    end="<end_of_utterance>\nAssistant:",
    stop=("<end_of_utterance>",),
)
_IDEFICS = Family(
    encode=_encode_idefics,
    language="text_model",
    projector="connector",
    grid_side=lambda c, px: px / c.vision_config.patch_size / c.scale_factor,
    mean=_HALF,
    std=_HALF,
    layout="rows",
    prompt=_IDEFICS_PROMPT,
)

_QWEN = Family(
    encode=_encode_qwen,
    language="language_model",
    projector="visual.merger",
    grid_side=lambda c, px: px / _read_qwen_step(c),
    step_px=_read_qwen_step,
    axes=3,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    layout="each",
    prompt=PromptConfig(
        image_open="<|vision_start|>", image_token="<|image_pad|>", image_close="<|vision_end|>"
    ),
)
_NANO_PROMPT = PromptConfig(
    begin="<|im_start|>",
    image_open="",
    image_token="<image>",
    image_close="",
    mask_close="</mask>",
    short="In a few words:",
    long="In a sentence:",
    end="\n",
    stop=("<|im_end|>",),
)
"""As few tokens as there can be: on a CPU each costs."""
_FINECAPTION_PROMPT = PromptConfig(
    image_open="",
    image_token="<image>",
    image_close="",
    mask_open="",
    mask_token="<image>",
    mask_close="\n",
    attributes=INSTRUCTIONS,
)
"""LLaVA's order: image, instruction."""
_FINECAPTION = Family(
    encode=fusion.encode_whole,
    language="language_model",
    projector="multi_modal_projector",
    grid_side=lambda c, _px: read_sizes(c.vision_config).grid_side,
    prompt=_FINECAPTION_PROMPT,
    own_tokens=RegionTower(
        encode=fusion.encode_frame,
        regions=fusion.encode_regions,
        mask_px=lambda c: read_sizes(c.vision_config).mask_px,
        masks="vision_tower.clip.embeddings.patch_embedding.mask",
    ),
)

FAMILIES: dict[str, Family] = {
    "internvl": Family(
        encode=_encode_internvl,
        language="language_model",
        projector="multi_modal_projector",
        grid_side=_count_internvl_side,
    ),
    "llava_onevision": Family(
        encode=_encode_llava,
        language="language_model",
        projector="multi_modal_projector",
        grid_side=lambda c, px: px // c.vision_config.patch_size,
        mean=_HALF,
        std=_HALF,
        prompt=_CHATML,
    ),
    NANO_LM: Family(
        encode=_encode_nano,
        language="language_model",
        projector="multi_modal_projector",
        grid_side=lambda c, _px: _make_nano_config(c).vision.tokens_per_tile ** 0.5,
        prompt=_NANO_PROMPT,
        tower=Tower(
            encode=lambda base, tiles: base.model.vision_tower(tiles),
            project=_project_nano,
            regions=lambda base, masks, maps: base.model.vision_tower.regions(masks, maps),
            shape=_read_nano_shape,
        ),
    ),
    FINECAPTION: _FINECAPTION,
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
}
"""By `model_type` of the base's configuration."""

_REFUSED = {
    "qwen3_vl": "its first layers add their own image features, which are not passed on",
    "internvl_chat": "this is the layout with remote code: `ureca mllm convert` reads it",
}


def find_family(model_type: str) -> Family:
    """Return the family of a base model. Raises `WeightsError` for one that does not fit."""
    if model_type not in FAMILIES:
        why = _REFUSED.get(model_type, "no family of that name is known")
        raise WeightsError(
            f"a base of type {model_type!r} cannot carry URECA: {why}; known are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def register_base(folder: Path) -> None:
    """Register the base in `folder` with `transformers` if `ureca mllm join` made it."""
    try:
        text = (folder / "config.json").read_text(encoding="utf8")
    except (OSError, ValueError):
        return  # loading the base reports the error
    if NANO_LM in text:
        require("ureca.models.mllm.network.nano_tower", extra="mllm").register_tower()
    if FINECAPTION in text:
        require("ureca.models.mllm.finecaption.model", extra="mllm").register()


def choose_tile_px(config: Any, wanted_px: int) -> int:
    """Return the side of one tile in pixels: the base's own, or the wanted one if the base accepts
    any. Raises `WeightsError` for a side that it does not accept.
    """
    step_px = find_family(config.model_type).step_px
    if step_px is None:
        return _read_side(config.vision_config.image_size)
    if wanted_px % step_px(config):
        raise WeightsError(
            f"picture.tile_px is {wanted_px}: this base takes multiples of {step_px(config)} px"
        )
    return wanted_px


def count_tile_side(config: Any, px: int) -> int:
    """Return the image tokens along a side of a tile of `px`. Raises `WeightsError` if that is not
    a whole number.
    """
    side = find_family(config.model_type).grid_side(config, px)
    if side != int(side) or side < 1:
        raise WeightsError(f"a tile of {px} px gives {side} tokens a side: not whole")
    return int(side)


def get_language_model(base: Any, family: Family) -> Any:
    """Return the decoder without its output layer. Raises `WeightsError` for sliding-window
    layers.
    """
    language = getattr(base.model, family.language)
    kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
    if kinds - {"full_attention"}:
        raise WeightsError(
            f"the language model has layers {sorted(kinds)}: a shared prefix needs full attention"
        )
    return language
