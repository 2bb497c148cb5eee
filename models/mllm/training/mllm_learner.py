"""Runs one update: rows to a padded batch, cross-entropy on the answers, averaged gradients.

The loss is the mean over all answer tokens of all workers, so two processes train as one would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.backend import embed_prefix, make_suffix_input
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.prompt import CaptionPrompt
from ureca.models.mllm.training.batch_sampler import CaptionRow, Group, read_group
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.packing import PackedRow, pack_row, pad_rows
from ureca.models.mllm.training.shard import (
    average_gradients,
    clip_gradients,
    gather_tensors,
    is_split,
    load_parts,
    split_optimizer,
)
from ureca.models.preprocess import Grid
from ureca.models.training.checkpoints import get_optimizer_tensors, load_optimizer
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Learner
from ureca.models.training.schedule import compute_cosine_rate


@dataclass(frozen=True)
class PromptAnswers:
    """The ids of one region's prompt, and of every answer that is taught."""

    suffix_ids: Tensor
    answers: tuple[Tensor, ...]


@dataclass(frozen=True)
class PictureExample:
    """One image as arrays: tiles f32 [T, 3, S, S], the ids of its prefix, masks f32 [N, T, M, M] of
    its regions, and their prompts with answers.
    """

    tiles: Tensor
    masks: Tensor
    prefix_ids: Tensor
    asked: tuple[PromptAnswers, ...]

    @property
    def answers(self) -> list[Tensor]:
        """Ids of all answers, in order."""
        return [answer for asked in self.asked for answer in asked.answers]

    @property
    def taught(self) -> int:
        """Number of tokens of all answers."""
        return sum(map(len, self.answers))


class ExampleReader:
    """Converts rows to examples."""

    def __init__(
        self, model: Mllm, prompt: CaptionPrompt, images: ImageStore, config: MllmTrainConfig
    ) -> None:
        self._mask, self._prompt, self._images = model.config.mask, prompt, images
        self._tiler = ImageTiler.of(model.config)
        self._max_length = config.max_length

    def read(self, group: Group) -> PictureExample:
        """Read a group. Raises `ConfigError` if a prompt alone is longer than `max_length`."""
        image, masks = read_group(group, self._images)
        grid = self._tiler.choose_grid(image.shape[1], image.shape[0])
        prefix = self._prompt.encode_prefix(grid)
        return PictureExample(
            torch.from_numpy(self._tiler.make_pixel_tiles(image, grid)),
            torch.from_numpy(self._tiler.make_mask_tiles(masks, grid)),
            torch.from_numpy(prefix),
            tuple(self._make_prompt(row, grid, len(prefix)) for row in group),
        )

    def _make_prompt(self, row: CaptionRow, grid: Grid, before: int) -> PromptAnswers:
        suffix = self._prompt.encode_suffix(
            row.style,
            mask_tokens=self._mask.count_tokens(grid.tiles),
            attribute=row.attribute,
        )
        room = self._max_length - before - len(suffix)
        if room < 1:
            raise ConfigError(
                f"the prompt of {row.record.region_id!r} has {before + len(suffix)} tokens, "
                f"max_length is {self._max_length}: raise it, or lower max_tiles"
            )
        answers = (torch.tensor(self._prompt.encode_answer(text)[:room]) for text in row.texts)
        return PromptAnswers(torch.from_numpy(suffix), tuple(answers))


