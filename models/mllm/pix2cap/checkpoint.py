"""Checkpoints of a query captioner: a folder of tensors and JSON, no code and no pickle.

pix2cap.json          Pix2CapConfig
learned.safetensors   caption head, language model, and what of the segmenter ever learnt
language/config.json  configuration of the language model
tokenizer.json        of the language model
segmenter/            the segmenter as `save_pretrained` wrote it (or it is named elsewhere)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER, hash_base, read_tensors
from ureca.models.mllm.checkpoints.compose import read_language
from ureca.models.mllm.pix2cap.config import (
    COCO_LABELS,
    COCO_THINGS,
    DecoderConfig,
    Pix2CapConfig,
)
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.segmenters import find_segmenter_family
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.staged.files import (
    EXTRA,
    LEARNED,
    hash_files,
    load_learned,
    open_frozen,
    read_model_type,
    read_settings,
    relate,
    save_tensors,
    write_settings,
)

CONFIG, LANGUAGE = "pix2cap.json", "language"
_TASK = "the task is panoptic"


def wrap_segmenter(
    segmenter: Path,
    out: Path,
    config: Pix2CapConfig | None = None,
    *,
    language: Path,
    seed: int = 0,
) -> Path:
    """Write the checkpoint `out` over the segmenter in a folder of `save_pretrained`.

    `language` is a folder of a causal language model, which is taken with its weights, or a
    `tokenizer.json`: then a fresh decoder of `config.decoder` is made for its words. Raises
    `WeightsError` for what does not fit.
    """
    if (out / CONFIG).exists():
        raise WeightsError(f"{out} holds a checkpoint already: choose another folder")
    config = fit_config(segmenter, config or Pix2CapConfig())
    family = find_segmenter_family(read_model_type(segmenter))
    base = open_frozen(segmenter, family.load, dtype=torch.float32)
    torch.manual_seed(seed)
    decoder, words = make_language(language, config.decoder)
    words.id_of(config.stop)
    model = Pix2Cap(base, decoder, replace(config, segmenter="segmenter"))
    shutil.copytree(segmenter, out / "segmenter")
    words.save(out / TOKENIZER)
    config = replace(model.config, segmenter_sha256=hash_base(out / "segmenter"))
    names = [n for n, _ in model.named_parameters() if not n.startswith("segmenter.")]
    save_checkpoint(out, model, config=config, names=names, tokenizer=out / TOKENIZER)
    return out


def fit_config(segmenter: Path, config: Pix2CapConfig) -> Pix2CapConfig:
    """Return the configuration with what the segmenter decides: input, stuff, its task."""
    package = require("transformers", extra=EXTRA)
    family = find_segmenter_family(read_model_type(segmenter))
    known = package.AutoConfig.from_pretrained(
        segmenter, local_files_only=True, trust_remote_code=False
    )
    picture, selection = config.picture, config.selection
    if family.is_square:
        picture = replace(picture, square_px=int(known.image_size))
    if not selection.stuff and known.num_labels == COCO_LABELS:
        selection = replace(selection, stuff=tuple(range(COCO_THINGS, COCO_LABELS)))
    ids = config.task_ids
    if family.has_task and not ids:
        ids = _encode_task(segmenter, int(known.task_seq_len))
    return replace(config, picture=picture, selection=selection, task_ids=ids)


def _encode_task(segmenter: Path, length: int) -> tuple[int, ...]:
    package = require("transformers", extra=EXTRA)
    try:
        words = package.AutoTokenizer.from_pretrained(
            segmenter, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{segmenter} has no tokenizer: a OneFormer reads its task as text; save its processor "
            f"there, or give task_ids ({error!s:.200})"
        ) from error
    ids = list(words(_TASK, truncation=True, max_length=length)["input_ids"])
    return tuple(ids + [0] * (length - len(ids)))


def make_language(source: Path, decoder: DecoderConfig) -> tuple[Any, TextTokenizer]:
    """Read a causal language model, or make a fresh one for the words of a `tokenizer.json`."""
    if source.is_dir():
        return read_language(source)
    package = require("transformers", extra=EXTRA)
    words = TextTokenizer.load(source)
    config = package.LlamaConfig(
        vocab_size=words.size,
        hidden_size=decoder.width,
        intermediate_size=4 * decoder.width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    return package.LlamaForCausalLM(config), words


def save_checkpoint(
    out: Path,
    model: Pix2Cap,
    *,
    config: Pix2CapConfig,
    names: Iterable[str],
    tokenizer: Path,
) -> None:
    """Write everything except the segmenter; `names` are the parameters that it does not hold."""
    out.mkdir(parents=True, exist_ok=True)
    own = dict(model.named_parameters())
    save_tensors(out / LEARNED, {name: own[name] for name in names})
    model.language.config.save_pretrained(out / LANGUAGE)
    if tokenizer.resolve() != (out / TOKENIZER).resolve():
        shutil.copyfile(tokenizer, out / TOKENIZER)
    write_settings(out / CONFIG, config)


def save_stage(out: Path, start: Path, model: Pix2Cap, learned: Iterable[str]) -> None:
    """Write the checkpoint of a stage that began at `start`; the segmenter is named, not copied."""
    before = set(read_tensors(start / LEARNED))
    config = replace(model.config, segmenter=relate(out, start / model.config.segmenter))
    names = [n for n, _ in model.named_parameters() if n in before or n in set(learned)]
    save_checkpoint(out, model, config=config, names=names, tokenizer=start / TOKENIZER)


def load_pix2cap(folder: Path, *, device: str = "cpu") -> Pix2Cap:
    """Read a checkpoint, in eval mode. Raises `WeightsError` for what is missing or damaged."""
    config = read_config(folder)
    package = require("transformers", extra=EXTRA)
    place = (folder / config.segmenter).resolve()
    family = find_segmenter_family(read_model_type(place))
    segmenter = open_frozen(place, family.load, config.segmenter_sha256, dtype=torch.float32)
    try:
        known = package.AutoConfig.from_pretrained(
            folder / LANGUAGE, local_files_only=True, trust_remote_code=False
        )
        language = package.AutoModelForCausalLM.from_config(known).float()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / LANGUAGE} is no language model: {error!s:.300}") from error
    model = Pix2Cap(segmenter, language, config)
    load_learned(model, folder / LEARNED)
    return model.to(device).eval()


def read_config(folder: Path) -> Pix2CapConfig:
    """Read `pix2cap.json`. Raises `WeightsError`."""
    return read_settings(Pix2CapConfig, folder / CONFIG)


def is_pix2cap(folder: Path) -> bool:
    """Whether a folder holds such a checkpoint."""
    return (folder / CONFIG).is_file()


def hash_pix2cap(folder: Path) -> str:
    """Return one hash of a checkpoint."""
    config = read_config(folder)
    files = (folder / name for name in (LEARNED, TOKENIZER))
    return hash_files(*files, start=hash_base((folder / config.segmenter).resolve()))
