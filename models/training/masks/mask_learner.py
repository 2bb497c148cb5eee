"""What an update of the mask head is: loss, gradients, moving average. Testable alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ureca.models.nano.detector import Detector, Maps
from ureca.models.nano.masks.network import LiteTrunk, MaskNetwork
from ureca.models.training.checkpoints import get_optimizer_tensors, load_optimizer
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.masks.config import MaskTrainConfig
from ureca.models.training.masks.losses import Judged, Targets, compute_proposal_loss, judge
from ureca.models.training.masks.plan import MaskBatch, Visit
from ureca.models.training.schedule import compute_rate_with_decay


def freeze_trunk(model: MaskNetwork, config: MaskTrainConfig) -> None:
    """Train as much of the trunk as the stage asks for; a detector's box heads stay as they are."""
    trunk = model.trunk
    trunk.requires_grad_(config.trunk == "trained")
    if isinstance(trunk, Detector):
        trunk.heads.requires_grad_(requires_grad=False)
        if config.trunk == "tail":
            trunk.neck.requires_grad_(requires_grad=True)
    elif isinstance(trunk, LiteTrunk) and config.trunk == "tail":
        trunk.tail_blocks.requires_grad_(requires_grad=True)


def make_trainable_groups(model: MaskNetwork, config: MaskTrainConfig) -> list[dict[str, object]]:
    """Matrices decay, vectors do not; the trunk has its own rate."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    trunk: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = decay if parameter.ndim > 1 else plain
            (trunk if name.startswith("trunk.") else head).append(parameter)
    rate = config.learning_rate
    groups: list[dict[str, object]] = [
        {"params": decay, "weight_decay": config.weight_decay, "rate": rate},
        {"params": plain, "weight_decay": 0.0, "rate": rate},
    ]
    if trunk:
        groups.append({"params": trunk, "weight_decay": 0.0, "rate": config.trunk_learning_rate})
    return groups


class MaskLearner(Learner[Visit]):
    """The mask head, its optimiser and its moving average."""

    files = ("model", "average", "optimizer")

    def __init__(
        self,
        model: MaskNetwork,
        average: MaskNetwork,
        config: MaskTrainConfig,
        *,
        worker: Worker,
        device: torch.device,
        read: Callable[[Sequence[Visit]], MaskBatch],
        frozen: Callable[[Tensor], Maps] | None = None,
        published: Detector | None = None,
    ) -> None:
        """`read` makes arrays of visits; `frozen` stands for a trunk that is not trained;
        `published` is the detector whose boxes a trained trunk keeps.
        """
        optimizer = torch.optim.AdamW(
            make_trainable_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.average, self.config = model, average, config
        self._read, self._device, self._frozen = read, device, frozen
        self._published = published
        self.sums = {"click_iou": 0.0, "box_iou": 0.0}
        """Of the updates since they were last taken (`take_means`)."""
        self._updates = 0

    def rate_factor(self, step: int) -> float:
        """The schedule, 0..1: constant, then a straight fall."""
        config = self.config
        return compute_rate_with_decay(
            step,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            decay_steps=config.decay_steps,
        )

    def add_gradients(self, groups: Sequence[Visit]) -> float:
        """Gradients of one batch; returns the loss per mask."""
        pixels, targets = self.make_tensors(self._read(groups))
        maps = self._compute_maps(pixels)
        judged = judge(self.model, self.model.fusion(maps), targets)
        (judged.loss + self._compute_drift(maps, pixels)).backward()
        self.sums["click_iou"] += float(judged.click_iou)
        self.sums["box_iou"] += float(judged.box_iou)
        self._updates += 1
        return float(judged.loss.detach())

    def _compute_maps(self, pixels: Tensor) -> Maps:
        trunk = self.model.trunk
        if self.config.trunk == "frozen":
            with torch.no_grad():
                return (self._frozen or trunk)(pixels)
        if self.config.trunk == "tail" and isinstance(trunk, Detector):
            with torch.no_grad():
                maps = trunk.backbone(pixels)
            return trunk.neck(maps)
        return trunk(pixels)

    def _compute_drift(self, maps: Maps, pixels: Tensor) -> Tensor:
        """What a trained trunk pays for other boxes than the published one's."""
        trunk = self.model.trunk
        if self._published is None or not isinstance(trunk, Detector):
            return pixels.new_zeros(())
        with torch.no_grad():
            want = self._published.answers(self._published(pixels))
        return self.config.proposal_weight * compute_proposal_loss(trunk.answers(maps), want)

    def make_tensors(self, batch: MaskBatch) -> tuple[Tensor, Targets]:
        """Arrays of a batch on the device; pixels with channels last (faster on CPUs)."""
        pixels = self._to_tensor(batch.pixels).contiguous(memory_format=torch.channels_last)
        return pixels, Targets(
            masks=self._to_tensor(batch.targets),
            points_px=self._to_tensor(batch.points_px),
            boxes_px=self._to_tensor(batch.boxes_px),
            slots=self._to_tensor(batch.slots),
            weights=self._to_tensor(batch.weights),
        )

    def _to_tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def take_means(self) -> dict[str, float]:
        """Mean IoUs of the training masks since the last call."""
        means = {name: value / max(1, self._updates) for name, value in self.sums.items()}
        self.sums, self._updates = dict.fromkeys(self.sums, 0.0), 0
        return means

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights, moving average and optimiser; a frozen trunk is left out."""
        return {
            "model": self._take_state(self.model),
            "average": self._take_state(self.average),
            "optimizer": get_optimizer_tensors(self.optimizer),
        }

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what `state` gave."""
        for module, name in ((self.model, "model"), (self.average, "average")):
            module.load_state_dict({**module.state_dict(), **files[name]})
        load_optimizer(self.optimizer, files["optimizer"])

    def _take_state(self, module: MaskNetwork) -> dict[str, Tensor]:
        frozen = self.config.trunk == "frozen"
        state = module.state_dict()
        return {n: t for n, t in state.items() if not (frozen and n.startswith("trunk."))}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Move the average."""
        keep = min(self.config.ema, (step + 1) / (step + 10))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        moved = [(a, p) for a, p in pairs if p.requires_grad]
        torch._foreach_lerp_([a for a, _ in moved], [p.detach() for _, p in moved], 1 - keep)

    @torch.inference_mode()
    def validate(self, batches: Sequence[MaskBatch]) -> Judged:
        """Means over held-out batches, by the moving average."""
        self.average.eval()
        found = []
        for batch in batches:
            pixels, targets = self.make_tensors(batch)
            found.append(judge(self.average, self.average(pixels), targets))
        return Judged(
            *(
                torch.stack([getattr(one, name) for one in found]).mean()
                for name in ("loss", "click_iou", "box_iou")
            )
        )
