"""The training loop that all recipes share: plan, step, save, log, resume.

A recipe builds a `Run`: a `Learner` computes the loss of a batch, a `Plan` selects the batches, and
the run writes the checkpoint. Everything random follows from (seed, step), so a resumed run equals
an uninterrupted one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ureca.models.training.checkpoints import resume_state, save_state
from ureca.models.training.distributed import Worker, join_workers, select_device

Group = TypeVar("Group")
Row = dict[str, float]


class TrainingSettings(Protocol):
    """The part of a recipe's configuration that the loop reads."""

    @property
    def steps(self) -> int:
        """Updates of the whole run."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""

    @property
    def threads(self) -> int:
        """CPU threads; 0 leaves torch's default."""

    @property
    def device(self) -> str:
        """`auto`, `cpu` or `cuda`."""

    @property
    def gradient_clip(self) -> float:
        """Maximum norm of a gradient."""

    @property
    def save_every(self) -> int:
        """Steps between two saves."""


class Plan(ABC, Generic[Group]):
    """Selects epochs of batches. A batch is a list of groups, which the workers share."""

    @abstractmethod
    def epoch(self, epoch: int) -> list[list[Group]]:
        """Return the batches of one epoch: a pure function of (seed, epoch)."""

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, list[Group]]]:
        """Yield the groups of steps `start..stop-1`."""
        batches = itertools.chain.from_iterable(map(self.epoch, itertools.count()))
        yield from itertools.islice(enumerate(batches), start, stop)


class Learner(ABC, Generic[Group]):
    """Holds model and optimiser and runs one update per batch.

    A group of the optimiser has its own `rate`, and may have a factor `times` on it.
    """

    files: tuple[str, ...]
    """Names of the files of `state`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
        *,
        worker: Worker,
    ) -> None:
        self.optimizer, self.worker = optimizer, worker
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._module, self._settings = model, settings

    @abstractmethod
    def rate_factor(self, step: int) -> float:
        """Return the factor 0..1 of the learning-rate schedule."""

    @abstractmethod
    def add_gradients(self, groups: Sequence[Group]) -> float:
        """Compute gradients of this worker's groups; return the loss in nats per token."""

    @abstractmethod
    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the content of a save, by file. All workers must call this in the same order."""

    @abstractmethod
    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore what `state` returned. Raises `ValueError`, `KeyError`, `IndexError` or
        `RuntimeError` when it belongs to another model.
        """

    def learn(self, step: int, groups: Sequence[Group]) -> float:
        """Run one update; dropout is seeded by (seed, step, worker). Return the loss."""
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * 64 + self.worker.rank)
        self._module.train()
        factor = self.rate_factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor * group.get("times", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.add_gradients(self.worker.part(groups))
        self.average_gradients()
        self.optimizer.step()
        self.after_update(step)
        return loss

    def average_gradients(self) -> None:
        """Average the gradient over all workers and clip its norm."""
        self.worker.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self._settings.gradient_clip)

    def after_update(self, step: int) -> None:
        """Run after an update."""


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Group]):
    """What a recipe passes to the loop, built once."""

    learner: Learner[Group]
    plan: Plan[Group]
    title: str
    """Of the progress bar."""
    log_every: int
    row: Callable[[int, float], Row]
    """Converts (steps done, mean loss since the last row) to a row of `log.jsonl`; called on the
    leader.
    """
    keep: Callable[[Path], None]
    """Writes the checkpoint. All workers call it; the leader writes."""
    tell: Callable[[Row], None] = lambda _row: None
    """Receives every row, too."""


def train(
    settings: TrainingSettings,
    out: Path,
    build: Callable[[Worker, torch.device], Run[Any]],
    *,
    stop_after: int | None = None,
) -> Path:
    """Build, resume, train and write the checkpoint; return its folder.

    `stop_after` ends the session early at that step with a save, as a kill would (the schedule is
    unchanged).
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = select_device(settings.device)
    with join_workers(device) as worker:
        run = build(worker, device)
        start = resume_state(out / "state", run.learner)
        _run_loop(run, settings, out, start, min(settings.steps, stop_after or settings.steps))
        run.keep(out / "checkpoint")
        worker.wait()
    return out / "checkpoint"


def _run_loop(run: Run[Any], settings: TrainingSettings, out: Path, start: int, stop: int) -> None:
    learner, leads = run.learner, run.learner.worker.leads
    began, losses = time.monotonic(), []
    bar = tqdm(
        run.plan.steps(start, stop),
        initial=start,
        total=settings.steps,
        desc=run.title,
        unit="step",
        disable=None if leads else True,
    )
    for step, groups in bar:
        losses.append(learner.learn(step, groups))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        done = step + 1
        if done % settings.save_every == 0 or done == stop:
            save_state(out / "state", learner, step=done)
        if leads and (done % run.log_every == 0 or done == stop):
            row = run.row(done, sum(losses) / len(losses))
            row["session_s"] = round(time.monotonic() - began, 1)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            run.tell(row)
            losses.clear()


def build_training_parser(
    prog: str, description: str | None, *, example: str, recipe: str, out: Path
) -> argparse.ArgumentParser:
    """Build the options that all training commands share. `recipe` describes the YAML file."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example: {example}",
    )
    add = parser.add_argument
    add("config", type=Path, help=f"YAML of {recipe}")
    add("--out", type=Path, default=out, help="folder of this run (default: %(default)s)")
    add(
        "--set", action="append", default=[], metavar="a.b=c", help="override one value; repeatable"
    )
    add("--stop-after", type=int, metavar="STEP", help="end this session at a step, to be resumed")
    return parser
