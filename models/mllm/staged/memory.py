"""Estimates the memory of training in stages. Computed from shapes, not measured.

One worker: weights in float32, of a frozen language model in bfloat16; float32 weight, gradient and
two moments for what learns; the input of every layer that gradients pass, and one layer of it
recomputed (gradient checkpointing), for one picture at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 2**30
_STATE_BYTES = 16
_LAYER_FACTOR = 20
"""Numbers per token and unit of width that one layer keeps while it is recomputed."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of one model. `frozen` and `learning` are parameters, `frozen_bytes` of the first.

    Gradients pass `layers` layers of `width` for `tokens` tokens; `vocab` logits are kept for
    `answers` tokens; `maps` are numbers of maps that the masks' losses keep.
    """

    name: str
    stage: int
    frozen: float
    learning: float
    frozen_bytes: float
    width: int = 0
    layers: int = 0
    tokens: int = 0
    answers: int = 0
    vocab: int = 0
    maps: float = 0.0

    @property
    def weights_gib(self) -> float:
        """Frozen weights."""
        return self.frozen_bytes / _GIB

    @property
    def state_gib(self) -> float:
        """Weights, gradients and moments of what learns."""
        return self.learning * _STATE_BYTES / _GIB

    @property
    def activations_gib(self) -> float:
        """What the backward pass needs."""
        layer = self.tokens * self.width * (_LAYER_FACTOR + self.layers) * 4
        return (layer + 8 * self.answers * self.vocab + 4 * self.maps) / _GIB

    @property
    def total_gib(self) -> float:
        """All memory of one worker."""
        return self.weights_gib + self.state_gib + self.activations_gib


def format_plans(plans: list[StagePlan]) -> str:
    """Return the plans as Markdown."""
    head = (
        "| model | stage | frozen | learning | weights GiB | state GiB | activations GiB | "
        "total GiB |\n|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {p.name} | {p.stage} | {p.frozen / 1e6:.0f} M | {p.learning / 1e6:.1f} M | "
        f"{p.weights_gib:.1f} | {p.state_gib:.1f} | {p.activations_gib:.1f} | {p.total_gib:.1f} |"
        for p in plans
    ]
    return "\n".join([head, *rows])
