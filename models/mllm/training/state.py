"""Saving and resuming: what learns and the optimiser as safetensors, the step as JSON.

The two newest saves are kept and the pointer is replaced last, so a kill leaves one whole save.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ureca.errors import WeightsError
from ureca.models.mllm.checkpoint import read_tensors
from ureca.models.mllm.training.step import Learner

_POINTER = "latest.json"


def save_state(folder: Path, learner: Learner, *, step: int) -> None:
    """Write `step-<n>/` and point to it. `step` is the next step to run."""
    target = folder / f"step-{step:07d}"
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_plain(learned(learner.model)), part / "learned.safetensors")
    save_file(_plain(_moments(learner.optimizer)), part / "optimizer.safetensors")
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    pointer = folder / (_POINTER + ".part")
    pointer.write_text(json.dumps({"step": step, "folder": target.name}))
    pointer.replace(folder / _POINTER)
    for old in sorted(folder.glob("step-*[0-9]"))[:-2]:
        shutil.rmtree(old)


def resume_state(folder: Path, learner: Learner) -> int:
    """Load the newest save into `learner`; returns the step to go on with (0 if none)."""
    if not (folder / _POINTER).exists():
        return 0
    try:
        pointer = json.loads((folder / _POINTER).read_text())
        saved = folder / pointer["folder"]
        _fill(learner.model, read_tensors(saved / "learned.safetensors"))
        _restore(learner.optimizer, read_tensors(saved / "optimizer.safetensors"))
        return int(pointer["step"])
    except (OSError, ValueError, KeyError, WeightsError) as error:
        raise WeightsError(
            f"cannot resume from {folder}: {error}; remove it to start again"
        ) from error


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Everything that learns, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = learned(model)
    if set(own) != set(tensors):
        raise WeightsError("another set of parameters learns now than when it was saved")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{n}.{key}": value for n, entry in state.items() for key, value in entry.items()}


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
