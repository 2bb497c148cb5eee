"""One optimisation step on one batch: loss, gradients, update, moving average. Testable alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from ureca.models.nano.captioner import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.training.batch_sampler import Batch
from ureca.models.training.config import TrainConfig
from ureca.models.training.distributed import Worker
from ureca.models.training.losses import Guides, plain_loss, training_loss


def trainable_groups(model: Captioner, config: TrainConfig) -> list[dict[str, object]]:
    """Matrices decay, vectors and embeddings do not; the trunk has its own rate."""
    trunk = [p for p in model.trunk.parameters() if p.requires_grad]
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("trunk."):
            (decay if parameter.ndim > 1 and "embedding" not in name else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decay, "weight_decay": config.weight_decay, "rate": config.learning_rate},
        {"params": plain, "weight_decay": 0.0, "rate": config.learning_rate},
    ]
    if trunk:
        rate = config.trunk_learning_rate
        groups.append({"params": trunk, "weight_decay": config.weight_decay, "rate": rate})
    return groups


def schedule(step: int, config: TrainConfig) -> float:
    """Rate factor 0..1: linear warm-up; then a cosine down to 2 %, or constant and a straight fall.

    (The second: arXiv 2405.18392. Its length can be decided while it runs.)
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        left = min(1.0, max(0, config.steps - step) / config.decay_steps)
        return warm * (0.02 + 0.98 * left)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


class Learner:
    """Model, optimiser and moving average, advanced one batch at a time."""

    def __init__(
        self,
        model: Captioner,
        average: Captioner,
        config: TrainConfig,
        *,
        worker: Worker,
        guides: Guides,
    ) -> None:
        self.model, self.average, self.config = model, average, config
        self.worker, self.guides = worker, guides
        self.optimizer = torch.optim.AdamW(
            trainable_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98)
        )

    def learn(self, step: int, batch: Batch, raw: Raw) -> float:
        """One update; dropout is seeded by (seed, step). Returns the loss in nats per token."""
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 64 + self.worker.rank)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * schedule(step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(raw[0].device.type, torch.bfloat16, enabled=self._mixed(raw)):
            seen = self._seen(self.model, raw)
            loss = training_loss(self.model, batch, seen, config=self.config, guides=self.guides)
        loss.backward()
        self.worker.average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self._follow(step)
        return float(loss.detach())

    def _seen(self, model: Captioner, raw: Raw) -> Raw:
        """The maps, with the coarse one from the tail that is being trained."""
        if self.config.trunk != "tail":
            return raw
        fine, middle, _, colour = raw
        coarse = model.trunk.tail(middle.contiguous(memory_format=torch.channels_last))
        return fine, middle, coarse, colour

    @staticmethod
    def _mixed(raw: Raw) -> bool:
        return raw[0].device.type == "cuda"

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        keep = min(self.config.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - keep
        )

    @torch.inference_mode()
    def validate(self, batches: list[tuple[Batch, Raw]]) -> float:
        """Mean loss of the moving average, without smoothing or dropout."""
        self.average.eval()
        average, prior = self.average, self.guides.prior
        losses = [
            float(plain_loss(average, batch, self._seen(average, raw), prior=prior))
            for batch, raw in batches
        ]
        return sum(losses) / max(1, len(losses))
