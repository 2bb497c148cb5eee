"""Saving and resuming a run over a full-size base: what learns, and the optimiser."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ureca.models.mllm.training.shard import split_like, whole
from ureca.models.mllm.training.step import Learner
from ureca.models.training.checkpoints import (
    load_optimizer,
    optimizer_tensors,
    read_save,
    unusable,
    write_save,
)

_FILES = ("learned", "optimizer")


def save_state(folder: Path, learner: Learner, *, step: int) -> None:
    """The leader writes `step-<n>/` and points to it; all workers must call this, since each may
    hold a part. `step` is the next step to run.
    """
    parts = [whole(learned(learner.model)), whole(optimizer_tensors(learner.optimizer))]
    if learner.worker.leads:
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
        load_optimizer(learner.optimizer, _split_optimizer(learner.optimizer, optimizer))
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
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
        own[name].copy_(split_like(tensor, own[name]))


def _split_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Each state in the parts that its parameter has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        name: split_like(tensor, parameters[int(name.partition(".")[0])])
        for name, tensor in tensors.items()
    }
