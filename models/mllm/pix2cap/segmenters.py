"""Reads queries, masks, classes and a picture's global feature of the universal segmenters of
`transformers`.

X-Decoder, which the paper uses, is not in `transformers`: none of its weights load here. The global
feature is the mean of the pixel decoder's map (of EoMT, of its image tokens); the paper's is
X-Decoder's class query. That is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ureca.errors import WeightsError

# `Any` below is a model, a configuration or an output of `transformers`.


class Queries(NamedTuple):
    """What a segmenter says of one picture."""

    features: Tensor
    """Embeddings of Q queries, f32 [Q, c]."""
    classes: Tensor
    """Logits f32 [Q, K + 1]; the last one is "nothing"."""
    masks: Tensor
    """Logits f32 [Q, h, w] over the whole picture."""
    picture: Tensor
    """Global feature f32 [g]."""


@dataclass(frozen=True)
class SegmenterFamily:
    """How one kind of segmenter is read."""

    load: str
    """Its class in `transformers`."""
    features: Callable[[Any], Tensor]
    """Output -> queries [1, Q, c]."""
    picture: Callable[[Any, Any], Tensor]
    """(output, configuration) -> the map or tokens whose mean is the global feature [1, g, n]."""
    widths: Callable[[Any], tuple[int, int]]
    """Configuration -> (c, g)."""
    frozen: tuple[str, ...]
    """Beginnings of the names that never learn: the backbone."""
    is_square: bool = False
    has_task: bool = False
    """OneFormer reads its task as text."""


def _read_map(name: str) -> Callable[[Any, Any], Tensor]:
    return lambda output, _config: getattr(output, name).flatten(2)


def _read_eomt_tokens(output: Any, config: Any) -> Tensor:
    registers = int(getattr(config, "num_register_tokens", 0))
    return output.last_hidden_state[:, config.num_queries + 1 + registers :].mT


_MASK2FORMER = SegmenterFamily(
    load="Mask2FormerForUniversalSegmentation",
    features=lambda output: output.transformer_decoder_last_hidden_state,
    picture=_read_map("pixel_decoder_last_hidden_state"),
    widths=lambda c: (c.hidden_dim, c.mask_feature_size),
    frozen=("model.pixel_level_module.encoder.",),
)
_EOMT = SegmenterFamily(
    load="EomtForUniversalSegmentation",
    features=lambda output: output.last_hidden_state,
    picture=_read_eomt_tokens,
    widths=lambda c: (c.hidden_size, c.hidden_size),
    frozen=("embeddings.",),
    is_square=True,
)
FAMILIES: dict[str, SegmenterFamily] = {
    "mask2former": _MASK2FORMER,
    "maskformer": SegmenterFamily(
        load="MaskFormerForInstanceSegmentation",
        features=_MASK2FORMER.features,
        picture=_MASK2FORMER.picture,
        widths=lambda c: (c.decoder_config.hidden_size, c.mask_feature_size),
        frozen=("model.pixel_level_module.encoder.",),
    ),
    "oneformer": SegmenterFamily(
        load="OneFormerForUniversalSegmentation",
        features=lambda output: output.transformer_decoder_object_queries,
        picture=lambda output, _config: output.pixel_decoder_hidden_states[0].flatten(2),
        widths=lambda c: (c.hidden_dim, c.mask_dim),
        frozen=("model.pixel_level_module.encoder.", "model.text_mapper.", "model.task_encoder."),
        has_task=True,
    ),
    "eomt": _EOMT,
    "eomt_dinov3": SegmenterFamily(
        load="EomtDinov3ForUniversalSegmentation",
        features=_EOMT.features,
        picture=_EOMT.picture,
        widths=_EOMT.widths,
        frozen=_EOMT.frozen,
        is_square=True,
    ),
}
"""By `model_type` of the segmenter's configuration."""


def find_segmenter_family(model_type: str) -> SegmenterFamily:
    """Return the family. Raises `WeightsError` for a model whose queries cannot be read."""
    if model_type not in FAMILIES:
        raise WeightsError(
            f"a segmenter of type {model_type!r} cannot be captioned: expected one of "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def run_segmenter(base: Any, pixels: Tensor, task_ids: tuple[int, ...], **labels: Any) -> Any:
    """Run the segmenter's own forward pass on pixels [1, 3, H, W]; `labels` as it takes them."""
    family = find_segmenter_family(base.config.model_type)
    if family.has_task:
        if not task_ids:
            raise WeightsError("the checkpoint has no task_ids: wrap the OneFormer anew")
        labels["task_inputs"] = torch.tensor([task_ids], device=pixels.device)
        labels["output_hidden_states"] = True
    return base(pixels.to(base.dtype), **labels)


def read_queries(base: Any, output: Any) -> Queries:
    """Read the queries of the only picture of an output."""
    family = find_segmenter_family(base.config.model_type)
    count = output.class_queries_logits.shape[1]
    return Queries(
        family.features(output)[0, :count].float(),
        output.class_queries_logits[0].float(),
        output.masks_queries_logits[0].float(),
        family.picture(output, base.config)[0].float().mean(-1),
    )
