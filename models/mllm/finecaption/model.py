"""FineCaption's tower before a language model of `transformers`, as one model of that package.

Adapter and language model are LLaVA's classes, so the package's own functions for loading, saving
and generating work. `assemble` puts pretrained parts together.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from ureca.errors import WeightsError
from ureca.models.mllm.finecaption.sizes import FINECAPTION, read_sizes
from ureca.models.mllm.finecaption.tower import TOWER_TYPE, FineTower, FineTowerConfig

_NEW = ".patch_embedding.mask.weight"
"""What a plain CLIP does not have."""


class FineCaptionConfig(LlavaConfig):
    """LLaVA's configuration, with FineCaption's tower."""

    model_type = FINECAPTION


class FineCaption(LlavaForConditionalGeneration):
    """LLaVA's classes over FineCaption's tower."""

    config_class = FineCaptionConfig


def register() -> None:
    """Register both with the package's `Auto` classes; a second call changes nothing."""
    AutoConfig.register(TOWER_TYPE, FineTowerConfig, exist_ok=True)
    AutoConfig.register(FINECAPTION, FineCaptionConfig, exist_ok=True)
    AutoModel.register(FineTowerConfig, FineTower, exist_ok=True)
    AutoModelForImageTextToText.register(FineCaptionConfig, FineCaption, exist_ok=True)


def make_tower_config(
    clip: Any, *, convnext: Any = None, sam: Any = None, masked: bool = True, tile_px: int
) -> FineTowerConfig:
    """Return the tower of these configurations of `transformers`; `clip` is that of its vision
    part. Raises `WeightsError` when they do not fit together.
    """
    tower = FineTowerConfig(
        clip=clip.to_dict(),
        convnext=None if convnext is None else convnext.to_dict(),
        sam=None if sam is None else sam.to_dict(),
        masked=masked,
        image_size=tile_px,
    )
    tower.hidden_size = sum(read_sizes(tower).channels.values())
    return tower


def make_config(tower: FineTowerConfig, language: Any) -> FineCaptionConfig:
    """Return the whole model's configuration; `language` is that of a causal language model."""
    return FineCaptionConfig(
        vision_config=tower.to_dict(),
        text_config=language.to_dict(),
        image_seq_length=read_sizes(tower).grid_side ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=bool(language.tie_word_embeddings),
    )


def assemble(tower: FineTowerConfig, language: Any, encoders: dict[str, Any]) -> FineCaption:
    """Build one model from a causal language model and encoders of `transformers` by name; the
    adapter and the mask convolution are new.
    """
    register()
    base = FineCaption(make_config(tower, language.config))
    base.model.language_model.load_state_dict(language.model.state_dict())
    base.lm_head.load_state_dict(language.lm_head.state_dict())
    own = base.model.vision_tower
    for name, encoder in encoders.items():
        _fill(getattr(own, name), encoder.state_dict(), name)
    own.reset_mask()
    return base


def _fill(part: Any, state: dict[str, Any], name: str) -> None:
    """Load an encoder of which more layers may be there than are used."""
    known = part.state_dict()
    missing = [each for each in known if each not in state and not each.endswith(_NEW)]
    if missing:
        raise WeightsError(f"{name} lacks the tensors {missing[:3]}")
    part.load_state_dict({each: state.get(each, tensor) for each, tensor in known.items()})
