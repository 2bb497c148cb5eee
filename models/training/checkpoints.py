"""Saves and resumes a training run: tensors as safetensors in `step-<n>/`; a pointer file names the
newest.

The two newest saves are kept and the pointer is replaced last, so one complete save remains
whenever the process is killed.
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
    """An object that can be saved and resumed: `loop.Learner`."""

    files: tuple[str, ...]
    worker: Worker

    def state(self) -> dict[str, Tensors]:
        """Return the content of a save, by file."""

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore what `state` returned."""


def save_state(folder: Path, learner: Resumable, *, step: int) -> None:
    """Write `step-<n>/` and point to it. The leader writes; all workers must call this, because
    each may hold a part. `step` is the next step to run.
    """
    state = learner.state()
    if learner.worker.leads:
        write_save(folder, step, state)


def resume_state(folder: Path, learner: Resumable) -> int:
    """Load the newest save into `learner`; return the step to continue with (0 if there is no
    save).

    Raises `WeightsError` for a save that cannot be read or is of another model.
    """
    saved = read_save(folder, learner.files)
    if saved is None:
        return 0
    step, tensors = saved
    try:
        learner.load_state(dict(zip(learner.files, tensors, strict=True)))
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise format_unusable(folder, error) from error
    return step


def write_save(folder: Path, step: int, files: Mapping[str, Tensors]) -> None:
    """Write `step-<n>/<name>.safetensors` for each of `files` and point to it."""
    target = folder / f"step-{step:07d}"
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(_to_plain(tensors), part / f"{name}.safetensors")
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    pointer = folder / (_POINTER + ".part")
    pointer.write_text(json.dumps({"step": step, "folder": target.name}))
    pointer.replace(folder / _POINTER)
    for old in sorted(folder.glob("step-*[0-9]"))[:-_KEPT]:
        shutil.rmtree(old)


def read_save(folder: Path, names: tuple[str, ...]) -> tuple[int, list[dict[str, Tensor]]] | None:
    """Return step and tensors of the newest save, or None.

    Raises `WeightsError` when it cannot be read.
    """
    if not (folder / _POINTER).exists():
        return None
    try:
        pointer = json.loads((folder / _POINTER).read_text())
        saved = folder / pointer["folder"]
        tensors = [load_file(saved / f"{name}.safetensors") for name in names]
        return int(pointer["step"]), tensors
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise format_unusable(folder, error) from error


def format_unusable(folder: Path, error: Exception) -> WeightsError:
    """Format the error for a save that does not fit."""
    return WeightsError(f"cannot resume from {folder}: {error}; remove it to start again")


def get_optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of every parameter as `<index>.<key>`."""
    state = optimizer.state_dict()["state"]
    return {f"{n}.{key}": value for n, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore what `get_optimizer_tensors` returned. Rates and groups stay those of `optimizer`."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _to_plain(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
