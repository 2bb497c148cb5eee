"""Saves of a training run: tensors as safetensors in `step-<n>/`, the newest named by a pointer.

The two newest saves are kept and the pointer is replaced last, so a kill at any moment leaves one
whole save.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ureca.errors import WeightsError
from ureca.models.training.distributed import Worker

_POINTER = "latest.json"
_KEPT = 2

Tensors = Mapping[str, Tensor]


class Resumable(Protocol):
    """What is saved and resumed: `loop.Learner`."""

    files: tuple[str, ...]
    worker: Worker

    def state(self) -> dict[str, Tensors]:
        """What a save holds, by file."""

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what `state` gave."""


def save_state(folder: Path, learner: Resumable, *, step: int) -> None:
    """The leader writes `step-<n>/` and points to it; all workers must call this, since each may
    hold a part. `step` is the next step to run.
    """
    state = learner.state()
    if learner.worker.leads:
        write_save(folder, step, state)


def resume_state(folder: Path, learner: Resumable) -> int:
    """Load the newest save into `learner`; returns the step to go on with (0 if none).

    Raises `WeightsError` for a save that cannot be read or is of another model.
    """
    saved = read_save(folder, learner.files)
    if saved is None:
        return 0
    step, tensors = saved
    try:
        learner.load_state(dict(zip(learner.files, tensors, strict=True)))
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise unusable(folder, error) from error
    return step


def write_save(folder: Path, step: int, files: Mapping[str, Tensors]) -> None:
    """Write `step-<n>/<name>.safetensors` for each of `files` and point to it."""
    target = folder / f"step-{step:07d}"
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(_plain(tensors), part / f"{name}.safetensors")
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    pointer = folder / (_POINTER + ".part")
    pointer.write_text(json.dumps({"step": step, "folder": target.name}))
    pointer.replace(folder / _POINTER)
    for old in sorted(folder.glob("step-*[0-9]"))[:-_KEPT]:
        shutil.rmtree(old)


def read_save(folder: Path, names: tuple[str, ...]) -> tuple[int, list[dict[str, Tensor]]] | None:
    """Step and tensors of the newest save; None when there is none.

    Raises `WeightsError` when it cannot be read.
    """
    if not (folder / _POINTER).exists():
        return None
    try:
        pointer = json.loads((folder / _POINTER).read_text())
        saved = folder / pointer["folder"]
        tensors = [load_file(saved / f"{name}.safetensors") for name in names]
        return int(pointer["step"]), tensors
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise unusable(folder, error) from error


def unusable(folder: Path, error: Exception) -> WeightsError:
    """What to say when a save does not fit."""
    return WeightsError(f"cannot resume from {folder}: {error}; remove it to start again")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter as `<index>.<key>`."""
    state = optimizer.state_dict()["state"]
    return {f"{n}.{key}": value for n, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave; rates and groups stay those of `optimizer`."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _plain(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
