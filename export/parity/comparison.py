"""Measures how far a bundle agrees with its checkpoint, in logits and in captions.

Both sides run through the same methods (`Probe`) on the same preprocessed arrays. The captions of
the reference are forced on the candidate token by token (`teacher_forced`). Both sides also caption
freely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ureca.export.parity.parity_inputs import F32, I64, CaseArrays
from ureca.models.tokenizer import EOS_ID

Captions = list[list[int]]
"""Chosen ids of each region, with `<eos>` if it was reached."""


class Probe(Protocol):
    """The part of a runtime's backend that a comparison needs. Its types of images and KV are
    opaque here.
    """

    def encode(self, pixels: F32) -> Any:
        """Vision."""

    def prefill(self, picture: Any) -> Any:
        """Add the prefix KV."""

    def drop_prefix(self, picture: Any) -> Any:
        """Remove the prefix KV."""

    def regions(self, picture: Any, masks: F32, boxes: F32) -> F32:
        """Compute region tokens."""

    def embed(self, ids: I64) -> F32:
        """Look up embedding rows."""

    def logits(self, picture: Any, x: F32, own: Any) -> tuple[F32, Any]:
        """Run one pass of the language model."""


@dataclass(frozen=True, slots=True)
class ProbeOutput:
    """The result of one side for one image: free captions, and logits [N, L, V] of the forced
    captions.
    """

    captions: Captions
    logits: F32


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a candidate agrees with the reference, over all regions and forced positions."""

    regions: int
    tokens: int
    max_abs_logit_diff: float
    teacher_forced: float
    free_running: float
    caption_exact: float


def run_captions(
    probe: Probe, arrays: CaseArrays, *, max_new: int, forced: Captions | None = None
) -> ProbeOutput:
    """Caption the regions of one image with `probe`. `forced` defaults to its own captions."""
    picture = probe.prefill(probe.encode(arrays.pixels))
    prompt = build_region_prompt(probe, picture, arrays)
    own_captions = decode_greedy(probe, picture, prompt, max_new=max_new)
    return ProbeOutput(
        own_captions, compute_forced_logits(probe, picture, prompt, forced or own_captions)
    )


def build_region_prompt(probe: Probe, picture: Any, arrays: CaseArrays) -> F32:
    """Return [region tokens][start token] of every region, f32 [N, K + 1, d]."""
    tokens = probe.regions(picture, arrays.masks, arrays.boxes)
    return np.concatenate([tokens, probe.embed(arrays.start_ids)], axis=1)


def decode_greedy(probe: Probe, picture: Any, prompt: F32, *, max_new: int) -> Captions:
    """Decode captions greedily. All rows run until the longest caption ends."""
    logits, own = probe.logits(picture, prompt, None)
    chosen = [logits.argmax(axis=-1)]
    while len(chosen) < max_new and not _have_all_ended(chosen):
        logits, own = probe.logits(picture, probe.embed(chosen[-1][:, None]), own)
        chosen.append(logits.argmax(axis=-1))
    return [_cut_at_eos(row) for row in np.stack(chosen, axis=1).tolist()]


def compute_forced_logits(probe: Probe, picture: Any, prompt: F32, captions: Captions) -> F32:
    """Return logits before each token of `captions`, f32 [N, L, V]. Short captions are padded."""
    ids = _pad(captions)
    logits, own = probe.logits(picture, prompt, None)
    steps = [logits]
    for column in range(ids.shape[1] - 1):
        logits, own = probe.logits(picture, probe.embed(ids[:, column, None]), own)
        steps.append(logits)
    return np.stack(steps, axis=1)


def decode_uncached(probe: Probe, arrays: CaseArrays, *, max_new: int) -> Captions:
    """Decode captions without a cache: image, region and caption so far run again for every
    token.
    """
    picture = probe.encode(arrays.pixels)
    image_tokens = _to_numpy(picture.tokens)
    prompt = build_region_prompt(probe, picture, arrays)
    bare, captions = probe.drop_prefix(picture), []
    for row in range(len(prompt)):
        ids: list[int] = []
        while len(ids) < max_new and EOS_ID not in ids:
            said = probe.embed(np.array([ids], np.int64))
            x = np.concatenate([image_tokens, prompt[row : row + 1], said], axis=1)
            ids.append(int(probe.logits(bare, x, None)[0].argmax()))
        captions.append(ids)
    return captions


def measure_agreement(
    reference: Sequence[ProbeOutput], candidate: Sequence[ProbeOutput]
) -> Agreement:
    """Compare two sides that were forced to the reference's captions."""
    pairs = list(zip(reference, candidate, strict=True))
    forced = [_compare_forced(ours, theirs) for ours, theirs in pairs]
    rows = [row for a, b in pairs for row in zip(a.captions, b.captions, strict=True)]
    tokens = sum(count for count, _, _ in forced)
    return Agreement(
        regions=len(rows),
        tokens=tokens,
        max_abs_logit_diff=max(diff for _, _, diff in forced),
        teacher_forced=sum(same for _, same, _ in forced) / tokens,
        free_running=sum(_count_matches(*row) for row in rows)
        / sum(max(map(len, row)) for row in rows),
        caption_exact=sum(ours == theirs for ours, theirs in rows) / len(rows),
    )


def measure_edge_diff(
    reference: Probe, candidate: Probe, arrays: CaseArrays, *, seed: int = 0
) -> float:
    """Return the largest logit difference over N in 1, 2, 5 and Q in 1, 4, with P or S zero or
    not.
    """
    rng = np.random.default_rng(seed)
    sides = [(p, p.encode(arrays.pixels)) for p in (reference, candidate)]
    width = int(reference.embed(arrays.start_ids[:1]).shape[-1])
    worst = 0.0
    for rows in (1, 2, 5):
        first, second = (rng.normal(size=(rows, q, width)).astype(np.float32) for q in (4, 1))
        for fill in ("drop_prefix", "prefill"):
            ours, theirs = (
                _run_two_steps(p, getattr(p, fill)(pic), first, second) for p, pic in sides
            )
            worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def _run_two_steps(probe: Probe, picture: Any, first: F32, second: F32) -> F32:
    """Return logits with an empty cache (S = 0), and after those positions (S > 0)."""
    begun, own = probe.logits(picture, first, None)
    return np.stack([begun, probe.logits(picture, second, own)[0]])


def _compare_forced(ours: ProbeOutput, theirs: ProbeOutput) -> tuple[int, int, float]:
    """Return (positions, equal choices, largest difference) over the positions of the captions."""
    lengths = np.array([len(ids) for ids in ours.captions])
    real = np.arange(ours.logits.shape[1])[None] < lengths[:, None]
    same = (ours.logits.argmax(axis=-1) == theirs.logits.argmax(axis=-1))[real]
    diff = np.abs(ours.logits - theirs.logits)[real]
    return int(real.sum()), int(same.sum()), float(diff.max())


def _count_matches(ours: list[int], theirs: list[int]) -> int:
    return sum(a == b for a, b in zip(ours, theirs, strict=False))


def _pad(captions: Captions) -> I64:
    ids = np.full((len(captions), max(map(len, captions))), EOS_ID, np.int64)
    for row, caption in enumerate(captions):
        ids[row, : len(caption)] = caption
    return ids


def _have_all_ended(chosen: list[I64]) -> bool:
    return bool((np.stack(chosen, axis=1) == EOS_ID).any(axis=1).all())


def _cut_at_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS_ID) + 1] if EOS_ID in ids else ids


def _to_numpy(tokens: Any) -> F32:
    return np.asarray(tokens.numpy(), np.float32)
