"""What an update of the nano captioner is: loss, gradients, moving average. Testable alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ureca.models.nano.captioner import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.training.batch_sampler import Batch, Group
from ureca.models.training.checkpoints import load_optimizer, optimizer_tensors
from ureca.models.training.config import TrainConfig
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.losses import Guides, plain_loss, training_loss
from ureca.models.training.schedule import cosine_with_floor


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


class NanoLearner(Learner[Group]):
    """The captioner, its optimiser and its moving average."""

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
            trainable_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.average, self.config = model, average, config
        self.guides, self.read = guides, read

    def rate_factor(self, step: int) -> float:
        """The schedule, 0..1."""
        return cosine_with_floor(
            step,
            steps=self.config.steps,
            warmup_steps=self.config.warmup_steps,
            decay_steps=self.config.decay_steps,
        )

    def add_gradients(self, groups: Sequence[Group]) -> float:
        """Gradients of one batch; returns the loss in nats per token."""
        batch, raw = self.read(groups)
        with torch.autocast(raw[0].device.type, torch.bfloat16, enabled=self._mixed(raw)):
            seen = self._seen(self.model, raw)
            loss = training_loss(self.model, batch, seen, config=self.config, guides=self.guides)
        loss.backward()
        return float(loss.detach())

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights, moving average and optimiser."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what `state` gave."""
        self.model.load_state_dict(files["model"])
        self.average.load_state_dict(files["average"])
        load_optimizer(self.optimizer, files["optimizer"])

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
    def follow(self, step: int) -> None:
        """Move the average."""
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
