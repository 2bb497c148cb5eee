"""Reads and writes checkpoints: a folder with `model.safetensors`, `config.json` and
`tokenizer.json`. It contains tensors and JSON, no code.

Published checkpoints hold float16 weights (half the size). They are always loaded as float32, so an
export of a checkpoint equals the model that is loaded from it. A trunk that was never trained is
left out; it is read from its own package again.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ureca.errors import WeightsError
from ureca.models.config import CaptionerConfig
from ureca.models.nano.network import Captioner

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
MAX_REASON = 2000
"""Characters of an error about tensors."""


def save_checkpoint(
    folder: Path,
    model: Captioner,
    *,
    tokenizer_json: str,
    half: bool = False,
    left_out: Collection[str] = (),
) -> None:
    """Write a checkpoint. Each file appears complete or not at all.

    `left_out` names tensors that equal ImageNet's and need not be stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = torch.float16 if half else torch.float32
    state = {
        name: tensor.detach().to(kind).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in left_out
    }
    save_file(state, folder / (WEIGHTS + ".part"), metadata={"format": "pt"})
    (folder / (WEIGHTS + ".part")).replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")
    (folder / TOKENIZER).write_text(tokenizer_json)


def load_checkpoint(folder: Path) -> Captioner:
    """Read a checkpoint as float32, in eval mode.

    Raises `WeightsError` when a file is missing, damaged, or does not fit its configuration. Raises
    `MissingExtraError` when the ImageNet part was left out and its package is not installed.
    """
    try:
        config = msgspec.convert(json.loads((folder / CONFIG).read_text()), CaptionerConfig)
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise WeightsError(
            f"{folder} is not a checkpoint ({error}); expected {CONFIG} and {WEIGHTS}"
        ) from error
    model = Captioner(config)
    if any(name.startswith("trunk.") and name not in state for name in model.state_dict()):
        model.load_imagenet()
        state = {**_list_imagenet_tensors(model), **state}
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        reason = str(error)[:MAX_REASON]  # it lists every tensor of a file that may have millions
        raise WeightsError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}") from error
    return model.eval()


def _list_imagenet_tensors(model: Captioner) -> dict[str, Tensor]:
    """List the tensors that `save_checkpoint` may leave out: the trunk and the classifier."""
    parts = ("trunk.", "features.classifier.")
    return {name: t for name, t in model.state_dict().items() if name.startswith(parts)}