def make_packed_input(model: Mllm, prompt: CaptionPrompt, example: PictureExample) -> PackedRow:
    """Return prompts and answers of one image, with image and mask tokens in place."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and _trains_vision(model)):
        image, maps = model.encode_picture(example.tiles)
    before = embed_prefix(model, prompt, example.prefix_ids, image)
    own = model.regions(example.masks, image, model.encode_tower_regions(example.masks, maps))
    asked = [
        (
            make_suffix_input(model, prompt, one.suffix_ids.numpy(), tokens)[0],
            [model.embed(answer[:-1].to(model.device)) for answer in one.answers],
        )
        for one, tokens in zip(example.asked, own, strict=True)
    ]
    return pack_row(before, asked)


def compute_answers_loss(
    model: Mllm, prompt: CaptionPrompt, examples: Sequence[PictureExample]
) -> Tensor:
    """Return the sum of the cross-entropy over the answers' tokens, in nats; rows are padded on the
    right.
    """
    rows = [make_packed_input(model, prompt, example) for example in examples]
    x, positions, mask = pad_rows(rows)
    if all(
        len(example.answers) == 1 for example in examples
    ):  # one region with one answer: no tree
        lengths = torch.tensor([len(row.x) for row in rows], device=x.device)
        mask = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).long()
    hidden = model(x, mask, positions)
    said = torch.cat([h[row.at] for h, row in zip(hidden, rows, strict=True)])
    answers = [answer for example in examples for answer in example.answers]
    targets = torch.cat(answers).to(model.device)
    return nn.functional.cross_entropy(model.logits(said).float(), targets, reduction="sum")


class MllmLearner(Learner[Group]):
    """Holds the trained parameters and their optimiser; both may be split over the workers."""

    files = ("learned", "optimizer")

    def __init__(
        self,
        model: Mllm,
        prompt: CaptionPrompt,
        reader: ExampleReader,
        config: MllmTrainConfig,
        *,
        worker: Worker,
    ) -> None:
        self._split = is_split(p for p in model.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(
            _make_parameter_groups(model, config),
            lr=config.learning_rate,
            foreach=False if self._split else None,  # foreach cannot mix split and whole parameters
        )
        super().__init__(model, optimizer, config, worker=worker)
        self.model, self.prompt, self.reader, self.config = model, prompt, reader, config

    def rate_factor(self, step: int) -> float:
        """Return the factor 0..1 of the learning-rate schedule."""
        share = self.config.warmup_share
        return compute_cosine_rate(step, steps=self.config.steps, warmup_share=share)

    def add_gradients(self, groups: Sequence[Group]) -> float:
        """Compute gradients of this worker's rows; return nats per token, of all workers."""
        examples = [self.reader.read(group) for group in groups]
        tokens = self._sum_over_workers(float(sum(example.taught for example in examples)))
        total = sum((self._run_pass(part, tokens) for part in self._split_passes(examples)), 0.0)
        for parameter in self.parameters:  # a worker without rows takes part, too
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._sum_over_workers(total) / tokens

    def average_gradients(self) -> None:
        """Average the gradient over all workers and clip its norm."""
        average_gradients(self.parameters, self.worker)
        if self._split:
            clip_gradients(self.parameters, self.config.gradient_clip)
        else:
            nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return trained parameters by name, and the optimiser; both whole."""
        return {
            "learned": gather_tensors(get_trained_tensors(self.model)),
            "optimizer": gather_tensors(get_optimizer_tensors(self.optimizer)),
        }

    def load_state(self, files: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore what `state` returned. Raises `ValueError` if other parameters were trained."""
        load_parts(get_trained_tensors(self.model), files["learned"])
        load_optimizer(self.optimizer, split_optimizer(self.optimizer, files["optimizer"]))

    def _run_pass(self, examples: Sequence[PictureExample], tokens: float) -> float:
        """Compute gradients of some rows. Workers' gradients are averaged, so each counts
        `count`-fold.
        """
        mixed = self.config.precision == "bf16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=mixed):
            loss = compute_answers_loss(self.model, self.prompt, examples)
        (loss * (self.worker.count / tokens)).backward()
        return float(loss.detach())

    def _split_passes(self, examples: Sequence[PictureExample]) -> list[Sequence[PictureExample]]:
        size = self.config.rows_per_pass
        return [examples[at : at + size] for at in range(0, len(examples), size)]

    def _sum_over_workers(self, value: float) -> float:
        if self.worker.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.model.device)
        torch.distributed.all_reduce(total)
        return float(total)


def get_trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all trained parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _make_parameter_groups(model: Mllm, config: MllmTrainConfig) -> list[dict[str, object]]:
    """Matrices have weight decay, vectors do not; the mask encoder has its own rate."""
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


def _trains_vision(model: Mllm) -> bool:
    """Whether any part of vision is trained; otherwise its forward pass keeps nothing."""
    inner = model.base.model
    seen = [inner.get_submodule(model.family.projector)]
    if model.family.own_tokens is not None:
        seen.append(inner.vision_tower)
    return any(parameter.requires_grad for part in seen for parameter in part.parameters())
