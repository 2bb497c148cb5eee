"""How good a sampled caption is: CIDEr-D to its own region's phrases, less that to its neighbours'.

CIDEr-D (arXiv 1411.5726) as `pycocoevalcap` computes it, except that document frequencies come
once from all training phrases and that the end of a caption counts as a word (or captions learn to
stop in the middle: arXiv 1612.00563, section 3).
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
class Vector:
    """TF-IDF of a text's n-grams: one table and norm for each n, and the length in words."""

    weights: tuple[dict[Gram, float], ...]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D against phrases whose n-gram frequencies are known."""

    def __init__(self, documents: Iterable[Sequence[str]]) -> None:
        self._seen: Counter[Gram] = Counter()
        count = 0
        for phrases in documents:
            self._seen.update({gram for phrase in phrases for gram in _grams(phrase)})
            count += 1
        self._log_count = math.log(max(count, 1))
        self.vector = lru_cache(maxsize=200_000)(self._vector)

    def _vector(self, text: str) -> Vector:
        weights: tuple[dict[Gram, float], ...] = tuple({} for _ in range(_LONGEST))
        for gram, often in _grams(text).items():
            rarity = self._log_count - math.log(max(1, self._seen[gram]))
            weights[len(gram) - 1][gram] = often * rarity
        norms = tuple(math.sqrt(sum(w * w for w in table.values())) for table in weights)
        return Vector(weights, norms, len(text.split()) + 1)

    def score(self, text: str, phrases: Sequence[str]) -> float:
        """0..10: mean over phrases and n of the clipped cosine with a penalty on length."""
        one = self.vector(text)
        return 10.0 * sum(_likeness(one, self.vector(p)) for p in phrases) / max(1, len(phrases))


class Rewarder:
    """Rewards of sampled captions. `phrases[i]` are the short phrases of region i."""

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
        """`ids` holds `samples` captions for every region of every group (regions of a picture)."""
        captions = iter(ids)
        return [
            self._reward(self._decode(next(captions)), region, group)
            for group in groups
            for region in group
            for _ in range(samples)
        ]

    def _reward(self, text: str, region: int, group: Sequence[int]) -> float:
        own = self._cider.score(text, self._phrases[region])
        rivals = (self._cider.score(text, self._phrases[o]) for o in group if o != region)
        return own - self._weight * max(rivals, default=0.0)


def _grams(text: str) -> Counter[Gram]:
    words = [*text.split(), _END]
    return Counter(
        tuple(words[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1)
    )


def _likeness(one: Vector, other: Vector) -> float:
    near = math.exp(-((one.length - other.length) ** 2) / (2 * _SIGMA**2))
    tables = zip(one.weights, other.weights, one.norms, other.norms, strict=True)
    return near * sum(_cosine(*table) for table in tables) / _LONGEST


def _cosine(one: dict[Gram, float], other: dict[Gram, float], norm: float, rival: float) -> float:
    if not norm or not rival:
        return 0.0
    shared = sum(min(w, other[gram]) * other[gram] for gram, w in one.items() if gram in other)
    return shared / (norm * rival)
