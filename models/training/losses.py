"""What a batch teaches: the phrases of its regions, that they fit no other region, and rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ureca.models.nano.captioner import Captioner
from ureca.models.nano.language import KV
from ureca.models.nano.pyramid import Raw
from ureca.models.tokenizer import EOS_ID, PAD_ID, SHORT_ID
from ureca.models.training.batch_sampler import Batch
from ureca.models.training.config import TrainConfig
from ureca.models.training.reward import Rewarder

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Token ids [M, L] as input words, targets one further, and which targets are no padding."""

    words: Tensor
    targets: Tensor
    kept: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Texts:
        """From whole captions: style token, words, `<eos>`, padding."""
        return cls(ids[:, :-1], ids[:, 1:], ids[:, 1:] != PAD_ID)


class Told:
    """A batch whose pictures and regions have been read: any text about them can be scored now.

    The keys and values of a region's tokens are computed once; every text about it reads them.
    """

    def __init__(self, model: Captioner, batch: Batch, raw: Raw) -> None:
        device = raw[0].device
        self._model, self._device = model, device
        masks, boxes = (torch.from_numpy(a).to(device) for a in (batch.masks, batch.boxes))
        self._prefix = model.prefix(model.projector(raw[2]))
        regions = model.regions(masks, boxes, model.pyramid(raw))
        self._tokens = regions
        told = regions.unflatten(0, (len(batch.pictures), -1))[:, : batch.told].flatten(0, 1)
        empty = model.language.empty(told.shape[0])
        self._own = model.language(told, self._prefix, empty)[1]
        self.texts = Texts.of(torch.from_numpy(batch.ids).to(device))

    def logits(self, texts: Texts, rows: I64) -> Tensor:
        """The texts as if said of regions `rows` [M], ordered by picture: logits [kept, V]."""
        embedded = self._model.embed(texts.words)
        hidden, _ = self._model.language(embedded, self._prefix, self._of(rows))
        return self._model.language.logits(hidden[texts.kept]).float()

    def fit(self, logits: Tensor, texts: Texts) -> Tensor:
        """Mean log-probability per token of every text [M]."""
        chosen = -F.cross_entropy(logits, texts.targets[texts.kept], reduction="none")
        total = torch.zeros_like(texts.kept, dtype=chosen.dtype)
        return total.masked_scatter(texts.kept, chosen).sum(1) / texts.kept.sum(1)

    def words(self) -> Tensor:
        """What the regions' tokens say by themselves: log-probabilities [N, V].

        Their mean is read as if the language model had ended with it, so this needs no weights of
        its own and pulls the tokens towards the words' own embeddings.
        """
        hidden = self._model.language.norm(self._tokens.mean(dim=1))
        return torch.log_softmax(self._model.language.logits(hidden).float(), dim=-1)

    @torch.no_grad()
    def sample(self, rows: I64, *, max_new_tokens: int) -> Tensor:
        """One short caption drawn for each row of `rows`: ids [M, 1 + max_new_tokens]."""
        own, ids = self._of(rows), torch.full((len(rows), 1), SHORT_ID, device=self._device)
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

    def _of(self, rows: I64) -> tuple[KV, ...]:
        index = torch.from_numpy(rows).to(self._device)
        return tuple((k[:, index], v[:, index]) for k, v in self._own)


@dataclass(frozen=True)
class Guides:
    """What a run knows of its texts as a whole: the prior f32 [V] that the cross-entropy adds to
    the logits (0 when there is no adjustment), and the judge of sampled captions if there is one.
    """

    prior: Tensor
    rewarder: Rewarder | None = None


def training_loss(
    model: Captioner, batch: Batch, raw: Raw, *, config: TrainConfig, guides: Guides
) -> Tensor:
    """Next-token cross-entropy, and with a weight: the margin to other regions, the reward."""
    told = Told(model, batch, raw)
    logits = told.logits(told.texts, batch.about)
    targets = told.texts.targets[told.texts.kept]
    adjusted = logits + guides.prior
    loss = F.cross_entropy(adjusted, targets, label_smoothing=config.label_smoothing)
    loss = config.phrase_weight * loss
    if config.margin_weight > 0:
        loss = loss + config.margin_weight * margin_loss(told, batch, logits, config.margin)
    if config.bag_weight > 0:
        loss = loss + config.bag_weight * bag_loss(told, batch)
    if guides.rewarder is not None:
        loss = loss + config.reward_weight * reward_loss(told, batch, config, guides.rewarder)
    return loss


def plain_loss(model: Captioner, batch: Batch, raw: Raw, *, prior: Tensor | float = 0.0) -> Tensor:
    """Next-token cross-entropy alone, in nats per token."""
    told = Told(model, batch, raw)
    targets = told.texts.targets[told.texts.kept]
    return F.cross_entropy(told.logits(told.texts, batch.about) + prior, targets)


def margin_loss(told: Told, batch: Batch, logits: Tensor, margin: float) -> Tensor:
    """How much of `margin` (nats per token) is missing between the fit to the own region and to
    another one of the picture: max-margin MMI of arXiv 1511.02283, section 4.
    """
    own = told.fit(logits, told.texts)
    elsewhere = told.fit(told.logits(told.texts, batch.others), told.texts)
    rival = torch.from_numpy(batch.others != batch.about).to(own.device)
    missing = F.relu(margin - (own - elsewhere)) * rival
    return missing.sum() / rival.sum().clamp_min(1)


def bag_loss(told: Told, batch: Batch) -> Tensor:
    """Cross-entropy of a region's telling words under its tokens alone, all words alike.

    (Bags of words as targets: arXiv 1511.02251.) It reaches the region's features directly, and
    costs a fraction of a phrase.
    """
    said = told.words()
    bags = torch.from_numpy(batch.bags).to(said.device)
    kept = (bags != PAD_ID).to(said.dtype)
    each = (said.gather(1, bags) * kept).sum(1) / kept.sum(1).clamp_min(1)
    return -each.mean()


def reward_loss(told: Told, batch: Batch, config: TrainConfig, rewarder: Rewarder) -> Tensor:
    """REINFORCE on sampled captions; a region's other samples are the baseline.

    (Self-critical training, arXiv 1612.00563, with the baseline of arXiv 2003.09971.)
    """
    samples = config.reward_samples
    rows = np.arange(len(batch.pictures) * batch.told).repeat(samples)
    ids = told.sample(rows, max_new_tokens=config.reward_tokens)
    rewards = torch.tensor(rewarder(ids.tolist(), batch.regions, samples), device=ids.device)
    by_region = rewards.reshape(-1, samples)
    others = (by_region.sum(1, keepdim=True) - by_region) / (samples - 1)
    texts = Texts.of(ids)
    lengths = texts.kept.sum(1)
    fit = told.fit(told.logits(texts, rows), texts) * lengths
    return -((by_region - others).flatten() * fit).sum() / lengths.sum()
