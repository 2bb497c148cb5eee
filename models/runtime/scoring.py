"""The captioner read backwards: how well do given texts fit the regions of a frame?

Two scores. The *bag* is the training's own read-out of a region's tokens (`bag_loss`): their mean
goes through the final norm and the tied embedding; a word's log-probability minus its mean over
training regions says how much this region, rather than any, has the word. It costs one product for
all regions. The *fit* is log P(text | region) - log P0(text), a pass of the language model over the
given text; P0 is the mean over null regions, which are training regions of other pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ureca.datatypes import EngineInfo, RegionInput, RowDelta, RowDone, Style
from ureca.engine import TextScores
from ureca.errors import BundleError
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.attributes import AttributeReader
from ureca.models.runtime.batch_engine import (
    Backend,
    BatchEngine,
    EncodedPicture,
    Own,
    Picture,
    PromptedBatch,
)
from ureca.models.runtime.confidence import CaptionEvidence, estimate_confidence
from ureca.models.runtime.decode import F32, I64
from ureca.models.runtime.grounding.phrases import content_words
from ureca.models.tokenizer import EOS_ID, Tokenizer

_EITHER_FROM: Final = 5
"""Texts of this many words are read as noun phrase and as sentence, shorter ones only as phrase."""
_REMEMBERED: Final = 1024
"""Texts whose P0 is kept: it does not depend on the frame."""
_EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class ScoringArrays:
    """What scoring needs besides graphs. `norm` f32 [d]: the final norm's weights. `word_means` f32
    [V]: log of each word's mean probability over training regions. `null_kv` f32 [2 * layers, H, B,
    S, hd]: keys, then values, of the whole prompts of B null regions, image tokens first.
    """

    norm: F32
    word_means: F32
    null_kv: F32

    def save(self, path: Path) -> None:
        """Write an `.npz`, the null regions as float16."""
        half = self.null_kv.astype(np.float16)
        np.savez(path, norm=self.norm, word_means=self.word_means, null_kv=half)

    @classmethod
    def load(cls, path: Path, config: CaptionerConfig) -> ScoringArrays:
        """Read the `.npz`. Raises `BundleError` for a file that does not fit the model."""
        language = config.language
        try:
            with np.load(path, allow_pickle=False) as file:
                found = cls(*(file[name].astype(np.float32) for name in cls.__slots__))
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{path} is no file of scoring arrays: {error}") from error
        expected = (2 * language.layers, language.heads, language.head_dim)
        got = (*found.null_kv.shape[:2], found.null_kv.shape[-1])
        sizes = (found.norm.shape, found.word_means.shape)
        if got != expected or sizes != ((language.width,), (language.vocab_size,)):
            raise BundleError(
                f"{path} does not fit the model: expected a width of {language.width}, "
                f"{language.vocab_size} words and null regions {expected}, got {sizes} and {got}; "
                "export the checkpoint again"
            )
        return found


@dataclass(slots=True)
class _ReadRegions:
    """Regions of one frame, kept for the next texts: their tokens f32 [N, K, d], what these say by
    themselves f32 [N, V], and their own KV once all of them were prompted.
    """

    frame: EncodedPicture[Any]
    masks: tuple[npt.NDArray[np.bool_], ...]
    tokens: F32
    words: F32
    clarity: F32
    own: Any = None

    def is_of(self, frame: EncodedPicture[Any], regions: Sequence[RegionInput]) -> bool:
        same = frame is self.frame and len(regions) == len(self.masks)
        return same and all(r.mask is m for r, m in zip(regions, self.masks, strict=True))


class ScoringBatchEngine(BatchEngine[Picture, Own]):
    """A `BatchEngine` that implements `ureca.engine.ScoringEngine`."""

    def __init__(
        self,
        backend: Backend[Picture, Own],
        *,
        config: CaptionerConfig,
        tokenizer: Tokenizer,
        info: EngineInfo,
        scoring: ScoringArrays,
        confidence: Mapping[str, float] | None = None,
        attributes: AttributeReader | None = None,
    ) -> None:
        """`confidence` are the weights of `models.runtime.confidence`; without them captions have
        none.
        """
        super().__init__(
            backend, config=config, tokenizer=tokenizer, info=info, attributes=attributes
        )
        self._scoring = scoring
        self._confidence = confidence or {}
        self._nulls = backend.own(scoring.null_kv)
        self._null_rows = scoring.null_kv.shape[2]
        self._table = backend.embed(np.arange(config.language.vocab_size))
        self._null_scores: dict[tuple[int, ...], F32] = {}
        self._read: _ReadRegions | None = None

    def score(
        self,
        frame: EncodedPicture[Picture],
        regions: Sequence[RegionInput],
        texts: Sequence[str],
        *,
        max_fit: int = 8,
        order: F32 | None = None,
    ) -> TextScores:
        """See `ureca.engine.ScoringEngine.score`. The same masks on the same frame are read once,
        as long as they are asked about in turn.
        """
        lengths = np.array([len(self._words_of(text)) for text in texts], np.int32)
        fit = np.full((len(texts), len(regions)), np.nan, np.float32)
        if not fit.size:
            return TextScores(fit, fit, lengths)
        read = self._read_regions(frame, regions)
        bag = np.stack([read.words[:, self._bag_ids(text)].mean(axis=1) for text in texts])
        best = np.argsort(-(bag if order is None else order), axis=1, kind="stable")
        best = best[:, : min(max_fit, self._info.max_regions)]
        usual = np.full(len(texts), np.nan, np.float32)
        if best.shape[1]:
            told, p0 = self._likelihoods(read, texts, best)
            usual = (p0 / (lengths + 1)).astype(np.float32)
            np.put_along_axis(fit, best, told / (lengths[:, None] + 1) - usual[:, None], axis=1)
        return TextScores(bag.astype(np.float32), fit, lengths, usual, read.clarity)

    def _judge(
        self,
        frame: EncodedPicture[Picture],
        regions: Sequence[RegionInput],
        batch: PromptedBatch[Picture, Own],
        outputs: Iterator[RowDelta | RowDone],
    ) -> Iterator[RowDelta | RowDone]:
        """Add to each caption the probability that it is right."""
        if not self._confidence:
            yield from outputs
            return
        words: F32 | None = None
        clarity: F32 | None = None
        for out in outputs:
            if isinstance(out, RowDelta) or out.stop not in {"eos", "length"}:
                yield out
                continue
            if words is None or clarity is None:
                words, clarity = self._clearness(batch.tokens)
            slot = int(np.searchsorted(batch.rows, out.row))
            evidence = CaptionEvidence(
                text=out.text,
                score=out.score,
                tokens=out.n_tok,
                bag=float(words[slot, self._bag_ids(out.text)].mean()),
                clarity=(float(clarity[slot, 0]), float(clarity[slot, 1]), float(clarity[slot, 2])),
                area=float(regions[out.row].mask.mean()),
            )
            yield replace(out, confidence=estimate_confidence(self._confidence, evidence))

    def _clearness(self, tokens: F32) -> tuple[F32, F32]:
        """The words' log-probabilities minus their means f32 [N, V], and `clarity` f32 [N, 3]."""
        said = self._words(tokens)
        words = said - self._scoring.word_means
        entropy = (np.exp(said) * said).sum(axis=1)
        return words, np.stack([words.max(axis=1), said.max(axis=1), entropy], axis=1)

    def _likelihoods(self, read: _ReadRegions, texts: Sequence[str], best: I64) -> tuple[F32, F32]:
        """log P(text | region) f32 [T, W] for the regions best [T, W], and log P0(text) f32 [T]."""
        asked = [(row, ids) for row, text in enumerate(texts) for ids in self._spelled(text)]
        of_text = np.array([row for row, _ in asked])
        told = np.empty((len(asked), best.shape[1]), np.float32)
        usual = np.empty((len(asked), self._null_rows), np.float32)
        for group in _groups(asked, size=self._info.max_regions // best.shape[1]):
            columns, ids = best[of_text[group]].ravel(), [asked[place][1] for place in group]
            own = self._prompted(read, columns, many=best.size >= len(read.tokens))
            rows = [each for each in ids for _ in range(best.shape[1])]
            told[group] = self._sums(read.frame.inner, own, rows).reshape(len(group), -1)
            usual[group] = self._usual(read.frame.inner, ids)
        spelled = [of_text == row for row in range(len(texts))]
        return (
            np.stack([_log_mean_exp(told[each].T) for each in spelled]),
            np.stack([_log_mean_exp(usual[each].ravel()) for each in spelled]),
        )

    def _spelled(self, text: str) -> list[list[int]]:
        """Start token, then words; `<eos>` is the last target. A text of several words may be a
        noun phrase or a sentence, and its probability is the mean of both.
        """
        styles: tuple[Style, ...] = ("short", "long")
        words = self._words_of(text)
        kept = styles if len(text.split()) >= _EITHER_FROM else styles[:1]
        return [[Tokenizer.start_id(style), *words] for style in kept]

    def _words_of(self, text: str) -> list[int]:
        """Ids of a text, as many as a caption may have."""
        return self._tokenizer.encode(text)[: self._info.max_new_tokens]

    def _bag_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(" ".join(content_words(text))) or [EOS_ID]

    def _read_regions(
        self, frame: EncodedPicture[Picture], regions: Sequence[RegionInput]
    ) -> _ReadRegions:
        """Region tokens, and the words' log-probabilities minus their means f32 [N, V]."""
        if self._read is not None and self._read.is_of(frame, regions):
            return self._read
        tokens = self.read_tokens(frame, regions)
        words, clarity = self._clearness(tokens)
        masks = tuple(region.mask for region in regions)
        self._read = _ReadRegions(frame, masks, tokens, words, clarity)
        return self._read

    def _words(self, tokens: F32) -> F32:
        """What the tokens f32 [N, K, d] say by themselves: log-probabilities f32 [N, V]."""
        mean = tokens.mean(axis=1)
        scale = np.sqrt((mean**2).mean(axis=-1, keepdims=True) + _EPSILON)
        logits = (mean / scale * self._scoring.norm) @ self._table.T
        best = logits.max(axis=1, keepdims=True)
        spread = best + np.log(np.exp(logits - best).sum(axis=1, keepdims=True))
        return np.asarray(logits - spread, np.float32)

    def _prompted(self, read: _ReadRegions, columns: I64, *, many: bool) -> Any:
        """The own KV of the regions `columns` [M], rows as often as they are named. With `many`
        texts to come, all regions of the frame are prompted once.
        """
        picture = read.frame.inner
        if many and read.own is None and len(read.tokens) <= self._info.max_regions:
            read.own = self._backend.read(picture, read.tokens)
        if read.own is not None:
            return self._backend.keep(read.own, columns)
        different, slots = np.unique(columns, return_inverse=True)
        own = self._backend.read(picture, read.tokens[different])
        return self._backend.keep(own, slots.astype(np.int64))

    def _usual(self, picture: Picture, ids: Sequence[list[int]]) -> F32:
        """log P f32 [T, B] of texts for the null regions, whatever the picture is."""
        keys = [tuple(text) for text in ids]
        new = [key for key in dict.fromkeys(keys) if key not in self._null_scores]
        size = max(1, self._info.max_regions // self._null_rows)
        for start in range(0, len(new), size):
            asked = new[start : start + size]
            slots = np.tile(np.arange(self._null_rows), len(asked))
            own = self._nulls if len(asked) == 1 else self._backend.keep(self._nulls, slots)
            texts = [list(key) for key in asked for _ in range(self._null_rows)]
            told = self._sums(self._backend.drop_prefix(picture), own, texts)
            self._null_scores.update(zip(asked, told.reshape(len(asked), -1), strict=True))
        found = np.stack([self._null_scores[key] for key in keys])
        while len(self._null_scores) > _REMEMBERED:
            del self._null_scores[next(iter(self._null_scores))]
        return found

    def _sums(self, picture: Picture, own: Own, ids: Sequence[list[int]]) -> F32:
        """log P f32 [M] of whole texts."""
        words, targets = np.full((2, len(ids), max(map(len, ids))), EOS_ID, np.int64)
        for row, text in enumerate(ids):
            words[row, : len(text)] = text
            targets[row, : len(text) - 1] = text[1:]
        real = np.arange(words.shape[1])[None] < np.array([len(text) for text in ids])[:, None]
        told = self._backend.score(picture, self._backend.embed(words), targets, own)
        return np.asarray(np.where(real, told, 0).sum(axis=1), np.float32)


def _groups(asked: Sequence[tuple[int, list[int]]], *, size: int) -> Iterator[I64]:
    """Places of texts of similar length, `size` or fewer at a time."""
    order = np.argsort([len(ids) for _, ids in asked], kind="stable")
    size = max(1, size)
    return (order[start : start + size] for start in range(0, len(order), size))


def _log_mean_exp(values: F32) -> F32:
    """log of the mean of exp over the last axis."""
    best = values.max(axis=-1)
    return np.asarray(best + np.log(np.exp(values - best[..., None]).mean(axis=-1)), np.float32)
