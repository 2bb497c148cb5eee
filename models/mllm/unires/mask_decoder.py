"""The mask decoder of a SAM of `transformers`, prompted by vectors instead of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ureca.errors import WeightsError

CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""Class by `model_type`."""
LEARNS = "sam.mask_decoder."
STAYS = ("sam.mask_decoder.conv_s0.", "sam.mask_decoder.conv_s1.")
"""SAM 2 runs these two with its image encoder, which never learns."""


def find_decoder_class(model_type: str) -> str:
    """Return the class of a SAM. Raises `WeightsError` for another model."""
    if model_type not in CLASSES:
        raise WeightsError(
            f"a mask decoder of type {model_type!r} is not known: expected one of "
            f"{', '.join(CLASSES)}"
        )
    return CLASSES[model_type]


class VectorMaskDecoder(nn.Module):
    """Image encoder and mask decoder of a SAM. Every vector gives one mask."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.sam = sam
        self.width = int(sam.config.mask_decoder_config.hidden_size)
        self._is_second = sam.config.model_type != "sam"
        if self._is_second:  # choosing among three masks would change what is learnt
            sam.mask_decoder.dynamic_multimask_via_stability = False

    @property
    def side_px(self) -> int:
        """Side of the square input."""
        size = self.sam.config.prompt_encoder_config.image_size
        return int(size if isinstance(size, int) else size[0])

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> list[Tensor]:
        """pixels f32 [1, 3, S, S] -> maps, the coarsest last."""
        found = self.sam.get_image_embeddings(pixels.to(self.sam.dtype))
        return list(found) if self._is_second else [found]

    def forward(self, maps: list[Tensor], vectors: Tensor) -> tuple[Tensor, Tensor]:
        """maps of one image and vectors [N, c] -> mask logits f32 [N, h, w] over the whole image,
        and estimates f32 [N] of their IoU.
        """
        coarse = maps[-1]
        nothing = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        more = {"high_resolution_features": maps[:-1]} if self._is_second else {}
        answer = self.sam.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=vectors[None, :, None].to(coarse.dtype),
            dense_prompt_embeddings=nothing.expand(1, -1, *coarse.shape[-2:]),
            multimask_output=False,
            **more,
        )
        return answer[0][0, :, 0].float(), answer[1][0, :, 0].float()
