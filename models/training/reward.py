"""Scores sampled captions: CIDEr-D with the phrases of the own region, minus that with its
neighbours'.

CIDEr-D (arXiv 1411.5726) as `pycocoevalcap` computes it, with two differences: document frequencies
come once from all training phrases, and the end of a caption counts as a word. Otherwise captions
learn to stop in the middle (arXiv 1612.00563, section 3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_LONGEST = 4
_SIGMA = 6.0
_END = "<eos>"
Gram = tuple[str, ...]


@dataclass(frozen=True)
class TfIdfVector:
    """TF-IDF of a text's n-grams: one table and norm for each n, and the length in words."""

    weights: tuple[dict[Gram, float], ...]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D with fixed n-gram frequencies."""

    def __init__(self, documents: Iterable[Sequence[str]]) -> None:
        self._seen: Counter[Gram] = Counter()
        count = 0
        for phrases in documents:
            self._seen.update({gram for phrase in phrases for gram in _count_ngrams(phrase)})
            count += 1
        self._log_count = math.log(max(count, 1))
        self.vector = lru_cache(maxsize=200_000)(self._make_vector)

    def _make_vector(self, text: str) -> TfIdfVector:
        weights: tuple[dict[Gram, float], ...] = tuple({} for _ in range(_LONGEST))
        for gram, often in _count_ngrams(text).items():
            rarity = self._log_count - math.log(max(1, self._seen[gram]))
            weights[len(gram) - 1][gram] = often * rarity
        norms = tuple(math.sqrt(sum(w * w for w in table.values())) for table in weights)
        return TfIdfVector(weights, norms, len(text.split()) + 1)

    def score(self, text: str, phrases: Sequence[str]) -> float:
        """Return 0..10: mean over phrases and n of the clipped cosine with a penalty on length."""
        one = self.vector(text)
        return (
            10.0
            * sum(_compute_similarity(one, self.vector(p)) for p in phrases)
            / max(1, len(phrases))
        )


class Rewarder:
    """Computes rewards of sampled captions. `phrases[i]` are the short phrases of region i."""

    def __init__(
        self,
        phrases: Sequence[Sequence[str]],
        *,
        decode: Callable[[Sequence[int]], str],
        neighbour_weight: float,
    ) -> None:
        self._phrases, self._decode, self._weight = phrases, decode, neighbour_weight
        self._cider = Cider(phrases)

    def __call__(
        self, ids: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], samples: int
    ) -> list[float]:
        """Return rewards. `ids` holds `samples` captions for every region of every group (regions
        of an image).
        """
        captions = iter(ids)
        return [
            self._compute_reward(self._decode(next(captions)), region, group)
            for group in groups
            for region in group
            for _ in range(samples)
        ]

    def _compute_reward(self, text: str, region: int, group: Sequence[int]) -> float:
        own = self._cider.score(text, self._phrases[region])
        rivals = (self._cider.score(text, self._phrases[o]) for o in group if o != region)
        return own - self._weight * max(rivals, default=0.0)


def _count_ngrams(text: str) -> Counter[Gram]:
    words = [*text.split(), _END]
    return Counter(
        tuple(words[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1)
    )


def _compute_similarity(one: TfIdfVector, other: TfIdfVector) -> float:
    near = math.exp(-((one.length - other.length) ** 2) / (2 * _SIGMA**2))
    tables = zip(one.weights, other.weights, one.norms, other.norms, strict=True)
    return near * sum(_compute_cosine(*table) for table in tables) / _LONGEST


def _compute_cosine(
    one: dict[Gram, float], other: dict[Gram, float], norm: float, rival: float
) -> float:
    if not norm or not rival:
        return 0.0
    shared = sum(min(w, other[gram]) * other[gram] for gram, w in one.items() if gram in other)
    return shared / (norm * rival)
