"""One update: rows to a padded batch, cross-entropy on the answers, gradients averaged.

The loss is the mean over all answer tokens of all workers, so two processes learn what one would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.backend import prefix_tokens, suffix_input
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.network.captioner import Mllm
from ureca.models.mllm.prompt import CaptionPrompt
from ureca.models.mllm.training.batch_sampler import Group, Row, read_group
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.packing import Packed, pack, padded
from ureca.models.mllm.training.shard import (
    average_gradients,
    clip,
    fill,
    is_split,
    split_optimizer,
    whole,
)
from ureca.models.preprocess import Grid
from ureca.models.training.checkpoints import load_optimizer, optimizer_tensors
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.schedule import cosine_after_warmup


@dataclass(frozen=True)
class Asked:
    """One region: the ids of its own prompt, and of every answer that is taught."""

    suffix_ids: Tensor
    answers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Example:
    """One picture as arrays: tiles f32 [T, 3, S, S], the ids of its prefix, masks f32 [N, T, M, M]
    of its regions, and what they are asked.
    """

    tiles: Tensor
    masks: Tensor
    prefix_ids: Tensor
    asked: tuple[Asked, ...]

    @property
    def answers(self) -> list[Tensor]:
        """Ids of all answers, in order."""
        return [answer for asked in self.asked for answer in asked.answers]

    @property
    def taught(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self.answers))


class Reader:
    """Rows to examples."""

    def __init__(
        self, model: Mllm, prompt: CaptionPrompt, images: ImageStore, config: MllmTrainConfig
    ) -> None:
        self._mask, self._prompt, self._images = model.config.mask, prompt, images
        self._tiler = ImageTiler.of(model.config)
        self._max_length = config.max_length

    def read(self, group: Group) -> Example:
        """Raises `ConfigError` when a prompt alone is longer than `max_length`."""
        image, masks = read_group(group, self._images)
        grid = self._tiler.grid(image.shape[1], image.shape[0])
        prefix = self._prompt.prefix(grid)
        return Example(
            torch.from_numpy(self._tiler.picture(image, grid)),
            torch.from_numpy(self._tiler.masks(masks, grid)),
            torch.from_numpy(prefix),
            tuple(self._asked(row, grid, len(prefix)) for row in group),
        )

    def _asked(self, row: Row, grid: Grid, before: int) -> Asked:
        suffix = self._prompt.suffix(row.style, mask_tokens=self._mask.tokens(grid.tiles))
        room = self._max_length - before - len(suffix)
        if room < 1:
            raise ConfigError(
                f"the prompt of {row.record.region_id!r} has {before + len(suffix)} tokens, "
                f"max_length is {self._max_length}: raise it, or lower max_tiles"
            )
        answers = (torch.tensor(self._prompt.answer(text)[:room]) for text in row.texts)
        return Asked(torch.from_numpy(suffix), tuple(answers))


def packed_input(model: Mllm, prompt: CaptionPrompt, example: Example) -> Packed:
    """Prompts and answers of one picture, image and mask tokens in place."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and _sees(model)):
        image, maps = model.look(example.tiles)
    before = prefix_tokens(model, prompt, example.prefix_ids, image)
    own = model.regions(example.masks, image, model.said(example.masks, maps))
    asked = [
        (
            suffix_input(model, prompt, one.suffix_ids.numpy(), tokens)[0],
            [model.embed(answer[:-1].to(model.device)) for answer in one.answers],
        )
        for one, tokens in zip(example.asked, own, strict=True)
    ]
    return pack(before, asked)


def answers_loss(model: Mllm, prompt: CaptionPrompt, examples: Sequence[Example]) -> Tensor:
    """Sum of the cross-entropy over the answers' tokens, in nats; rows are padded on the right."""
    rows = [packed_input(model, prompt, example) for example in examples]
    x, positions, mask = padded(rows)
    if all(len(example.answers) == 1 for example in examples):  # nothing branches
        lengths = torch.tensor([len(row.x) for row in rows], device=x.device)
        mask = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).long()
    hidden = model(x, mask, positions)
    said = torch.cat([h[row.at] for h, row in zip(hidden, rows, strict=True)])
    answers = [answer for example in examples for answer in example.answers]
    targets = torch.cat(answers).to(model.device)
    return nn.functional.cross_entropy(model.logits(said).float(), targets, reduction="sum")


class MllmLearner(Learner[Group]):
    """What learns of the model, and its optimiser; either may be split over the workers."""

    files = ("learned", "optimizer")

    def __init__(
        self,
        model: Mllm,
        prompt: CaptionPrompt,
        reader: Reader,
        config: MllmTrainConfig,
        *,
        worker: Worker,
    ) -> None:
        self._split = is_split(p for p in model.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(
            _groups(model, config),
            lr=config.learning_rate,
            foreach=False if self._split else None,  # it cannot mix what is split with what is not
        )
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.prompt, self.reader, self.config = model, prompt, reader, config

    def rate_factor(self, step: int) -> float:
        """The schedule, 0..1."""
        share = self.config.warmup_share
        return cosine_after_warmup(step, steps=self.config.steps, warmup_share=share)

    def add_gradients(self, groups: Sequence[Group]) -> float:
        """Gradients of this worker's rows; returns nats per token, of all workers."""
        examples = [self.reader.read(group) for group in groups]
        tokens = self._over_all(float(sum(example.taught for example in examples)))
        total = sum((self._pass(part, tokens) for part in self._passes(examples)), 0.0)
        for parameter in self.parameters:  # a worker without rows still answers
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._over_all(total) / tokens

    def agree(self) -> None:
        """One gradient for all workers, not too long."""
        average_gradients(self.parameters, self.worker)
        if self._split:
            clip(self.parameters, self.config.gradient_clip)
        else:
            nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """What learns, by name, and the optimiser; both whole."""
        return {
            "learned": whole(learned(self.model)),
            "optimizer": whole(optimizer_tensors(self.optimizer)),
        }

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what `state` gave. Raises `ValueError` when other parameters learnt."""
        fill(learned(self.model), files["learned"])
        load_optimizer(self.optimizer, split_optimizer(self.optimizer, files["optimizer"]))

    def _pass(self, examples: Sequence[Example], tokens: float) -> float:
        """Gradients of some rows; workers' gradients are averaged, so each counts `count`-fold."""
        mixed = self.config.precision == "bf16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=mixed):
            loss = answers_loss(self.model, self.prompt, examples)
        (loss * (self.worker.count / tokens)).backward()
        return float(loss.detach())

    def _passes(self, examples: Sequence[Example]) -> list[Sequence[Example]]:
        size = self.config.rows_per_pass
        return [examples[at : at + size] for at in range(0, len(examples), size)]

    def _over_all(self, value: float) -> float:
        if self.worker.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.model.device)
        torch.distributed.all_reduce(total)
        return float(total)


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Everything that learns, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _groups(model: Mllm, config: MllmTrainConfig) -> list[dict[str, object]]:
    """Matrices decay, vectors do not; the mask encoder has a rate of its own."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            times = config.mask_rate if name.startswith("masks.") else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((times, decay), []).append(parameter)
    return [
        {"params": own, "rate": config.learning_rate, "times": times, "weight_decay": decay}
        for (times, decay), own in found.items()
    ]


def _sees(model: Mllm) -> bool:
    """Whether anything of the picture's side learns; else its forward pass keeps nothing."""
    projector = model.base.model.get_submodule(model.family.projector)
    return any(parameter.requires_grad for parameter in projector.parameters())
