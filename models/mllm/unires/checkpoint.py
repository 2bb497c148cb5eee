"""Checkpoints of a text segmenter: a folder of tensors and JSON, no code and no pickle.

unires.json           UniresConfig
learned.safetensors   flow, answers, projection, and what of decoder and language model learnt

The captioner (a checkpoint of `ureca mllm`), the high-resolution tower and the SAM are named by
relative paths with their hashes; none of them is copied or changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from ureca.errors import WeightsError
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    hash_base,
    hash_checkpoint,
    load_checkpoint,
    read_tensors,
)
from ureca.models.mllm.mllm_engine import make_prompt
from ureca.models.mllm.network.lora import add_lora, merge_lora
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.staged.files import (
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
from ureca.models.mllm.unires.config import UniresConfig
from ureca.models.mllm.unires.mask_decoder import find_decoder_class
from ureca.models.mllm.unires.network import Unires
from ureca.models.mllm.unires.picture_input import UniresReader
from ureca.models.mllm.unires.proposals import open_proposer

CONFIG = "unires.json"
TOWERS = {"convnext": "ConvNextModel", "convnextv2": "ConvNextV2Model"}
"""High-resolution towers by `model_type`."""
_FRESH = ("flow.", "answers.", "mask_prompt.")


def wrap_captioner(
    captioner: Path,
    out: Path,
    config: UniresConfig | None = None,
    *,
    detail: Path,
    decoder: Path,
    seed: int = 0,
) -> Path:
    """Write the checkpoint `out` over a captioner, a ConvNeXt (`detail`) and a SAM (`decoder`).

    Raises `WeightsError` for what does not fit.
    """
    if (out / CONFIG).exists():
        raise WeightsError(f"{out} holds a checkpoint already: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    config = replace(
        config or UniresConfig(),
        captioner=relate(out, captioner),
        detail=relate(out, detail),
        decoder=relate(out, decoder),
        captioner_sha256=hash_checkpoint(captioner),
        detail_sha256=hash_base(detail),
        decoder_sha256=hash_base(decoder),
    )
    torch.manual_seed(seed)
    model = _assemble(out, config, device="cpu")
    words = model.mllm.base.get_input_embeddings().weight.detach()
    model.answers.start_from(words, model.mllm.base.get_output_embeddings().weight.detach())
    model.flow.scale_to_embeddings(float(words.float().std()))
    names = [name for name, _ in model.named_parameters() if name.startswith(_FRESH)]
    save_unires(out, model, config=config, names=names)
    return out


def save_unires(out: Path, model: Unires, *, config: UniresConfig, names: Iterable[str]) -> None:
    """Write the settings and the named parameters."""
    out.mkdir(parents=True, exist_ok=True)
    own = dict(model.named_parameters())
    save_tensors(out / LEARNED, {name: own[name] for name in names})
    write_settings(out / CONFIG, config)


def save_stage(out: Path, start: Path, model: Unires, learned: Iterable[str]) -> None:
    """Write the checkpoint of a stage that began at `start`."""
    config = model.config
    config = replace(
        config,
        captioner=relate(out, start / config.captioner),
        detail=relate(out, start / config.detail),
        decoder=relate(out, start / config.decoder),
    )
    wanted = set(read_tensors(start / LEARNED)) | set(learned)
    names = [name for name, _ in model.named_parameters() if name in wanted]
    save_unires(out, model, config=config, names=names)


def load_unires(folder: Path, *, device: str = "cpu", merge: bool = True) -> Unires:
    """Read a checkpoint, in eval mode; adapters are merged unless `merge` is off. Raises
    `WeightsError` for what is missing, damaged or another model.
    """
    config = read_config(folder)
    captioner = (folder / config.captioner).resolve()
    if hash_checkpoint(captioner) != config.captioner_sha256:
        raise WeightsError(f"{captioner} is another captioner than {folder} was made with")
    model = _assemble(folder, config, device=device)
    if config.lora is not None:
        add_lora(model.mllm.language, config.lora)
    load_learned(model, folder / LEARNED)
    if merge:
        merge_lora(model.mllm.language)
    return model.eval()


def _assemble(folder: Path, config: UniresConfig, *, device: str) -> Unires:
    captioner, detail, decoder = (
        (folder / place).resolve() for place in (config.captioner, config.detail, config.decoder)
    )
    kind = read_model_type(detail)
    if kind not in TOWERS:
        raise WeightsError(f"{detail} is of type {kind!r}: expected one of {', '.join(TOWERS)}")
    mllm = load_checkpoint(captioner, device=device)
    if math.gcd(mllm.width, config.flow.heads) != config.flow.heads:
        raise WeightsError(f"flow.heads is {config.flow.heads}: must divide {mllm.width}")
    tower = open_frozen(detail, TOWERS[kind], config.detail_sha256, dtype=torch.float32)
    name = find_decoder_class(read_model_type(decoder))
    sam = open_frozen(decoder, name, config.decoder_sha256, dtype=torch.float32)
    return Unires(mllm, tower, sam, config).to(device)


def make_reader(model: Unires, folder: Path) -> UniresReader:
    """Return what makes the model's input. `folder`: its checkpoint."""
    words = TextTokenizer.load(folder / model.config.captioner / TOKENIZER)
    proposer = open_proposer(model.config.proposals, root=folder)
    return UniresReader(model, make_prompt(model.mllm, words), words, proposer, folder=folder)


def read_config(folder: Path) -> UniresConfig:
    """Read `unires.json`. Raises `WeightsError`."""
    return read_settings(UniresConfig, folder / CONFIG)


def hash_unires(folder: Path) -> str:
    """Return one hash of a checkpoint."""
    config = read_config(folder)
    parts = (config.captioner_sha256, config.detail_sha256, config.decoder_sha256)
    return hash_files(folder / LEARNED, start="".join(parts))
