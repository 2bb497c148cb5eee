"""Saving and resuming a run over a full-size base: what learns, and the optimiser."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ureca.models.mllm.training.step import Learner
from ureca.models.saves import load_optimizer, optimizer_tensors, read_save, unusable, write_save

_FILES = ("learned", "optimizer")


def save_state(folder: Path, learner: Learner, *, step: int) -> None:
    """Write `step-<n>/` and point to it. `step` is the next step to run."""
    parts = (learned(learner.model), optimizer_tensors(learner.optimizer))
    write_save(folder, step, dict(zip(_FILES, parts, strict=True)))


def resume_state(folder: Path, learner: Learner) -> int:
    """Load the newest save into `learner`; returns the step to go on with (0 if none).

    Raises `WeightsError` for a save that cannot be read or in which other parameters learnt.
    """
    saved = read_save(folder, _FILES)
    if saved is None:
        return 0
    step, (parameters, optimizer) = saved
    try:
        _fill(learner.model, parameters)
        load_optimizer(learner.optimizer, optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        raise unusable(folder, error) from error
    return step


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Everything that learns, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = learned(model)
    if set(own) != set(tensors):
        raise ValueError("another set of parameters learns now than when it was saved")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
