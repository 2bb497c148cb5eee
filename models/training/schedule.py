"""Learning-rate schedules, as factors 0..1 of the configured rate."""

from __future__ import annotations

import math

_FLOOR = 0.02


def compute_rate_with_decay(
    step: int, *, steps: int, warmup_steps: int, decay_steps: int = 0
) -> float:
    """Linear warm-up; then a cosine down to 2 %, or a constant rate and a linear fall over the last
    `decay_steps`.

    (The second: arXiv 2405.18392. Its length can be decided while it runs.)
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    if decay_steps:
        left = min(1.0, max(0, steps - step) / decay_steps)
        return warm * (_FLOOR + (1 - _FLOOR) * left)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (_FLOOR + (1 - _FLOOR) * fall)


def compute_cosine_rate(step: int, *, steps: int, warmup_share: float) -> float:
    """Linear warm-up over a share of the steps, then a cosine to zero."""
    warm = max(1, round(warmup_share * steps))
    if step < warm:
        return (step + 1) / warm
    gone = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, gone)))
