"""The parameters of one run of the bench; the sender process gets them as JSON."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ureca.errors import ConfigError
from ureca.node.panoptic_config import MOST_SEGMENTS

SYNTHETIC = "synthetic"
_SIZE = re.compile(r"(\d{2,4})x(\d{2,4})")
_MAX_REGIONS = 256
_MAX_S = 86_400.0

TEXTS = (
    "the zebra behind the fence",
    "a steam locomotive",
    "two giraffes",
    "the saxophone player's hat",
    "a red fire engine",
    "the lighthouse",
    "a bowl of strawberries",
    "an astronaut riding a horse",
)
"""What standing texts of the bench look for; nothing of it is on drawn images."""

Masks = Literal["every", "warm-up"]
"""Whether the sender has masks for every frame, or stops after the warm-up so that the node's own
tracker carries the regions on."""


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report: a load and how long it lasts.

    `life_s` is how long a region lives before another takes its place (0: for ever), so that new
    regions appear while the clock runs. Raises `ConfigError` for what cannot be run.
    """

    frames: str
    """ZeroMQ address of the frames."""
    source: str = SYNTHETIC
    regions: int = 8
    fps: float = 30.0
    warm_up_s: float = 3.0
    duration_s: float = 20.0
    masks: Masks = "every"
    life_s: float = 5.0
    enc: Literal["jpeg", "png", "rgb8"] = "jpeg"
    size: str = "640x360"
    """Width x height in pixels of the synthetic picture; clips keep their own."""
    auto: bool = False
    """The sender has no masks: the node follows what its segmenter finds."""
    panoptic: bool = False
    """The sender has no masks: the node follows the segments of whole frames, at most `regions`."""
    texts: int = 0
    """Standing texts. They name things that are not there, so the node asks for them all along."""

    def __post_init__(self) -> None:
        _within("--regions", self.regions, 0, _MAX_REGIONS)
        _within("--fps", self.fps, 0.1, 1000)
        _within("--warm-up", self.warm_up_s, 0.5, _MAX_S)
        _within("--duration", self.duration_s, 0.5, _MAX_S)
        _within("--life", self.life_s, 0, _MAX_S)
        _within("--texts", self.texts, 0, len(TEXTS))
        if self.auto and self.panoptic:
            raise ConfigError("--auto and --panoptic: the regions are things or segments, not both")
        if self.panoptic:
            _within("--regions with --panoptic", self.regions, 1, MOST_SEGMENTS)
        width, height = self.size_px
        _within("--size: width", width, 64, 8192)
        _within("--size: height", height, 64, 8192)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the synthetic picture."""
        found = _SIZE.fullmatch(self.size)
        if found is None:
            raise ConfigError(f"--size: expected WIDTHxHEIGHT in pixels, got {self.size!r}")
        return int(found[1]), int(found[2])

    @property
    def frame_count(self) -> int:
        """Frames that are sent, warm-up included."""
        return round((self.warm_up_s + self.duration_s) * self.fps)

    def due_ns(self, index: int) -> int:
        """When frame `index` is captured, in nanoseconds after the start."""
        return round(index / self.fps * 1e9)

    def rid(self, slot: int, at_s: float) -> str:
        """The region id of `slot` at `at_s` seconds; the slots change one after the other."""
        if not self.life_s or self.masks == "warm-up":
            return f"r{slot}"
        turn = at_s / self.life_s + slot / max(1, self.regions)
        return f"r{slot}-{int(turn)}"

    def most_regions(self, lost_ttl_s: float) -> int:
        """Regions that the node may have to remember at once, the lost ones included."""
        if not self.life_s or self.masks == "warm-up" or self.auto:
            return max(1, self.regions)
        if self.panoptic:  # a region that is no segment any more ends three keyframes later
            return 2 * max(1, self.regions)
        return max(1, self.regions) * (3 + int(lost_ttl_s / self.life_s))

    @property
    def key(self) -> tuple[object, ...]:
        """What must be equal for two reports to be compared."""
        return (
            self.source,
            self.regions,
            self.fps,
            self.masks,
            self.life_s,
            self.enc,
            self.size if self.source == SYNTHETIC else "",
            self.texts,
            self.auto,
            self.panoptic,
        )


def _within(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{what}: expected {least:g} to {most:g}, got {value:g}")
