"""One update: rows to a padded batch, cross-entropy on the answers, gradients averaged.

The loss is the mean over all answer tokens of all workers, so two processes learn what one would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.backend import prefix_tokens, suffix_input
from ureca.models.mllm.captioner import Mllm
from ureca.models.mllm.pictures import Cutter
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.plan import Row, read_row
from ureca.models.mllm.training.shard import average_gradients, clip, is_split
from ureca.models.mllm.words import Prompt
from ureca.models.training.parallel import Worker


@dataclass(frozen=True)
class Example:
    """One row as arrays: tiles f32 [T, 3, S, S], masks f32 [1, T, M, M], ids of both prompt parts
    and of the answer.
    """

    tiles: Tensor
    masks: Tensor
    prefix_ids: Tensor
    suffix_ids: Tensor
    answer_ids: Tensor


class Reader:
    """Rows to examples."""

    def __init__(
        self, model: Mllm, prompt: Prompt, images: ImageStore, config: MllmTrainConfig
    ) -> None:
        self._mask, self._prompt, self._images = model.config.mask, prompt, images
        self._cutter = Cutter.of(model.config)
        self._max_length = config.max_length

    def read(self, row: Row) -> Example:
        """Raises `ConfigError` when the prompt alone is longer than `max_length`."""
        image, mask = read_row(row, self._images)
        grid = self._cutter.grid(image.shape[1], image.shape[0])
        prefix = self._prompt.prefix(grid)
        suffix = self._prompt.suffix(row.style, mask_tokens=self._mask.tokens(grid.tiles))
        room = self._max_length - len(prefix) - len(suffix)
        if room < 1:
            raise ConfigError(
                f"the prompt of {row.record.region_id!r} has {len(prefix) + len(suffix)} tokens, "
                f"max_length is {self._max_length}: raise it, or lower max_tiles"
            )
        return Example(
            torch.from_numpy(self._cutter.picture(image, grid)),
            torch.from_numpy(self._cutter.masks([mask], grid)),
            torch.from_numpy(prefix),
            torch.from_numpy(suffix),
            torch.tensor(self._prompt.answer(row.text)[:room]),
        )


def prompt_input(model: Mllm, prompt: Prompt, example: Example) -> tuple[Tensor, Tensor | None]:
    """Embeddings [L, d] of prompt and answer, image and mask tokens in place, and positions
    [3, 1, L] where they have three dimensions.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and _sees(model)):
        image = model.vision(example.tiles)
    before = prefix_tokens(model, prompt, example.prefix_ids, image)
    tokens = model.regions(example.masks, image)[0]
    own = suffix_input(model, prompt, example.suffix_ids.numpy(), tokens)
    answer = model.embed(example.answer_ids.to(model.device))
    x = torch.cat([before.x[0], own[0], answer])
    return x, before.whole(len(x))


def answers_loss(model: Mllm, prompt: Prompt, examples: Sequence[Example]) -> Tensor:
    """Sum of the cross-entropy over the answers' tokens, in nats; rows are padded on the right."""
    rows, places = zip(*(prompt_input(model, prompt, each) for each in examples), strict=True)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    x = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = (torch.arange(x.shape[1], device=model.device) < lengths[:, None]).long()
    hidden = model(x, mask, _joined(places, x.shape[1]))
    triples = zip(hidden, rows, examples, strict=True)
    said = [h[: len(r)][-len(e.answer_ids) - 1 : -1] for h, r, e in triples]
    targets = torch.cat([e.answer_ids for e in examples]).to(model.device)
    logits = model.logits(torch.cat(said)).float()
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def _joined(places: Sequence[Tensor | None], length: int) -> Tensor | None:
    """Positions of all rows [3, N, length]; what stands at padding is not looked at."""
    padded = [nn.functional.pad(p, (0, length - p.shape[2])) for p in places if p is not None]
    return torch.cat(padded, dim=1) if padded else None


class Learner:
    """Model and optimiser, advanced one batch at a time."""

    def __init__(
        self,
        model: Mllm,
        prompt: Prompt,
        reader: Reader,
        config: MllmTrainConfig,
        *,
        worker: Worker,
    ) -> None:
        self.model, self.prompt, self.reader = model, prompt, reader
        self.config, self.worker = config, worker
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._split = is_split(self.parameters)
        self.optimizer = torch.optim.AdamW(
            _groups(self.parameters, config),
            lr=config.learning_rate,
            foreach=False if self._split else None,  # it cannot mix what is split with what is not
        )

    def learn(self, step: int, rows: Sequence[Row]) -> float:
        """One update; dropout is seeded by (seed, step, worker). Returns nats per token, of all
        workers.
        """
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 64 + self.worker.rank)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * schedule(step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        examples = [self.reader.read(row) for row in self.worker.part(rows)]
        tokens = self._over_all(float(sum(len(e.answer_ids) for e in examples)))
        total = sum((self._pass(part, tokens) for part in self._passes(examples)), 0.0)
        for parameter in self.parameters:  # a worker without rows still answers
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._agree()
        self.optimizer.step()
        return self._over_all(total) / tokens

    def _agree(self) -> None:
        """One gradient for all workers, not too long."""
        average_gradients(self.parameters, self.worker)
        if self._split:
            clip(self.parameters, self.config.gradient_clip)
        else:
            nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)

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


def schedule(step: int, config: MllmTrainConfig) -> float:
    """Rate factor 0..1: linear warm-up over a share of the steps, then a cosine to zero."""
    warm = max(1, round(config.warmup_share * config.steps))
    if step < warm:
        return (step + 1) / warm
    gone = (step - warm) / max(1, config.steps - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, gone)))


def _groups(parameters: Sequence[nn.Parameter], config: MllmTrainConfig) -> list[dict[str, object]]:
    """Matrices decay, vectors do not."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _sees(model: Mllm) -> bool:
    """Whether anything of the picture's side learns; else its forward pass keeps nothing."""
    projector = model.base.model.get_submodule(model.family.projector)
    return any(parameter.requires_grad for parameter in projector.parameters())
