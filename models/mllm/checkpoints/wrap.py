"""A base model becomes a `ureca-mllm` checkpoint: sizes read, mask tokens added, weights fresh.

New words get the mean of the known embeddings (and of the output rows), so an untouched base says
what it said; the mask encoder starts from Xavier's distribution and must be trained.
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
    base_sha256,
    load_checkpoint,
    load_learned,
    load_mask_tensors,
    mask_tensors,
    read_config,
    save_learned,
    save_parts,
    write_config,
)
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.network.captioner import Mllm
from ureca.models.mllm.network.families import family_of, make_known, tile_px, tile_side
from ureca.models.mllm.prompt import TextTokenizer

EXTRA = "mllm"


def wrap(
    base_folder: Path,
    out: Path,
    config: MllmConfig | None = None,
    *,
    parts: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write the checkpoint `out` over the model in `base_folder`, a folder of `save_pretrained`.

    `config` gives what the base does not decide; None takes the family's prompt and the paper's
    sizes. `parts` is a folder of `pack`: the checkpoint is then what was packed, over this base.
    Raises `WeightsError` for a base that does not fit.
    """
    package = require("transformers", extra=EXTRA)
    if (out / "mllm.json").exists():
        raise WeightsError(f"{out} holds a checkpoint already: choose another folder")
    words = base_words(base_folder)
    make_known(base_folder)
    if parts is not None:
        config = read_config(parts)
    try:
        base = package.AutoModelForImageTextToText.from_pretrained(
            base_folder, local_files_only=True, dtype="auto", trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{base_folder} is not a base model: {error}") from error
    fitted = fitted_config(base, config)
    known = words.size
    words.add_special(fitted.prompt.mask_specials)
    widen(base, known=known, wanted=words.size)
    torch.manual_seed(seed)
    return save_whole(out, base, words, fitted, parts=parts)


def pack(checkpoint: Path, out: Path) -> Path:
    """What was learnt, in float16, without base and tokenizer: `wrap(..., parts=out)` brings them
    together again. Raises `WeightsError` for a checkpoint that cannot be read.
    """
    model = load_checkpoint(checkpoint, merge=False)
    out.mkdir(parents=True, exist_ok=True)
    save_learned(out, model, config=model.config, half=True)
    write_config(out, replace(model.config, base="", base_sha256=""))
    return out


def fitted_config(base: Any, config: MllmConfig | None) -> MllmConfig:
    """The configuration with what the base decides: its family, sizes and normalisation."""
    kind = base.config.model_type
    family = family_of(kind)
    given = config or MllmConfig(prompt=family.prompt)
    px = tile_px(base.config, given.picture.tile_px)
    picture = replace(
        given.picture,
        tile_px=px,
        tokens_per_tile=tile_side(base.config, px) ** 2,
        mean=family.mean,
        std=family.std,
    )
    mask = given.mask
    if family.tower is not None:
        side, tokens, _ = family.tower.shape(base.config)
        mask = replace(mask, side_px=side, region_tokens=tokens)
    return replace(given, family=kind, picture=picture, mask=mask, base="base")


def save_whole(
    out: Path,
    base: Any,
    words: TextTokenizer,
    config: MllmConfig,
    *,
    mask: dict[str, Tensor] | None = None,
    parts: Path | None = None,
) -> Path:
    """Base and mask encoder (a fresh one when none is given, all that learnt when `parts` has it)
    as a checkpoint; the base keeps the type it has.
    """
    out.mkdir(parents=True, exist_ok=True)
    base.save_pretrained(out / "base")
    words.save(out / TOKENIZER)
    config = replace(config, base="base", base_sha256=base_sha256(out / "base"))
    model = Mllm(base, config)
    if mask is not None:
        load_mask_tensors(model, {**mask_tensors(model), **mask})
    if parts is not None:
        load_learned(model, parts)
    save_parts(out, model, config=config, tokenizer=out / TOKENIZER)
    return out


@torch.no_grad()
def widen(base: Any, *, known: int, wanted: int) -> None:
    """Rows for new words, each the mean of the rows of the `known` ones."""
    if base.get_input_embeddings().weight.shape[0] < wanted:
        base.resize_token_embeddings(wanted, mean_resizing=False)
    tables = {id(t.weight): t.weight for t in (base.get_input_embeddings(), base.lm_head)}
    for table in tables.values():
        table[known:wanted] = table[:known].float().mean(0).to(table.dtype)


def base_words(folder: Path) -> TextTokenizer:
    """The base's tokenizer: `tokenizer.json`, or whatever `transformers` can turn into one."""
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
