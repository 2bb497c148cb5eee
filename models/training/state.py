"""Saving and resuming a run of the nano captioner: weights, moving average and optimiser."""

from __future__ import annotations

from pathlib import Path

from ureca.models.training.checkpoints import (
    load_optimizer,
    optimizer_tensors,
    read_save,
    unusable,
    write_save,
)
from ureca.models.training.step import Learner

_FILES = ("model", "average", "optimizer")


def save_state(folder: Path, learner: Learner, *, step: int) -> None:
    """Write `step-<n>/` and point to it. `step` is the next step to run."""
    parts = (
        learner.model.state_dict(),
        learner.average.state_dict(),
        optimizer_tensors(learner.optimizer),
    )
    write_save(folder, step, dict(zip(_FILES, parts, strict=True)))


def resume_state(folder: Path, learner: Learner) -> int:
    """Load the newest save into `learner`; returns the step to go on with (0 if none).

    Raises `WeightsError` for a save that cannot be read or is of another model.
    """
    saved = read_save(folder, _FILES)
    if saved is None:
        return 0
    step, (model, average, optimizer) = saved
    try:
        learner.model.load_state_dict(model)
        learner.average.load_state_dict(average)
        load_optimizer(learner.optimizer, optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        raise unusable(folder, error) from error
    return step
