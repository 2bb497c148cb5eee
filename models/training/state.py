"""Saving and resuming a run: weights, moving average and optimiser as safetensors, the step as
JSON.

The two newest saves are kept and the pointer file is replaced last, so a kill at any moment leaves
one whole save.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ureca.errors import WeightsError
from ureca.models.training.step import Learner

_POINTER = "latest.json"


def save_state(folder: Path, learner: Learner, *, step: int) -> None:
    """Write `step-<n>/` and point to it. `step` is the next step to run."""
    target = folder / f"step-{step:07d}"
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_tensors(learner.model.state_dict()), part / "model.safetensors")
    save_file(_tensors(learner.average.state_dict()), part / "average.safetensors")
    save_file(_optimizer_tensors(learner.optimizer), part / "optimizer.safetensors")
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
    pointer = json.loads((folder / _POINTER).read_text())
    saved = folder / pointer["folder"]
    try:
        learner.model.load_state_dict(load_file(saved / "model.safetensors"))
        learner.average.load_state_dict(load_file(saved / "average.safetensors"))
        _load_optimizer(learner.optimizer, load_file(saved / "optimizer.safetensors"))
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"cannot resume from {saved}: {error}; remove {folder} to start again"
        ) from error
    return int(pointer["step"])


def _tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return _tensors(
        {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}
    )


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )
