"""What a text segmenter learns from a picture: which answer a text has, and its masks.

A text's answer is one `[SEG]` for each thing that it means, from left to right, or `[NONE]`; then
the stop token. All texts of a picture learn behind one image prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ureca.datatypes import Mask
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.network.lora import add_lora, list_adapters
from ureca.models.mllm.staged.learner import set_trainable
from ureca.models.mllm.staged.pictures import PictureRows, read_picture
from ureca.models.mllm.training.packing import PackedRow, pack_row, pad_rows
from ureca.models.mllm.unires.config import UniresTrainConfig
from ureca.models.mllm.unires.mask_decoder import LEARNS, STAYS
from ureca.models.mllm.unires.network import NONE, SEG, PictureTensors, Unires
from ureca.models.mllm.unires.picture_input import UniresReader

WORDS, BCE, DICE = "words", "bce", "dice"
_FRESH = ("flow.", "answers.", "mask_prompt.")


@dataclass(frozen=True)
class AskedText:
    """One text: the ids of its question, and the masks that it means, bool [H, W]."""

    text: str
    ids: Tensor
    masks: tuple[Mask, ...]

    @property
    def answers(self) -> list[int]:
        """Rows of its answers, without the stop token."""
        return [SEG] * len(self.masks) or [NONE]


@dataclass(frozen=True)
class TextsExample:
    """One picture and its texts."""

    picture: PictureTensors
    texts: tuple[AskedText, ...]


class UniresTask:
    """Implements `StageTask`."""

    def __init__(
        self,
        model: Unires,
        reader: UniresReader,
        images: ImageStore,
        config: UniresTrainConfig,
        *,
        texts: Sequence[str],
    ) -> None:
        """`texts`: those of all pictures, from which texts that mean nothing are drawn."""
        self.model, self._reader, self._images, self._config = model, reader, images, config
        self._texts = texts
        self._stop = reader.prompt.stop_ids[0]

    @property
    def weights(self) -> Mapping[str, float]:
        """See `StageTask`."""
        config = self._config
        return {
            WORDS: config.words_weight,
            BCE: config.bce_weight,
            DICE: config.dice_weight,
        }

    def read(self, rows: PictureRows, seed: int) -> TextsExample:
        """See `StageTask`; draws the texts."""
        image, masks = read_picture(rows, self._images)
        draw = np.random.default_rng(seed)
        asked = list(self._list_texts(rows, draw))
        order = draw.permutation(len(asked))[: self._config.texts_per_picture]
        texts = tuple(
            AskedText(text, self._reader.encode_question(text), _sort([masks[n] for n in targets]))
            for text, targets in (asked[n] for n in order)
        )
        return TextsExample(self._reader.read_picture(image), texts)

    def count(self, example: TextsExample) -> Mapping[str, float]:
        """Tokens of answers, and masks."""
        masks = float(sum(len(one.masks) for one in example.texts))
        tokens = float(sum(len(one.answers) + 1 for one in example.texts))
        return {WORDS: tokens, BCE: masks, DICE: masks}

    def compute(self, example: TextsExample) -> Mapping[str, Tensor]:
        """See `StageTask`."""
        if not example.texts:
            return {}
        hidden = self._run(example)
        lengths = [len(one.answers) + 1 for one in example.texts]
        found = {WORDS: self._compute_words(hidden, example.texts)}
        own = [
            part[1:]
            for part, one in zip(hidden.split(lengths), example.texts, strict=True)
            if one.masks
        ]
        if own:
            found |= self._compute_masks(torch.cat(own), example)
        return found

    def _run(self, example: TextsExample) -> Tensor:
        """Hidden states [A, d] at the end of each question and at each of its answers."""
        model = self.model
        before = model.open_prompt(self._reader.prompt, example.picture)
        asked = [
            (
                model.mllm.embed(one.ids.to(model.device)),
                [model.embed_answers(torch.tensor(one.answers, device=model.device))],
            )
            for one in example.texts
        ]
        row: PackedRow = pack_row(before, asked)
        x, positions, mask = pad_rows([row])
        return model.mllm(x, mask, positions)[0][row.at]

    def _compute_words(self, hidden: Tensor, texts: Sequence[AskedText]) -> Tensor:
        logits = self.model.logits(hidden)
        first = logits.shape[-1] - 2
        ids = [[*(first + row for row in one.answers), self._stop] for one in texts]
        targets = torch.tensor([token for row in ids for token in row], device=hidden.device)
        return nn.functional.cross_entropy(logits, targets, reduction="sum")

    def _compute_masks(self, hidden: Tensor, example: TextsExample) -> dict[str, Tensor]:
        """Losses of one mask for each hidden state, summed over masks."""
        logits, _ = self.model.decode_masks(self.model.encode_masks(example.picture), hidden)
        masks = np.stack([mask for one in example.texts for mask in one.masks])
        size = logits.shape[1], logits.shape[2]
        true = torch.from_numpy(masks.astype(np.float32)).to(logits.device)
        true = nn.functional.adaptive_avg_pool2d(true[:, None], size)[:, 0]
        bce = nn.functional.binary_cross_entropy_with_logits(logits, true, reduction="none")
        inside = logits.sigmoid().flatten(1)
        common = (inside * true.flatten(1)).sum(1)
        dice = 1 - (2 * common + 1) / (inside.sum(1) + true.flatten(1).sum(1) + 1)
        return {BCE: bce.flatten(1).mean(1).sum(), DICE: dice.sum()}

    def _list_texts(
        self, rows: PictureRows, draw: np.random.Generator
    ) -> Iterator[tuple[str, list[int]]]:
        """Texts with the places of the regions that they mean."""
        if rows.queries:
            places = {record.region_id: n for n, record in enumerate(rows.regions)}
            for query in rows.queries:
                if all(target in places for target in query.targets):
                    yield query.text, [places[target] for target in query.targets]
            return
        meant = list_expressions(rows)
        yield from meant.items()
        known = {word for text in meant for word in text.split()}
        for _ in range(round(len(meant) * self._config.none_share + draw.random())):
            text = self._texts[int(draw.integers(len(self._texts)))]
            if not set(text.split()[-1:]) & known:
                yield text, []


def list_expressions(rows: PictureRows) -> dict[str, list[int]]:
    """Every short text of a picture once, with the places of all regions that it is said of."""
    found: dict[str, list[int]] = {}
    for place, record in enumerate(rows.regions):
        for text in record.short:
            found.setdefault(text.strip().lower(), []).append(place)
    found.pop("", None)
    return {text: list(dict.fromkeys(places)) for text, places in found.items()}


def _sort(masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """From left to right."""
    return tuple(sorted(masks, key=lambda mask: float(np.nonzero(mask)[1].mean())))


def freeze_unires(model: Unires, config: UniresTrainConfig) -> list[str]:
    """Enable gradients for exactly the stage's parts; return their names."""
    begins: tuple[str, ...] = _FRESH
    if config.stage == 2:
        if not list(list_adapters(model.mllm.language)):
            add_lora(model.mllm.language, config.lora)
        begins = (*_FRESH, f"decoder.{LEARNS}")
    stays = tuple(f"decoder.{begin}" for begin in STAYS)
    names = [
        name
        for name, _ in model.named_parameters()
        if (name.startswith(begins) and not name.startswith(stays))
        or (config.stage == 2 and ".lora_" in name)
    ]
    return set_trainable(model, names)
