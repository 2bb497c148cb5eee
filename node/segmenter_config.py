"""The `segmenter` section of a node's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ureca.node.checks import ensure


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A model that cuts regions out of keyframes, on a thread of its own."""

    model: Literal["", "sam2-hiera-tiny", "scripted"] = ""
    """Empty: masks are carried by optical flow alone. `scripted` has no weights: for tests."""
    folder: str = ""
    """Where the model's files are; empty is where `ureca weights get` puts them."""
    threads: int = 1
    every_frames: int = 5
    """A keyframe at most every n-th frame; a slow machine takes longer between them."""
    everything: bool = False
    """Also start regions of whatever the segmenter finds, within `limits.max_regions`."""
    grid: int = 8
    """Everything: points per side of the grid that is laid over a keyframe."""
    min_thing_score: float = 0.8
    """Everything: the segmenter's own estimate of a mask's IoU must reach this."""
    min_stability: float = 0.85
    """Everything: IoU of the mask at a stricter and a laxer threshold must reach this."""
    max_overlap: float = 0.5
    """Everything: of masks that overlap more, the surer one is taken."""
    min_share: float = 0.002
    max_share: float = 0.6
    """Everything: share of the picture that a thing may cover."""

    def __post_init__(self) -> None:
        ensure(
            self.every_frames >= 1,
            f"segmenter.every_frames must be at least 1, got {self.every_frames}",
        )
        ensure(1 <= self.grid <= 32, f"segmenter.grid must be 1..32, got {self.grid}")
        ensure(
            0 <= self.min_share <= self.max_share <= 1,
            f"expected 0 <= segmenter.min_share <= segmenter.max_share <= 1, got "
            f"{self.min_share} and {self.max_share}",
        )
