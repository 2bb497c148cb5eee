"""Settings of the segmenter, and of what it finds by itself. Part of `config.NodeConfig`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ureca.node.config_checks import ID_PATTERN, ensure

MAX_ZONES, MAX_CORNERS = 32, 64
NO_SEGMENTER = (
    "nothing can be found without masks: {why}. Take a bundle with a mask head (docs/masks.md: "
    "--bundle DIR), or SAM 2: `ureca weights get sam2-hiera-tiny`, then --config "
    "configs/node/segmenter.yaml"
)
"""What is said where things should be found and there is no segmenter."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ZoneConfig:
    """A part of the picture that decides which things are worth following.

    `polygon_xy` are its corners, x and y as shares 0..1 of the frame's width and height. A thing is
    in the zone when at least half of its mask is. `mode`: where there are zones to `include`, only
    things in one of them begin; things in a zone to `exclude` do not. `stream`: the zone is of this
    stream alone; empty: of all.
    """

    name: str
    polygon_xy: tuple[Point, ...]
    mode: Literal["include", "exclude"] = "include"
    stream: str = ""

    def __post_init__(self) -> None:
        where = f"segmenter.zones: {self.name!r:.80}"
        ensure(
            ID_PATTERN.fullmatch(self.name) is not None,
            f"{where}: expected a name of [a-z0-9_-]{{1,64}}",
        )
        ensure(
            3 <= len(self.polygon_xy) <= MAX_CORNERS,
            f"{where}: expected 3..{MAX_CORNERS} corners, got {len(self.polygon_xy)}",
        )
        for corner in self.polygon_xy:
            ensure(
                all(0 <= share <= 1 for share in corner),
                f"{where}: expected corners [x, y] as shares 0..1 of the frame, got "
                f"{list(corner)}; divide pixels by the frame's width and height",
            )
        ensure(
            _compute_area(self.polygon_xy) > 1e-6, f"{where}: expected an area, got a line or point"
        )


