"""Computes the loss of a batch: phrases of its regions, margin to other regions, and rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ureca.models.nano.language import KV
from ureca.models.nano.network import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.tokenizer import EOS_ID, PAD_ID, SHORT_ID
from ureca.models.training.batch_sampler import Batch
from ureca.models.training.config import TrainConfig
from ureca.models.training.reward import Rewarder

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Token ids [M, L] as inputs, the targets one position later, and which targets are no
    padding.
    """

    words: Tensor
    targets: Tensor
    kept: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Texts:
        """Split whole captions: style token, words, `<eos>`, padding."""
        return cls(ids[:, :-1], ids[:, 1:], ids[:, 1:] != PAD_ID)


class EncodedBatch:
    """A batch whose images and regions are encoded, so that any text about them can be scored.

    The keys and values of a region's tokens are computed once, and every text about the region
    reads them.
    """

    def __init__(self, model: Captioner, batch: Batch, raw: Raw) -> None:
        device = raw[0].device
        self._model, self._device = model, device
        masks, boxes = (torch.from_numpy(a).to(device) for a in (batch.masks, batch.boxes))
        self._prefix = model.make_prefix(model.projector(raw[2]))
        by_picture = model.regions(masks, boxes, model.pyramid(raw)).unflatten(
            0, (len(batch.pictures), -1)
        )
        end = by_picture.shape[1] - batch.fragments
        self._tokens = by_picture[:, :end].flatten(0, 1)
        spoken = [by_picture[:, : batch.told], by_picture[:, end:]][: 1 + bool(batch.fragments)]
        told = torch.cat(spoken, dim=1).flatten(0, 1)
        empty = model.language.make_empty_kv(told.shape[0])
        self._own = model.language(told, self._prefix, empty)[1]
        self.texts = Texts.of(torch.from_numpy(batch.ids).to(device))

    def logits(self, texts: Texts, rows: I64) -> Tensor:
        """Return the logits [kept, V] of the texts for the regions `rows` [M], ordered by image."""
        embedded = self._model.embed(texts.words)
        hidden, _ = self._model.language(embedded, self._prefix, self._select_kv(rows))
        return self._model.language.logits(hidden[texts.kept]).float()

    def score(self, logits: Tensor, texts: Texts) -> Tensor:
        """Return the mean log-probability per token of every text [M]."""
        chosen = -F.cross_entropy(logits, texts.targets[texts.kept], reduction="none")
        total = torch.zeros_like(texts.kept, dtype=chosen.dtype)
        return total.masked_scatter(texts.kept, chosen).sum(1) / texts.kept.sum(1)

    def predict_words(self) -> Tensor:
        """Predict words from the regions' tokens alone: log-probabilities [N, V].

        Their mean is read as if it were the output of the language model. This needs no additional
        weights and moves the tokens towards the embeddings of the words.
        """
        hidden = self._model.language.norm(self._tokens.mean(dim=1))
        return torch.log_softmax(self._model.language.logits(hidden).float(), dim=-1)

    @torch.no_grad()
    def sample(self, rows: I64, *, max_new_tokens: int) -> Tensor:
        """Sample one short caption for each row of `rows`: ids [M, 1 + max_new_tokens]."""
        own, ids = self._select_kv(rows), torch.full((len(rows), 1), SHORT_ID, device=self._device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=self._device)
        for _ in range(max_new_tokens):
            hidden, own = self._model.language(self._model.embed(ids[:, -1:]), self._prefix, own)
            chances = torch.softmax(self._model.language.logits(hidden[:, -1]).float(), dim=-1)
            drawn = torch.multinomial(chances, 1)[:, 0].masked_fill(ended, PAD_ID)
            ended |= drawn == EOS_ID
            ids = torch.cat([ids, drawn[:, None]], dim=1)
            if bool(ended.all()):
                break
        return ids

    def _select_kv(self, rows: I64) -> tuple[KV, ...]:
        index = torch.from_numpy(rows).to(self._device)
        return tuple((k[:, index], v[:, index]) for k, v in self._own)


@dataclass(frozen=True)
class Guides:
    """Data about all texts of a run: the prior f32 [V] that the cross-entropy adds to the logits
    (0: no adjustment), and the rewarder of sampled captions, if any.
    """

    prior: Tensor
    rewarder: Rewarder | None = None


