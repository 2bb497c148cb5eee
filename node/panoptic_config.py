"""Settings of whole frames in segments. Part of `config.NodeConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from ureca.node.config_checks import ensure

MOST_SEGMENTS = 48


@dataclass(frozen=True, kw_only=True)
class PanopticConfig:
    """Every pixel belongs to a segment, and every segment is a region with a caption."""

    on: bool = False
    """Segment whole keyframes (`ureca run --panoptic`): segments become regions, and an event
    `panoptic` says which pixel belongs to which."""
    max_segments: int = 24
    """So many segments of a keyframe become regions, at most, within `limits.max_regions`."""
    stuff_ttl: float = 3.0
    """Captions of stuff (a wall, the floor) are valid so many times as long as others."""

    def __post_init__(self) -> None:
        ensure(
            1 <= self.max_segments <= MOST_SEGMENTS,
            f"panoptic.max_segments must be 1..{MOST_SEGMENTS}, got {self.max_segments}",
        )
        ensure(
            1 <= self.stuff_ttl <= 100,
            f"panoptic.stuff_ttl must be 1..100, got {self.stuff_ttl}",
        )
