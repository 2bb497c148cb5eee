"""A `ureca mllm` captioner with a multi-granularity flow, the answers `[SEG]` and `[NONE]`, and a
mask decoder.

The two answers are rows of their own beside the base's word table, for reading and for choosing, so
the base is unchanged to the bit and captions regions as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ureca.models.mllm.backend import embed_prefix
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.network.positions import PromptOpening
from ureca.models.mllm.prompt import CaptionPrompt
from ureca.models.mllm.unires.config import UniresConfig
from ureca.models.mllm.unires.flow import GranularFlow
from ureca.models.mllm.unires.mask_decoder import VectorMaskDecoder

SEG, NONE = 0, 1
"""Rows of the two answers."""


@dataclass(frozen=True)
class PictureTensors:
    """One image as input: tiles f32 [T, 3, S, S] with the ids of their prompt i64 [P], the
    high-resolution input f32 [1, 3, D, D], the mask decoder's f32 [1, 3, M, M], and boxes f32
    [N, 4], [M, 4].
    """

    tiles: Tensor
    prefix_ids: Tensor
    detail: Tensor
    pixels: Tensor
    objects: Tensor
    parts: Tensor


class AnswerTokens(nn.Module):
    """The words `[SEG]` and `[NONE]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.zeros(2, width))
        self.chosen = nn.Parameter(torch.zeros(2, width))

    @torch.no_grad()
    def start_from(self, words: Tensor, outputs: Tensor) -> None:
        """Begin at the mean of the known rows, a little apart: equal ones would learn alike."""
        for own, table in ((self.read, words), (self.chosen, outputs)):
            rows = table.float()
            own.copy_(rows.mean(0) + 0.1 * rows.std() * torch.randn(own.shape))


class MaskPrompt(nn.Module):
    """Projects the hidden state of a `[SEG]` to the mask decoder (LISA's two layers)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, d] -> [N, c]."""
        hidden = hidden.to(self.inner.weight.dtype)
        return self.outer(nn.functional.relu(self.inner(hidden)))


class Unires(nn.Module):
    """The text segmenter."""

    def __init__(self, mllm: Mllm, detail: Any, sam: Any, config: UniresConfig) -> None:
        super().__init__()
        self.config, self.mllm, self.detail = config, mllm, detail
        self.decoder = VectorMaskDecoder(sam)
        channels = int(detail.config.hidden_sizes[-1])
        self.flow = GranularFlow(channels, config.flow, width=mllm.width)
        self.answers = AnswerTokens(mllm.width)
        self.mask_prompt = MaskPrompt(mllm.width, self.decoder.width)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.answers.read.device

    def train(self, mode: bool = True) -> Unires:  # noqa: FBT001, FBT002  (torch's signature)
        """Switch to training; image encoders stay in evaluation mode."""
        super().train(mode)
        self.detail.eval()
        self.decoder.sam.vision_encoder.eval()
        return self

    def open_prompt(self, prompt: CaptionPrompt, picture: PictureTensors) -> PromptOpening:
        """Return the part of the prompt that all texts of a picture share: image tokens, objects,
        parts.
        """
        with torch.no_grad():
            image = self.mllm.vision(picture.tiles)
            detail = self.detail(picture.detail.to(self.device)).last_hidden_state.float()
        before = embed_prefix(self.mllm, prompt, picture.prefix_ids, image)
        boxes = picture.objects.to(self.device), picture.parts.to(self.device)
        own = self.flow(detail, *boxes, image.float())
        x = torch.cat([before.x, own[None].to(before.x.dtype)], dim=1)
        flags = torch.cat([before.image, before.image.new_zeros(len(own))])
        return self.mllm.make_opening(x, flags)

    def encode_masks(self, picture: PictureTensors) -> list[Tensor]:
        """Return the mask decoder's maps of a picture."""
        return self.decoder.encode(picture.pixels.to(self.device))

    def embed_answers(self, rows: Tensor) -> Tensor:
        """Rows of answers i64 [...] -> [..., d]."""
        return self.answers.read[rows].to(self.mllm.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., d] -> f32 [..., V + 2]: the base's words, then `[SEG]` and `[NONE]`."""
        words = self.mllm.logits(hidden).float()
        return torch.cat([words, hidden.float() @ self.answers.chosen.T], dim=-1)

    def decode_masks(self, maps: list[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [N, d] of `[SEG]`s -> mask logits f32 [N, h, w], estimates f32 [N]."""
        return self.decoder(maps, self.mask_prompt(hidden))
