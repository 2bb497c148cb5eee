"""Captions N regions of one image with the shared prefix, and with the package's own `generate`.

Both are greedy and must agree token by token. The second is the reference of the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ureca.models.mllm.backend import SuffixBatch, choose
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.network.positions import PromptOpening


def generate_shared(
    model: Mllm,
    first: PromptOpening,
    suffixes: Sequence[Tensor],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Run the prefix once and suffixes [1, L, d] in one batch; return token lists without the
    stop.
    """
    with torch.inference_mode():
        rows = SuffixBatch(model, model.make_prefix(first), first.goes_on)
    chosen = [choose(rows.start(suffixes), stop_ids).ids]
    while len(chosen) < max_new_tokens and not _have_all_ended(chosen, stop_ids[0]):
        chosen.append(choose(rows.step(chosen[-1]), stop_ids).ids)
    return [_cut_at(row, stop_ids) for row in np.stack(chosen, axis=1).tolist()]


def generate_per_region(
    model: Mllm,
    first: PromptOpening,
    suffixes: Sequence[Tensor],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Run the whole prompt of every region through the package's own `generate`."""
    return [_generate(model, first, [suffix], stop_ids, max_new_tokens)[0] for suffix in suffixes]


def generate_unshared_batch(
    model: Mllm,
    first: PromptOpening,
    suffixes: Sequence[Tensor],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Run the package's `generate` on a batch of whole prompts of one length: nothing is shared."""
    return _generate(model, first, suffixes, stop_ids, max_new_tokens)


@torch.inference_mode()
def _generate(
    model: Mllm,
    first: PromptOpening,
    suffixes: Sequence[Tensor],
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    x = torch.cat([torch.cat([first.x, suffix], dim=1) for suffix in suffixes])
    counted = _make_position_arguments(model, first, x)
    ids = model.base.generate(
        inputs_embeds=x,
        attention_mask=torch.ones(x.shape[:2], dtype=torch.long, device=x.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        **counted,
    )
    asked = (
        x.shape[1] if counted else 0
    )  # the result contains the ids of the prompt if they were given
    return [_cut_at(row[asked:], stop_ids) for row in ids.tolist()]


def _make_position_arguments(model: Mllm, first: PromptOpening, x: Tensor) -> dict[str, Tensor]:
    """Return the package's arguments for positions in three dimensions: where images are, and their
    grids. The ids are read for their shape only, since `x` is given.
    """
    if first.positions is None:
        return {}
    kinds = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    kinds[:, : len(first.image)] = first.image
    picture, vision = model.config.picture, model.base.config.vision_config
    side = picture.tile_px // vision.patch_size
    tiles = int(first.image.sum()) // picture.tokens_per_tile
    grids = torch.tensor([[1, side, side]] * (tiles * len(x)), device=x.device)
    ids = torch.zeros_like(kinds)
    return {"input_ids": ids, "mm_token_type_ids": kinds, "image_grid_thw": grids}


def _have_all_ended(chosen: list[np.ndarray], stop_id: int) -> bool:
    return bool((np.stack(chosen, axis=1) == stop_id).any(axis=1).all())


def _cut_at(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0]] if ends else ids
