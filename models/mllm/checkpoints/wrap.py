"""Wraps a base model as a `ureca-mllm` checkpoint: reads its sizes, adds mask tokens, initialises
weights.

New tokens get the mean of the known embeddings (and of the output rows), so an untrained wrap gives
the base's output. The mask encoder starts from Xavier's distribution and must be trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    get_mask_tensors,
    hash_base,
    load_checkpoint,
    load_mask_tensors,
    load_trained,
    read_config,
    save_parts,
    save_trained,
    write_config,
)
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.network.families import (
    choose_tile_px,
    count_tile_side,
    find_family,
    register_base,
)
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.prompt import TextTokenizer

EXTRA = "mllm"


def wrap_base(
    base_folder: Path,
    out: Path,
    config: MllmConfig | None = None,
    *,
    parts: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write the checkpoint `out` over the model in `base_folder`, a folder of `save_pretrained`.

    `config` gives what the base does not decide; None takes the family's prompt and the paper's
    sizes. `parts` is a folder of `pack_parts`: its parts are then combined with this base. Raises
    `WeightsError` for a base that does not fit.
    """
    package = require("transformers", extra=EXTRA)
    if (out / "mllm.json").exists():
        raise WeightsError(f"{out} holds a checkpoint already: choose another folder")
    words = load_base_tokenizer(base_folder)
    register_base(base_folder)
    if parts is not None:
        config = read_config(parts)
    try:
        base = package.AutoModelForImageTextToText.from_pretrained(
            base_folder, local_files_only=True, dtype="auto", trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{base_folder} is not a base model: {error}") from error
    fitted = fit_config(base, config)
    known = words.size
    words.add_special(fitted.prompt.mask_specials)
    add_token_rows(base, known=known, wanted=words.size)
    torch.manual_seed(seed)
    return save_wrapped(out, base, words, fitted, parts=parts)


def pack_parts(checkpoint: Path, out: Path) -> Path:
    """Write the trained parts in float16, without base and tokenizer. `wrap_base(..., parts=out)`
    combines them again. Raises `WeightsError` for a checkpoint that cannot be read.
    """
    model = load_checkpoint(checkpoint, merge=False)
    if model.config.base_learned:
        raise WeightsError(f"{checkpoint}: its base learnt, too; keep the whole checkpoint")
    out.mkdir(parents=True, exist_ok=True)
    save_trained(out, model, config=model.config, half=True)
    write_config(out, replace(model.config, base="", base_sha256=""))
    return out


def fit_config(base: Any, config: MllmConfig | None) -> MllmConfig:
    """Return the configuration with what the base decides: its family, sizes and normalisation."""
    kind = base.config.model_type
    family = find_family(kind)
    given = config or MllmConfig(prompt=family.prompt)
    px = choose_tile_px(base.config, given.picture.tile_px)
    picture = replace(
        given.picture,
        tile_px=px,
        tokens_per_tile=count_tile_side(base.config, px) ** 2,
        mean=family.mean,
        std=family.std,
    )
    mask = given.mask
    if family.own_tokens is not None:
        picture = replace(picture, max_tiles=1)
        side, tokens = family.own_tokens.mask_px(base.config), picture.tokens_per_tile
        mask = replace(mask, side_px=side, num_mask_tokens=tokens)
    if family.tower is not None:
        side, tokens, _ = family.tower.shape(base.config)
        mask = replace(mask, side_px=side, region_tokens=tokens)
    return replace(given, family=kind, picture=picture, mask=mask, base="base")


def save_wrapped(
    out: Path,
    base: Any,
    words: TextTokenizer,
    config: MllmConfig,
    *,
    mask: dict[str, Tensor] | None = None,
    parts: Path | None = None,
) -> Path:
    """Write base and mask encoder as a checkpoint: a fresh encoder if none is given, all trained
    parts if `parts` has them. The base keeps its dtype.
    """
    out.mkdir(parents=True, exist_ok=True)
    base.save_pretrained(out / "base")
    words.save(out / TOKENIZER)
    config = replace(config, base="base", base_sha256=hash_base(out / "base"))
    model = Mllm(base, config)
    if mask is not None:
        load_mask_tensors(model, {**get_mask_tensors(model), **mask})
    if parts is not None:
        load_trained(model, parts)
    save_parts(out, model, config=config, tokenizer=out / TOKENIZER)
    return out


@torch.no_grad()
def add_token_rows(base: Any, *, known: int, wanted: int) -> None:
    """Add rows for new tokens, each the mean of the rows of the `known` ones."""
    if base.get_input_embeddings().weight.shape[0] < wanted:
        base.resize_token_embeddings(wanted, mean_resizing=False)
    tables = {id(t.weight): t.weight for t in (base.get_input_embeddings(), base.lm_head)}
    for table in tables.values():
        table[known:wanted] = table[:known].float().mean(0).to(table.dtype)


def load_base_tokenizer(folder: Path) -> TextTokenizer:
    """Load the base's tokenizer: `tokenizer.json`, or whatever `transformers` can convert to it."""
    if (folder / TOKENIZER).is_file():
        return TextTokenizer.load(folder / TOKENIZER)
    package = require("transformers", extra=EXTRA)
    try:
        slow = package.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return TextTokenizer(slow.backend_tokenizer)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise WeightsError(
            f"{folder} has no {TOKENIZER} and its tokenizer cannot be converted: {error}"
        ) from error
