"""Runs one update of a stage: pictures one after the other, several kinds of loss, averaged
gradients.

Every kind of loss is a sum over its own items (words, masks, pictures), divided by their number
over all workers. So two processes learn what one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ureca.models.mllm.staged.config import StageConfig
from ureca.models.mllm.staged.pictures import PictureRows
from ureca.models.training.checkpoints import get_optimizer_tensors, load_optimizer
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.schedule import compute_cosine_rate


class StageTask(Protocol):
    """What is learnt: reads pictures, and computes the sums of every kind of loss."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each kind of loss, in a fixed order."""

    def read(self, rows: PictureRows, seed: int) -> Any:
        """Read one picture as an example."""

    def count(self, example: Any) -> Mapping[str, float]:
        """Number of items of each kind in an example."""

    def compute(self, example: Any) -> Mapping[str, Tensor]:
        """Sums of the losses of each kind that the example has."""


class StageLearner(Learner[PictureRows]):
    """Holds the trained parameters and their optimiser."""

    files = ("learned", "optimizer")

    def __init__(
        self,
        model: nn.Module,
        task: StageTask,
        config: StageConfig,
        *,
        worker: Worker,
        slow: Mapping[str, float] | None = None,
    ) -> None:
        """`slow`: factors of the learning rate by the beginning of a parameter's name."""
        optimizer = torch.optim.AdamW(make_groups(model, config, slow or {}))
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.task, self.config = model, task, config
        self.last: dict[str, float] = {}
        """The kinds of loss of the last update, before weighting."""
        self._step = 0

    def learn(self, step: int, groups: Sequence[PictureRows]) -> float:
        """Run one update. Return the weighted loss."""
        self._step = step
        return super().learn(step, groups)

    def rate_factor(self, step: int) -> float:
        """Return the factor 0..1 of the learning-rate schedule."""
        share = self.config.warmup_share
        return compute_cosine_rate(step, steps=self.config.steps, warmup_share=share)

    def add_gradients(self, groups: Sequence[PictureRows]) -> float:
        """Compute gradients of this worker's pictures; return the weighted loss of all workers."""
        seeds = [rows.make_seed(self.config.seed, self._step) for rows in groups]
        examples = [self.task.read(rows, seed) for rows, seed in zip(groups, seeds, strict=True)]
        names = list(self.task.weights)
        counts = [self.task.count(example) for example in examples]
        totals = self._sum([sum(count.get(name, 0.0) for count in counts) for name in names])
        sums = dict.fromkeys(names, 0.0)
        for example, seed in zip(examples, seeds, strict=True):
            found = self._run_picture(example, seed, dict(zip(names, totals, strict=True)))
            for name, value in found.items():
                sums[name] += value
        for parameter in self.parameters:  # a worker without pictures takes part, too
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        values = self._sum([sums[name] for name in names])
        means = [value / max(total, 1e-9) for value, total in zip(values, totals, strict=True)]
        self.last = dict(zip(names, means, strict=True))
        return sum(self.task.weights[name] * mean for name, mean in self.last.items())

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return trained parameters by name, and the optimiser."""
        learned = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {"learned": learned, "optimizer": get_optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore what `state` returned. Raises `ValueError` if other parameters were trained."""
        own = self.state()["learned"]
        if own.keys() != files["learned"].keys():
            raise ValueError("another set of parameters learns now than when it was saved")
        for name, tensor in files["learned"].items():
            own[name].copy_(tensor)
        load_optimizer(self.optimizer, files["optimizer"])

    def _run_picture(
        self, example: Any, seed: int, totals: Mapping[str, float]
    ) -> dict[str, float]:
        """Compute gradients of one picture. Workers' gradients are averaged, so each counts
        `count`-fold.
        """
        device = next(self.model.parameters()).device
        mixed = self.config.precision == "bf16"
        with seeded(seed), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            found = self.task.compute(example)
        parts = [
            found[name] * (self.task.weights[name] * self.worker.count / max(totals[name], 1e-9))
            for name in found
        ]
        if parts and (loss := torch.stack(parts).sum()).requires_grad:
            loss.backward()
        return {name: float(value.detach()) for name, value in found.items()}

    def _sum(self, values: Sequence[float]) -> list[float]:
        """Sum numbers over all workers."""
        if self.worker.count == 1:
            return list(values)
        device = next(self.model.parameters()).device
        total = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]


@contextmanager
def seeded(seed: int) -> Any:
    """Draw from `seed` inside, and go on as before behind it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def make_groups(
    model: nn.Module, config: StageConfig, slow: Mapping[str, float]
) -> list[dict[str, object]]:
    """Matrices have weight decay, vectors do not; `slow` parts have a rate of their own."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((f for begin, f in slow.items() if name.startswith(begin)), 1.0)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": own, "rate": config.learning_rate, "times": factor, "weight_decay": decay}
        for (factor, decay), own in found.items()
    ]


def set_trainable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Enable gradients for exactly these parameters, in float32; return their names in order."""
    wanted, found = set(names), []
    for name, parameter in model.named_parameters():
        learns = name in wanted
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()
            found.append(name)
    return found
