"""Reference caption loops in eager torch: with the KV cache, and without it.

Both are greedy and must agree token by token. Every faster runtime is compared with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ureca.models.nano.network import Captioner


@torch.inference_mode()
def generate(
    model: Captioner,
    *,
    image_tokens: Tensor,
    region_tokens: Tensor,
    start_id: int,
    eos_id: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Caption N regions of one image in one batch. Returns N token lists without start and end
    tokens.
    """
    prefix = model.make_prefix(image_tokens)
    rows = region_tokens.shape[0]
    start = model.embed(torch.full((rows, 1), start_id))
    logits, own = model.run_lm(
        torch.cat([region_tokens, start], dim=1), prefix, model.language.make_empty_kv(rows)
    )
    chosen = [logits.argmax(-1)]
    while len(chosen) < max_new_tokens and not _have_all_ended(chosen, eos_id):
        logits, own = model.run_lm(model.embed(chosen[-1][:, None]), prefix, own)
        chosen.append(logits.argmax(-1))
    return [_cut_at(row, eos_id) for row in torch.stack(chosen, dim=1).tolist()]


@torch.inference_mode()
def generate_uncached(
    model: Captioner,
    *,
    image_tokens: Tensor,
    region_tokens: Tensor,
    start_id: int,
    eos_id: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Caption the regions by running the whole prompt, image included, for every token of every
    region.
    """
    empty = model.language.make_empty_kv(1)
    captions: list[list[int]] = []
    for row in region_tokens:
        ids = [start_id]
        while len(ids) <= max_new_tokens and ids[-1] != eos_id:
            prompt = torch.cat([image_tokens[0], row, model.embed(torch.tensor(ids))])
            ids.append(int(model.run_lm(prompt[None], empty, empty)[0].argmax(-1)))
        captions.append(_cut_at(ids[1:], eos_id))
    return captions


def _have_all_ended(chosen: list[Tensor], eos_id: int) -> bool:
    return bool((torch.stack(chosen, dim=1) == eos_id).any(dim=1).all())


def _cut_at(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