def compute_training_loss(
    model: Captioner, batch: Batch, raw: Raw, *, config: TrainConfig, guides: Guides
) -> Tensor:
    """Next-token cross-entropy, and with a weight: the margin to other regions, the reward.

    Hard statements teach the margin alone: their captions are not what a region is called.
    """
    told = EncodedBatch(model, batch, raw)
    if batch.negatives is not None:
        return config.margin_weight * compute_statement_loss(
            told, batch, batch.negatives, config.margin
        )
    logits = told.logits(told.texts, batch.about)
    targets = told.texts.targets[told.texts.kept]
    adjusted = logits + guides.prior
    loss = F.cross_entropy(adjusted, targets, label_smoothing=config.label_smoothing)
    loss = config.phrase_weight * loss
    if config.margin_weight > 0:
        loss = loss + config.margin_weight * compute_margin_loss(told, batch, logits, config.margin)
    if config.bag_weight > 0:
        loss = loss + config.bag_weight * compute_bag_loss(told, batch)
    if guides.rewarder is not None:
        loss = loss + config.reward_weight * compute_reward_loss(
            told, batch, config, guides.rewarder
        )
    return loss


def compute_plain_loss(
    model: Captioner, batch: Batch, raw: Raw, *, prior: Tensor | float = 0.0
) -> Tensor:
    """Next-token cross-entropy alone, in nats per token."""
    told = EncodedBatch(model, batch, raw)
    targets = told.texts.targets[told.texts.kept]
    return F.cross_entropy(told.logits(told.texts, batch.about) + prior, targets)


def compute_margin_loss(told: EncodedBatch, batch: Batch, logits: Tensor, margin: float) -> Tensor:
    """How much of `margin` (nats per token) is missing between the fit to the own region and to
    another one of the picture, or to a fragment of the own one: max-margin MMI of arXiv 1511.02283,
    section 4.
    """
    own = told.score(logits, told.texts)
    elsewhere = told.score(told.logits(told.texts, batch.others), told.texts)
    rival = torch.from_numpy(batch.others != batch.about).to(own.device)
    missing = F.relu(margin - (own - elsewhere)) * rival
    return missing.sum() / rival.sum().clamp_min(1)


def compute_statement_loss(
    told: EncodedBatch, batch: Batch, negatives: I64, margin: float
) -> Tensor:
    """How much of `margin` (nats per token) is missing between a true statement and its false
    variant i64 [M, L], both about the whole picture.

    What the words alone say is taken off, as the grounder's score does (its log P0): the same pair
    is read about the next picture of the batch. In a batch of one picture nothing is learnt.
    """
    pictures = len(batch.pictures)
    each = len(batch.ids) // pictures
    next_ones = [np.roll(ids, -each, axis=0) for ids in (batch.ids, negatives)]
    true, false, true_there, false_there = (
        _compute_fit(told, ids, batch.about) for ids in (batch.ids, negatives, *next_ones)
    )
    by_words = torch.roll(true_there - false_there, each, dims=0)
    return F.relu(margin - (true - false - by_words)).mean()


def _compute_fit(told: EncodedBatch, ids: I64, rows: I64) -> Tensor:
    texts = Texts.of(torch.from_numpy(ids).to(told.texts.words.device))
    return told.score(told.logits(texts, rows), texts)


def compute_bag_loss(told: EncodedBatch, batch: Batch) -> Tensor:
    """Cross-entropy of a region's informative words under its tokens alone, all words with equal
    weight.

    (Bags of words as targets: arXiv 1511.02251.) It trains the region's features directly and costs
    a fraction of a phrase.
    """
    said = told.predict_words()
    bags = torch.from_numpy(batch.bags).to(said.device)
    kept = (bags != PAD_ID).to(said.dtype)
    each = (said.gather(1, bags) * kept).sum(1) / kept.sum(1).clamp_min(1)
    return -each.mean()


def compute_reward_loss(
    told: EncodedBatch, batch: Batch, config: TrainConfig, rewarder: Rewarder
) -> Tensor:
    """REINFORCE on sampled captions. The other samples of a region are the baseline.

    (Self-critical training, arXiv 1612.00563, with the baseline of arXiv 2003.09971.)
    """
    samples = config.reward_samples
    rows = batch.rows.repeat(samples)
    ids = told.sample(rows, max_new_tokens=config.reward_tokens)
    rewards = torch.tensor(rewarder(ids.tolist(), batch.regions, samples), device=ids.device)
    by_region = rewards.reshape(-1, samples)
    others = (by_region.sum(1, keepdim=True) - by_region) / (samples - 1)
    texts = Texts.of(ids)
    lengths = texts.kept.sum(1)
    fit = told.score(told.logits(texts, rows), texts) * lengths
    return -((by_region - others).flatten() * fit).sum() / lengths.sum()
