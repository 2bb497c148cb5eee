"""The language model of a batch of regions: own keys and values grow, the prefix is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ureca.models.mllm.network.captioner import Mllm, placed
from ureca.models.mllm.network.positions import Opening
from ureca.models.mllm.network.prefix_attention import Prefix
from ureca.models.mllm.prompt import I64, CaptionPrompt
from ureca.models.preprocess import Grid
from ureca.models.runtime.decode import Choice

_BLOCKED = -1e9
"""Added to scores of padding; finite, so that a row of padding alone is no NaN."""


@torch.inference_mode()
def prefix_input(model: Mllm, prompt: CaptionPrompt, grid: Grid, image_tokens: Tensor) -> Opening:
    """Everything before the mask block, image tokens in place."""
    return prefix_tokens(model, prompt, torch.from_numpy(prompt.prefix(grid)), image_tokens)


def prefix_tokens(model: Mllm, prompt: CaptionPrompt, ids: Tensor, image_tokens: Tensor) -> Opening:
    """The same from ids [P]; training runs it with gradients."""
    rows = ids.to(model.device)[None]
    x = placed(model.embed(rows), rows, prompt.image_id, image_tokens)
    return model.opening(x, rows[0] == prompt.image_id)


def suffix_input(model: Mllm, prompt: CaptionPrompt, ids: I64, region_tokens: Tensor) -> Tensor:
    """Embeddings [1, L, d] of one region's own prompt, mask tokens [K, d] in place."""
    rows = torch.from_numpy(ids).to(model.device)[None]
    x = model.embed(rows, mark_ids=prompt.mark_ids)
    return placed(x, rows, prompt.mask_id, region_tokens)


class Rows:
    """A batch after one prefix, behind which positions count from `goes_on`. Prompts are padded on
    the left, so all rows grow in step.
    """

    def __init__(self, model: Mllm, prefix: Prefix, goes_on: int) -> None:
        from transformers import DynamicCache

        self._model, self._prefix, self._goes_on = model, prefix, goes_on
        self._cache = DynamicCache()
        self._padding = torch.zeros(0, dtype=torch.long)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Tensor]) -> Tensor:
        """Run prompts [1, L, d] of different lengths; logits f32 [N, V] of the next token."""
        longest = max(x.shape[1] for x in prompts)
        padded = [torch.nn.functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in prompts]
        padding = [longest - x.shape[1] for x in prompts]
        self._padding = torch.tensor(padding, device=self._model.device)
        return self._run(torch.cat(padded))

    @torch.inference_mode()
    def step(self, ids: I64) -> Tensor:
        """One more token for each row; logits f32 [N, V]."""
        chosen = torch.from_numpy(ids).to(self._model.device)
        return self._run(self._model.embed(chosen[:, None]))

    @torch.inference_mode()
    def keep(self, slots: I64) -> None:
        """Drop all other rows."""
        rows = torch.from_numpy(slots).to(self._model.device)
        self._cache.reorder_cache(rows)  # type: ignore[arg-type]
        self._padding = self._padding[rows]

    def _run(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        past = self._cache.get_seq_length()
        at = torch.arange(past, past + steps, device=x.device)
        positions = (at[None] - self._padding[:, None]).clamp_min(0) + self._goes_on
        answer = self._model.extend(
            self._cache,
            inputs_embeds=x,
            attention_mask=self._mask(at, past + steps, x),
            position_ids=positions,
            ureca_prefix=self._prefix,
        )
        return self._model.logits(answer.last_hidden_state[:, -1]).float()

    def _mask(self, at: Tensor, total: int, like: Tensor) -> Tensor:
        """What is added to own scores: [N, 1, T, S]; later tokens and padding are not seen."""
        keys = torch.arange(total, device=like.device)
        seen = (keys[None, None] <= at[None, :, None]) & (keys >= self._padding[:, None])[:, None]
        nothing = torch.zeros((), dtype=like.dtype, device=like.device)
        return torch.where(seen, nothing, torch.full_like(nothing, _BLOCKED))[:, None]


def choose(logits: Tensor, stop_ids: Sequence[int]) -> Choice:
    """The likeliest token of each row; every stop token is reported as the first of them."""
    best = logits.argmax(-1)
    logprob = torch.log_softmax(logits, dim=-1).gather(1, best[:, None])[:, 0]
    ids = best.cpu().numpy()
    ids = np.where(np.isin(ids, stop_ids), stop_ids[0], ids)
    return Choice(ids.astype(np.int64), logprob.cpu().numpy())


def release(prefix: Any) -> int:
    """Bytes that a prefix holds: what one encoded picture costs."""
    return sum(t.numel() * t.element_size() for layer in prefix for t in layer)
