"""Computes word frequencies for logit adjustment (arXiv 2007.07314), which lowers frequent
phrases.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from ureca.models.tokenizer import SPECIAL_TOKENS, Tokenizer

COMMON_WORDS = frozenset("a an the of in on at to with and his her its their two some".split())  # noqa: SIM905
"""Words that tell nothing about a region: neither adjusted nor named straight from its tokens."""

_NEUTRAL = 1e-3
_RAREST = 2e-5


def compute_log_prior(texts: Iterable[str], tokenizer: Tokenizer, *, size: int) -> Tensor:
    """Return the log of each token's share of `texts`, f32 [size], relative to a share of 1 in
    1,000.

    Function words, start and end tokens stay at 0, because captions would otherwise lose their
    grammar. Rare tokens count as 1 in 50,000.
    """
    seen = Counter(token for text in texts for token in tokenizer.encode(text))
    total = max(1, seen.total())
    shares = (max(seen[token] / total, _RAREST) for token in range(size))
    prior = torch.tensor([math.log(share / _NEUTRAL) for share in shares])
    plain = [i for word in COMMON_WORDS for i in tokenizer.encode(word)]
    prior[[*range(len(SPECIAL_TOKENS)), *plain]] = 0.0
    return prior
