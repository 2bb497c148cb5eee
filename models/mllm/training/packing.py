"""Regions of one picture, and phrases of one region, learn from one row: a tree laid out flat.

    [image prefix] -> [mask block, instruction] of region 1 -> answer, answer
                   -> [mask block, instruction] of region 2 -> answer

A token sees its own branch only and stands where it would stand alone, so the loss is that of
single rows, for a fraction of the tokens (what the engine does with keys and values at run time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.models.mllm.network.positions import Opening


@dataclass(frozen=True)
class Packed:
    """One picture as a row of L tokens."""

    x: Tensor
    """Embeddings [L, d]."""
    positions: Tensor
    """i64 [A, L]: how many tokens stand before on the same branch, in A = 1 dimension, or in 3."""
    seen: Tensor
    """bool [L, L]: which tokens each one sees."""
    at: Tensor
    """i64 [A]: places whose next token is taught, in the order of the answers."""


def pack(before: Opening, asked: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> Packed:
    """The image prefix, and for each region its own prompt [S, d] with the answers' embeddings.

    Answers [a, d] come without their last token, which nothing follows.
    """
    layout, prefix = _Layout(), before.x[0]
    trunk = layout.add(len(prefix), parent=-1)
    parts, at = [prefix], []
    for prompt, answers in asked:
        parts.append(prompt)
        branch = layout.add(len(prompt), parent=trunk)
        ends = layout.length - 1
        for answer in answers:
            first = layout.length
            layout.add(len(answer), parent=branch)
            parts.append(answer)
            at += [ends, *range(first, layout.length)]
    counted, seen = layout.tensors()
    x = torch.cat(parts)
    place = x.device
    positions = _placed(counted.to(place), before)
    return Packed(x, positions, seen.to(place), torch.tensor(at, device=place))


def _placed(counted: Tensor, before: Opening) -> Tensor:
    """Positions [A, L] of tokens that were counted [L]: the prefix's own, and on behind it."""
    if before.positions is None:
        return counted[None]
    size = before.x.shape[1]
    behind = (counted[size:] - size + before.goes_on).expand(3, -1)
    return torch.cat([before.positions[:, 0], behind], dim=1)


def padded(rows: Sequence[Packed]) -> tuple[Tensor, Tensor, Tensor]:
    """(x [N, L, d], positions [N, L] or [3, N, L], mask bool [N, 1, L, L]); padding sees itself
    alone.
    """
    longest = max(len(row.x) for row in rows)
    x = torch.nn.utils.rnn.pad_sequence([row.x for row in rows], batch_first=True)
    places = [nn.functional.pad(row.positions, (0, longest - len(row.x))) for row in rows]
    positions = torch.stack(places, dim=1)
    if len(positions) == 1:
        positions = positions[0]
    mask = torch.eye(longest, dtype=torch.bool, device=x.device).repeat(len(rows), 1, 1)
    for whole, row in zip(mask, rows, strict=True):
        whole[: len(row.x), : len(row.x)] = row.seen
    return x, positions, mask[:, None]


class _Layout:
    """Segments of a tree in the order in which they are laid out."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._starts: list[int] = []
        self._ancestors: list[set[int]] = []

    @property
    def length(self) -> int:
        return sum(self._lengths)

    def add(self, length: int, *, parent: int) -> int:
        """Append a segment behind `parent` (-1: the root); returns its number."""
        number = len(self._lengths)
        before = self._ancestors[parent] if parent >= 0 else set()
        start = self._starts[parent] + self._lengths[parent] if parent >= 0 else 0
        self._lengths.append(length)
        self._starts.append(start)
        self._ancestors.append(before | {number})
        return number

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Positions i64 [L], and what each token sees, bool [L, L]."""
        lengths = torch.tensor(self._lengths)
        of = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        starts = zip(self._starts, self._lengths, strict=True)
        positions = torch.cat([torch.arange(start, start + n) for start, n in starts])
        below = torch.zeros(len(lengths), len(lengths), dtype=torch.bool)
        for number, ancestors in enumerate(self._ancestors):
            below[number, list(ancestors)] = True
        return positions, below[of][:, of].tril()
