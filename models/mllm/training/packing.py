"""Packs the regions of one image, and the phrases of one region, into one row: a flattened tree.

    [image prefix] -> [mask block, instruction] of region 1 -> answer, answer
                   -> [mask block, instruction] of region 2 -> answer

A token attends to its own branch only and has the position that it has alone. The loss equals that
of single rows, for a fraction of the tokens. The engine does the same with keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ureca.models.mllm.network.positions import PromptOpening


@dataclass(frozen=True)
class PackedRow:
    """One image as a row of L tokens."""

    x: Tensor
    """Embeddings [L, d]."""
    positions: Tensor
    """i64 [A, L]: number of preceding tokens on the same branch, in A = 1 dimension, or in 3."""
    seen: Tensor
    """bool [L, L]: which tokens each one sees."""
    at: Tensor
    """i64 [A]: places whose next token is taught, in the order of the answers."""


def pack_row(before: PromptOpening, asked: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> PackedRow:
    """Pack the image prefix, and for each region its own prompt [S, d] with the answers'
    embeddings.

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
    positions = _offset_positions(counted.to(place), before)
    return PackedRow(x, positions, seen.to(place), torch.tensor(at, device=place))


def _offset_positions(counted: Tensor, before: PromptOpening) -> Tensor:
    """Return positions [A, L] of tokens that were counted [L]: the prefix's own, and continued
    behind it.
    """
    if before.positions is None:
        return counted[None]
    size = before.x.shape[1]
    behind = (counted[size:] - size + before.goes_on).expand(3, -1)
    return torch.cat([before.positions[:, 0], behind], dim=1)


def pad_rows(rows: Sequence[PackedRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x [N, L, d], positions [N, L] or [3, N, L], mask bool [N, 1, L, L]). Padding attends
    to itself alone.
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
    """The segments of a tree in the order of the row."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._starts: list[int] = []
        self._ancestors: list[set[int]] = []

    @property
    def length(self) -> int:
        return sum(self._lengths)

    def add(self, length: int, *, parent: int) -> int:
        """Append a segment behind `parent` (-1: the root); return its number."""
        number = len(self._lengths)
        before = self._ancestors[parent] if parent >= 0 else set()
        start = self._starts[parent] + self._lengths[parent] if parent >= 0 else 0
        self._lengths.append(length)
        self._starts.append(start)
        self._ancestors.append(before | {number})
        return number

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return positions i64 [L], and the tokens to which each one attends, bool [L, L]."""
        lengths = torch.tensor(self._lengths)
        of = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        starts = zip(self._starts, self._lengths, strict=True)
        positions = torch.cat([torch.arange(start, start + n) for start, n in starts])
        below = torch.zeros(len(lengths), len(lengths), dtype=torch.bool)
        for number, ancestors in enumerate(self._ancestors):
            below[number, list(ancestors)] = True
        return positions, below[of][:, of].tril()
