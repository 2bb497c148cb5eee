"""Runs one update of the nano captioner: loss, gradients, moving average. It can be tested
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ureca.models.nano.network import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.training.batch_sampler import Batch, Group
from ureca.models.training.checkpoints import get_optimizer_tensors, load_optimizer
from ureca.models.training.config import TrainConfig
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.losses import Guides, compute_plain_loss, compute_training_loss
from ureca.models.training.schedule import compute_rate_with_decay


def make_parameter_groups(model: Captioner, config: TrainConfig) -> list[dict[str, object]]:
    """Matrices have weight decay, vectors and embeddings do not. The trunk, and a detector's neck,
    have their own rate.
    """
    slow = ("trunk.", "pyramid.sights.neck.")
    trunk = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith(slow)]
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith(slow):
            (decay if parameter.ndim > 1 and "embedding" not in name else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decay, "weight_decay": config.weight_decay, "rate": config.learning_rate},
        {"params": plain, "weight_decay": 0.0, "rate": config.learning_rate},
    ]
    if trunk:
        rate = config.trunk_learning_rate
        groups.append({"params": trunk, "weight_decay": config.weight_decay, "rate": rate})
    return groups


class NanoLearner(Learner[Group]):
    """Holds the captioner, its optimiser and its moving average."""

    files = ("model", "average", "optimizer")

    def __init__(
        self,
        model: Captioner,
        average: Captioner,
        config: TrainConfig,
        *,
        worker: Worker,
        guides: Guides,
        read: Callable[[Sequence[Group]], tuple[Batch, Raw]],
    ) -> None:
        """`read` makes arrays and feature maps of groups."""
        optimizer = torch.optim.AdamW(
            make_parameter_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.average, self.config = model, average, config
        self.guides, self.read = guides, read

    def rate_factor(self, step: int) -> float:
        """Return the factor 0..1 of the learning-rate schedule."""
        return compute_rate_with_decay(
            step,
            steps=self.config.steps,
            warmup_steps=self.config.warmup_steps,
            decay_steps=self.config.decay_steps,
        )

    def add_gradients(self, groups: Sequence[Group]) -> float:
        """Compute gradients of one batch; return the loss in nats per token."""
        batch, raw = self.read(groups)
        with torch.autocast(raw[0].device.type, torch.bfloat16, enabled=self._autocast(raw)):
            seen = self._complete_maps(self.model, raw)
            loss = compute_training_loss(
                self.model, batch, seen, config=self.config, guides=self.guides
            )
        loss.backward()
        return float(loss.detach())

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return weights, moving average and optimiser."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": get_optimizer_tensors(self.optimizer),
        }

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(files["model"])
        self.average.load_state_dict(files["average"])
        load_optimizer(self.optimizer, files["optimizer"])

    def _complete_maps(self, model: Captioner, raw: Raw) -> Raw:
        """Return the maps, the coarse one from the tail in training."""
        if self.config.trunk != "tail":
            return raw
        fine, middle, _, *rest = raw
        coarse = model.trunk.run_tail(middle.contiguous(memory_format=torch.channels_last))
        return (fine, middle, coarse, *rest)

    @staticmethod
    def _autocast(raw: Raw) -> bool:
        return raw[0].device.type == "cuda"

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Update the moving average."""
        keep = min(self.config.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - keep
        )

    @torch.inference_mode()
    def validate(self, batches: list[tuple[Batch, Raw]]) -> float:
        """Return the mean loss of the moving average, without smoothing or dropout."""
        self.average.eval()
        average, prior = self.average, self.guides.prior
        losses = [
            float(
                compute_plain_loss(average, batch, self._complete_maps(average, raw), prior=prior)
            )
            for batch, raw in batches
        ]
        return sum(losses) / max(1, len(losses))
