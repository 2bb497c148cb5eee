"""A segmenter of `transformers` with a caption head: two prefix tokens and a causal language model.

The segmenter's own forward pass runs unchanged, so its masks and classes stay what they are, to the
bit. The paper's decoder (GRiT's) is a BERT with a prefix mask; any causal language model of
`transformers` takes its place here, by default a fresh one of the same size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ureca.models.mllm.pix2cap.config import CaptionHeadConfig, Pix2CapConfig
from ureca.models.mllm.pix2cap.segmenters import (
    Queries,
    find_segmenter_family,
    read_queries,
    run_segmenter,
)


class PrefixToken(nn.Module):
    """Projects one feature to one token of the language model."""

    def __init__(self, channels: int, config: CaptionHeadConfig, *, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(channels, config.inner), nn.Linear(config.inner, width)
        self.gradient = config.gradient

    def forward(self, feature: Tensor) -> Tensor:
        """[N, c] -> [N, d]. The gradient into `feature` is scaled."""
        scaled = feature * self.gradient + feature.detach() * (1 - self.gradient)
        return self.outer(self.inner(scaled))


class Pix2Cap(nn.Module):
    """The query captioner."""

    def __init__(self, segmenter: Any, language: Any, config: Pix2CapConfig) -> None:
        super().__init__()
        self.config = config
        self.family = find_segmenter_family(segmenter.config.model_type)
        self.segmenter, self.language = segmenter, language
        width = int(language.config.get_text_config().hidden_size)
        queries, picture = self.family.widths(segmenter.config)
        self.query_token = PrefixToken(queries, config.head, width=width)
        self.picture_token = PrefixToken(picture, config.head, width=width)
        names = inspect.signature(language.forward).parameters
        self._cache = "cache" if "cache" in names else "past_key_values"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.query_token.inner.weight.device

    def train(self, mode: bool = True) -> Pix2Cap:  # noqa: FBT001, FBT002  (torch's signature)
        """Switch to training; frozen parts of the segmenter stay in evaluation mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.segmenter.parameters()):
            self.segmenter.eval()
        for name, module in self.segmenter.named_modules():
            if f"{name}." in self.family.frozen:
                module.eval()
        return self

    def segment(self, pixels: Tensor, **labels: Any) -> tuple[Queries, Any]:
        """Run the segmenter on pixels f32 [1, 3, H, W]; return its queries and its own output."""
        output = run_segmenter(
            self.segmenter, pixels.to(self.device), self.config.task_ids, **labels
        )
        return read_queries(self.segmenter, output), output

    def make_prefix(self, queries: Queries, rows: Tensor) -> Tensor:
        """Return the prefix [N, 2, d] of the chosen queries: the query, then the picture."""
        own = self.query_token(queries.features[rows])
        whole = self.picture_token(queries.picture[None]).expand_as(own)
        return torch.stack([own, whole], dim=1).to(self.language.dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> [..., d]."""
        return self.language.get_input_embeddings()(ids)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Logits [N, L, V] of embeddings [N, L, d] that are padded on the right; `mask` [N, L]."""
        return self.language(inputs_embeds=x, attention_mask=mask, use_cache=False).logits

    def extend(self, x: Tensor, cache: Any) -> Tensor:
        """Logits f32 [N, V] of the token behind [N, L, d], which `cache` is extended by."""
        answer = self.language(inputs_embeds=x, use_cache=True, **{self._cache: cache})
        return answer.logits[:, -1].float()