def _compute_area(corners: tuple[Point, ...]) -> float:
    """Area 0..1 of a simple polygon."""
    pairs = zip(corners, (*corners[1:], corners[0]), strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


@dataclass(frozen=True, slots=True)
class MaskThresholds:
    """What masks of a segmenter must reach, 0..1. `score` and `stability`: to be a thing.
    `presence`: to correct a region. `agreement` and `memory`: IoU of a corrected mask with the
    propagated one and with the memory (see `TrackerConfig`).
    """

    score: float = 0.8
    stability: float = 0.85
    presence: float = 0.5
    agreement: float = 0.3
    memory: float = 0.5


_OF_NANO = MaskThresholds(score=0.6, stability=0.6, presence=0.3, agreement=0.7, memory=0.8)
"""A mask head expects a lower IoU of its masks than SAM 2, and its outlines are softer. It errs
more often, so a mask that differs from the propagated one is not believed (docs/tracking.md).
"""
_NANO_TEXT_SCORE, _NANO_TEXT_STABILITY = 0.3, 0.5
"""What a text may be asked of: a mask that is too unsure to be followed unasked may be the right
answer, and the text decides.
"""
_OF_DETECTOR = MaskThresholds(score=0.0, stability=0.0, presence=0.2)
"""A detector's YAML file has the threshold of its scores, which are no IoUs."""
_MODELS = ("auto", "none", "nano", "sam2-hiera-tiny", "scripted", "")


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A model that segments regions on keyframes, on a thread of its own. Settings that begin with
    "Everything" are for what it finds by itself, and never for what a client asks for.
    """

    model: str = "auto"
    """`nano`: the mask head of a bundle. `auto`: that of the captioner's bundle if it has one, else
    `none`. `none`, or empty: masks are propagated by optical flow alone. `sam2-hiera-tiny`.
    `PATH.onnx` or `transformers:NAME`: a model of another project (docs/detectors.md).
    `scripted` has no weights: for tests."""
    layout: str = ""
    """The YAML file that describes a model of another project; empty: the one beside `PATH.onnx`,
    or none."""
    folder: str = ""
    """Where the model's files are; empty: the captioner's bundle for `nano`, else where
    `ureca weights get` puts them. For `PATH.onnx` with boxes alone: the bundle whose mask head
    makes their masks; empty: the captioner's."""
    threads: int = 1
    every_frames: int | None = None
    """A keyframe at most every n-th frame; a slow machine takes longer between them. Empty: 10 for
    `nano`, which small machines run beside the captioner, and 5 for others."""
    everything: bool = False
    """Also start regions for the things that the segmenter finds (`ureca run --auto`): the largest
    and surest first, new things as they come."""
    max_regions: int = 16
    """Everything: so many regions per stream are found by the segmenter, at most; the rest of
    `limits.max_regions` is for clients."""
    grid: int = 8
    """Everything: points per side of the grid that is laid over a keyframe. Only for SAM 2; others
    say what is there without one."""
    min_thing_score: float | None = None
    """Everything: the segmenter's own estimate of a mask's IoU must reach this. Empty: the
    segmenter's own threshold, 0.8 for SAM 2 and 0.6 for `nano`."""
    min_stability: float | None = None
    """Everything: IoU of the mask at a stricter and a laxer threshold must reach this. Empty: the
    segmenter's own threshold, 0.85 for SAM 2 and 0.6 for `nano`."""
    max_overlap: float = 0.5
    """Everything: of masks that overlap more, the surer one is taken."""
    min_share: float = 0.002
    """Everything: share of the picture that a thing covers at least."""
    max_share: float = 0.6
    """Everything: share of the picture that a thing covers at most."""
    zones: tuple[ZoneConfig, ...] = ()
    """Everything: `[{name, polygon_xy: [[x, y], ...], mode: include|exclude, stream}]`, corners as
    shares 0..1 of the frame's width and height (docs/tracking.md)."""
    include_classes: tuple[str, ...] = ()
    """Everything: only things of these classes. For segmenters that name what they see."""
    exclude_classes: tuple[str, ...] = ()
    """Everything: no things of these classes."""

    @property
    def is_on(self) -> bool:
        """Whether there is a segmenter. `auto` counts as none until it was decided
        (`node/segmentation/factory.py`).
        """
        return self.model not in ("auto", "none", "")

    @property
    def keyframe_interval(self) -> int:
        """A keyframe at most every so many frames."""
        if self.every_frames is not None:
            return self.every_frames
        return 10 if self.model == "nano" else 5

    @property
    def is_external(self) -> bool:
        """Whether it is a model of another project."""
        return self.model.endswith(".onnx") or self.model.startswith("transformers:")

    @property
    def tidies(self) -> bool:
        """Whether the outline of a client's point or box is moved to the edges of the picture: a
        mask head's map has a cell every four pixels.
        """
        return self.model == "nano"

    @property
    def thresholds(self) -> MaskThresholds:
        """Those of the segmenter, with the ones that are set here in place of its own."""
        own = _OF_NANO if self.model == "nano" else MaskThresholds()
        if self.model.endswith(".onnx"):
            own = _OF_DETECTOR
        return MaskThresholds(
            own.score if self.min_thing_score is None else self.min_thing_score,
            own.stability if self.min_stability is None else self.min_stability,
            own.presence,
            own.agreement,
            own.memory,
        )

    @property
    def text_thresholds(self) -> MaskThresholds:
        """What masks must reach that texts are asked of: never more than `thresholds`."""
        own = self.thresholds
        if self.model != "nano":
            return own
        return replace(
            own,
            score=min(own.score, _NANO_TEXT_SCORE),
            stability=min(own.stability, _NANO_TEXT_STABILITY),
        )

    def __post_init__(self) -> None:
        ensure(
            self.model in _MODELS or self.is_external,
            f"segmenter.model: expected {', '.join(filter(None, _MODELS))}, PATH.onnx or "
            f"transformers:NAME, got {self.model!r:.200}",
        )
        ensure(
            self.is_external or not self.layout,
            "segmenter.layout describes a model of another project: expected segmenter.model: "
            f"PATH.onnx or transformers:NAME, got {self.model!r:.200}",
        )
        ensure(
            not self.everything or self.model not in ("none", ""),
            f"segmenter.everything: {NO_SEGMENTER.format(why='segmenter.model is none')}",
        )
        self._check_numbers()
        self._check_zones()

    def _check_zones(self) -> None:
        names = [zone.name for zone in self.zones]
        ensure(
            len(names) <= MAX_ZONES,
            f"expected at most {MAX_ZONES} segmenter.zones, got {len(names)}",
        )
        double = {name for name in names if names.count(name) > 1}
        ensure(not double, f"segmenter.zones: the names {sorted(double)} stand twice")

    def _check_numbers(self) -> None:
        ensure(
            self.every_frames is None or self.every_frames >= 1,
            f"segmenter.every_frames must be at least 1, got {self.every_frames}",
        )
        ensure(1 <= self.grid <= 32, f"segmenter.grid must be 1..32, got {self.grid}")
        ensure(
            1 <= self.max_regions <= 256,
            f"segmenter.max_regions must be 1..256, got {self.max_regions}",
        )
        for key in ("min_thing_score", "min_stability"):
            value = getattr(self, key)
            ensure(value is None or 0 <= value <= 1, f"segmenter.{key} must be 0..1, got {value}")
        ensure(
            0 <= self.min_share <= self.max_share <= 1,
            f"expected 0 <= segmenter.min_share <= segmenter.max_share <= 1, got "
            f"{self.min_share} and {self.max_share}",
        )
