"""Runs the language model on a batch of regions: own keys and values grow, the prefix is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ureca.models.mllm.network.model import Mllm, insert_features
from ureca.models.mllm.network.positions import PromptOpening
from ureca.models.mllm.network.prefix_attention import Prefix
from ureca.models.mllm.prompt import I64, CaptionPrompt
from ureca.models.preprocess import Grid
from ureca.models.runtime.decode import Choice

_BLOCKED = -1e9
"""Added to scores of padding; finite, so that a row of padding alone is no NaN."""


@torch.inference_mode()
def make_prefix_input(
    model: Mllm, prompt: CaptionPrompt, grid: Grid, image_tokens: Tensor
) -> PromptOpening:
    """Return the input before the mask block, with image tokens in place."""
    return embed_prefix(model, prompt, torch.from_numpy(prompt.encode_prefix(grid)), image_tokens)


def embed_prefix(
    model: Mllm, prompt: CaptionPrompt, ids: Tensor, image_tokens: Tensor
) -> PromptOpening:
    """Return the same from ids [P]; training runs it with gradients."""
    rows = ids.to(model.device)[None]
    x = insert_features(model.embed(rows), rows, prompt.image_id, image_tokens)
    return model.make_opening(x, rows[0] == prompt.image_id)


def make_suffix_input(
    model: Mllm, prompt: CaptionPrompt, ids: I64, region_tokens: Tensor
) -> Tensor:
    """Return embeddings [1, L, d] of one region's own prompt, with mask tokens [K, d] in place."""
    rows = torch.from_numpy(ids).to(model.device)[None]
    x = model.embed(rows, mark_ids=prompt.mark_ids)
    return insert_features(x, rows, prompt.mask_id, region_tokens)


class SuffixBatch:
    """A batch behind one prefix; its positions continue from `goes_on`. Prompts are padded on the
    left, so all rows grow together.
    """

    def __init__(self, model: Mllm, prefix: Prefix, goes_on: int) -> None:
        from transformers import DynamicCache

        self._model, self._prefix, self._goes_on = model, prefix, goes_on
        self._cache = DynamicCache()
        self._padding = torch.zeros(0, dtype=torch.long)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Tensor]) -> Tensor:
        """Run prompts [1, L, d] of different lengths; return logits f32 [N, V] of the next
        token.
        """
        return self._run(self.pad(prompts))

    def pad(self, prompts: Sequence[Tensor]) -> Tensor:
        """Begin with prompts [1, L, d] of different lengths: return them as one tensor."""
        longest = max(x.shape[1] for x in prompts)
        padded = [torch.nn.functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in prompts]
        padding = [longest - x.shape[1] for x in prompts]
        self._padding = torch.tensor(padding, device=self._model.device)
        return torch.cat(padded)

    @torch.inference_mode()
    def step(self, ids: I64) -> Tensor:
        """Run one more token for each row; return logits f32 [N, V]."""
        chosen = torch.from_numpy(ids).to(self._model.device)
        return self._run(self._model.embed(chosen[:, None]))

    @torch.inference_mode()
    def keep(self, slots: I64) -> None:
        """Drop all other rows."""
        rows = torch.from_numpy(slots).to(self._model.device)
        self._cache.reorder_cache(rows)  # type: ignore[arg-type]
        self._padding = self._padding[rows]

    def _run(self, x: Tensor) -> Tensor:
        return self._model.logits(self.extend(x)).float()

    @torch.inference_mode()
    def extend(self, x: Tensor) -> Tensor:
        """Run the next embeddings [N, L, d]; return hidden states [N, d] of the last ones."""
        steps = x.shape[1]
        past = self._cache.get_seq_length()
        at = torch.arange(past, past + steps, device=x.device)
        positions = (at[None] - self._padding[:, None]).clamp_min(0) + self._goes_on
        answer = self._model.extend(
            self._cache,
            inputs_embeds=x,
            attention_mask=self._make_mask(at, past + steps, x),
            position_ids=positions,
            ureca_prefix=self._prefix,
        )
        return answer.last_hidden_state[:, -1]

    def _make_mask(self, at: Tensor, total: int, like: Tensor) -> Tensor:
        """Return the values added to own scores: [N, 1, T, S]. Later tokens and padding are
        masked.
        """
        keys = torch.arange(total, device=like.device)
        seen = (keys[None, None] <= at[None, :, None]) & (keys >= self._padding[:, None])[:, None]
        nothing = torch.zeros((), dtype=like.dtype, device=like.device)
        return torch.where(seen, nothing, torch.full_like(nothing, _BLOCKED))[:, None]


def choose(logits: Tensor, stop_ids: Sequence[int]) -> Choice:
    """Return the likeliest token of each row. Every stop token is reported as the first of them."""
    best = logits.argmax(-1)
    logprob = torch.log_softmax(logits, dim=-1).gather(1, best[:, None])[:, 0]
    ids = best.cpu().numpy()
    ids = np.where(np.isin(ids, stop_ids), stop_ids[0], ids)
    return Choice(ids.astype(np.int64), logprob.cpu().numpy())


def count_prefix_bytes(prefix: Any) -> int:
    """Return the bytes of a prefix: the memory of one encoded image."""
    return sum(t.numel() * t.element_size() for layer in prefix for t in layer)
