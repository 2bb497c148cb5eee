"""Checkpoints of the mask head: `model.safetensors` (float16) and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ureca.errors import WeightsError
from ureca.models.nano.checkpoint import MAX_REASON
from ureca.models.nano.detector import NCNN_FILE, Detector, load_ncnn
from ureca.models.nano.masks.config import MaskHeadConfig
from ureca.models.nano.masks.network import LiteTrunk, MaskNetwork
from ureca.models.nano.trunk import load_imagenet, make_head_conv
from ureca.weights import cached

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def load_published_trunk(model: MaskNetwork, folder: str = "") -> None:
    """Start the trunk from its published weights: YOLOX-nano in `folder` (empty: where
    `ureca weights get yolox-nano` puts it), ImageNet's from their package.
    """
    if isinstance(model.trunk, Detector):
        load_ncnn(model.trunk, (Path(folder) if folder else cached("yolox-nano")) / NCNN_FILE)
    else:
        assert isinstance(model.trunk, LiteTrunk)
        load_imagenet(model.trunk, make_head_conv())


def save_mask_checkpoint(
    folder: Path, model: MaskNetwork, *, left_out: Collection[str] = ()
) -> None:
    """Write a checkpoint in float16; `left_out` are tensors that are still the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().half().contiguous()
        for name, tensor in model.state_dict().items()
        if name not in left_out
    }
    part = folder / (WEIGHTS + ".part")
    save_file(state, part, metadata={"format": "pt"})
    part.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def load_mask_checkpoint(folder: Path, *, trunk_weights: str = "") -> MaskNetwork:
    """Read a checkpoint into float32, in eval mode; a trunk that was left out is brought from its
    published weights. Raises `WeightsError` when something is missing or does not fit.
    """
    try:
        config = msgspec.convert(json.loads((folder / CONFIG).read_text()), MaskHeadConfig)
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise WeightsError(
            f"{folder} is no checkpoint of a mask head ({error}); expected {CONFIG} and {WEIGHTS}"
        ) from error
    model = MaskNetwork(config)
    if not any(name.startswith("trunk.") for name in state):
        load_published_trunk(model, trunk_weights)
        state = {**{n: t for n, t in model.state_dict().items() if n.startswith("trunk.")}, **state}
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        reason = str(error)[:MAX_REASON]  # it lists every tensor of a file that may have millions
        raise WeightsError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}") from error
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
