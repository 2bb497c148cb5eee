"""The data that packages exchange: frozen, and validated when they are created.

Coordinate spaces and units are in the names:
 `_px` pixels of the frame with the origin at its upper left
corner, `_norm` 0..1 of width and height, `_ns` nanoseconds of the clock named beside them. Images
are RGB.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ureca.attributes import AttributeAnswer
from ureca.errors import RegionError, SourceError
from ureca.region_values import (
    Polygon,
    to_box,
    to_name,
    to_point,
    to_points,
    to_polygons,
    to_rle,
    to_score,
)

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
JsonObject = dict[str, Any]
"""A JSON object as Python reads it."""

CaptureSource = Literal["sof", "eof", "driver", "decoder", "rtp", "receive", "unknown"]
"""How exact `captured_ns` is: start or end of exposure, driver, container, RTP, or receipt."""


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask as COCO compressed run lengths: `size` is (height, width), `counts` the ASCII code."""

    size: tuple[int, int]
    counts: str


MAX_CLICKS = 16
"""Further points on a region, and points beside it."""


@dataclass(frozen=True, slots=True)
class RegionSeed:
    """One region of a sender or a prompt file: exactly one of mask, box, point or polygons.

    Coordinates are in pixels of the frame they came with. A point or box may have further clicks:
    `more_points_xy_px` lie on the region, too, and `not_points_xy_px` do not; at most `MAX_CLICKS`
    each. The polygons of a region are filled. `label` is for reports; the captioner never gets it.

    Converted when it is made: numbers and arrays of numpy, tensors; a `mask` that is bool [H, W],
    0/255, a picture, or a COCO dictionary (`region_values`); ids and labels that are whole numbers.
    Raises `RegionError` for every other type, and for fractions instead of pixels.
    """

    rid: str | None = None
    mask: Rle | None = None
    box_xyxy_px: tuple[float, float, float, float] | None = None
    point_xy_px: tuple[float, float] | None = None
    label: str | None = None
    parent: str | None = None
    score: float | None = None
    more_points_xy_px: tuple[tuple[float, float], ...] = ()
    not_points_xy_px: tuple[tuple[float, float], ...] = ()
    polygons_xy_px: tuple[Polygon, ...] = ()

    def __post_init__(self) -> None:
        given = [n for n in ("mask", "box_xyxy_px", "point_xy_px") if getattr(self, n) is not None]
        given += ["polygons_xy_px"] * (len(self.polygons_xy_px) > 0)
        if len(given) != 1:
            raise RegionError(
                f"a region needs exactly one of mask, box, point, polygons; got {given or 'none'}"
            )
        self._convert()
        clicks = (*self.more_points_xy_px, *self.not_points_xy_px)
        self._check_clicks(len(clicks))
        numbers = (*(self.box_xyxy_px or ()), *(self.point_xy_px or ()), *sum(clicks, ()))
        if not np.isfinite(numbers).all():
            raise RegionError(f"region coordinates must be finite, got {numbers}")
        if self.box_xyxy_px and not _ordered(self.box_xyxy_px):
            raise RegionError(f"a box is x0 < x1 and y0 < y1, got {self.box_xyxy_px}")

    def _convert(self) -> None:
        for name, convert in _CONVERTED:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, convert(value))

    def _check_clicks(self, count: int) -> None:
        if count and (self.mask is not None or self.polygons_xy_px):
            raise RegionError("further clicks belong to a point or a box, got them with a mask")
        most = max(len(self.more_points_xy_px), len(self.not_points_xy_px))
        if most > MAX_CLICKS:
            raise RegionError(f"expected at most {MAX_CLICKS} further clicks of a kind, got {most}")


_CONVERTED: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("rid", partial(to_name, what="rid")),
    ("mask", to_rle),
    ("box_xyxy_px", to_box),
    ("point_xy_px", to_point),
    ("label", partial(to_name, what="label")),
    ("parent", partial(to_name, what="parent")),
    ("score", to_score),
    ("more_points_xy_px", to_points),
    ("not_points_xy_px", to_points),
    ("polygons_xy_px", to_polygons),
)


def _ordered(box: tuple[float, float, float, float]) -> bool:
    return box[0] < box[2] and box[1] < box[3]


Level = Literal["part", "thing", "group"]
"""How much of a scene a region is: a part of a thing, a thing, or several things together."""

MAX_TEXT_CHARS = 1024
"""The longest text that may be asked for."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text to find on a frame: a region starts for each answer, or the region that is there gets
    `label` (the text, if None). `standing`: ask again on later frames until it is found.

    Raises `RegionError` for a text without a word, or one that is too long.
    """

    text: str
    label: str | None = None
    standing: bool = False
    level: Level | None = None

    def __post_init__(self) -> None:
        if len(self.text) > MAX_TEXT_CHARS or not any(map(str.isalnum, self.text)):
            raise RegionError(
                f"a text to find has a word and at most {MAX_TEXT_CHARS} characters, got "
                f"{self.text[:40]!r} ({len(self.text)} characters)"
            )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A region that was refused, and why. `rid` is None if it had no valid id."""

    rid: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one stream.

    `image` is u8 [H, W, 3] RGB and read-only; `seq` rises by one per captured frame (a gap is a
    drop), and is compared within one `session_id` (16 bytes, new for every publisher process).
    `captured_ns` is on `clock`, in the domain `clock_id` if it is known. `regions` is None when the
    sender sends no masks, and a tuple (maybe empty) when it does. `prompts` are regions to start
    here and carry on, `texts` things to find here. `refused` are those that do not fit the picture.
    """

    stream: str
    session_id: bytes
    seq: int
    captured_ns: int
    image: Image
    clock: str = "mono"
    capture_source: CaptureSource = "receive"
    received_ns: int = 0
    regions: tuple[RegionSeed, ...] | None = None
    prompts: tuple[RegionSeed, ...] = ()
    texts: tuple[TextPrompt, ...] = ()
    refused: tuple[Refusal, ...] = ()
    clock_id: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("seq", "captured_ns", "received_ns"):
            _make_whole(self, name)
        if not isinstance(self.image, np.ndarray):
            raise SourceError(
                f"a frame is an array u8 [H, W, 3] RGB, got {type(self.image).__name__}; "
                "numpy.asarray converts pictures of other libraries"
            )
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise SourceError(
                f"a frame is u8 [H, W, 3] RGB, got {self.image.dtype} {list(self.image.shape)}"
            )
        if self.image.flags.writeable:
            self.image.flags.writeable = False

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return int(self.image.shape[1])


def _make_whole(frame: Frame, name: str) -> None:
    value = getattr(frame, name)
    if type(value) is int:
        return
    try:
        object.__setattr__(frame, name, operator.index(value))
    except TypeError:
        raise SourceError(
            f"{name} is a whole number"
            + (", nanoseconds of time.monotonic_ns()" if name.endswith("_ns") else "")
            + f"; got {value!r:.40} ({type(value).__name__})"
        ) from None


class TrackState(str, Enum):
    """`lost` tracks keep their id and may be recovered; `ended` ids are never used again."""

    NEW = "new"
    ALIVE = "alive"
    LOST = "lost"
    RECOVERED = "recovered"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Track:
    """One followed region as of one frame. `mask` is bool [H, W], None while lost or ended."""

    rid: str
    state: TrackState
    mask: Mask | None
    box_xyxy_px: tuple[int, int, int, int]
    age_frames: int
    missed_frames: int
    label: str | None = None
    parent: str | None = None
    reason: str = ""
    """Why it was lost or ended, from a closed list in `node/tracking/tracker.py`."""


@dataclass(frozen=True, slots=True)
class TrackSet:
    """All tracks of one stream after one frame, ids unique and never reused within a session."""

    stream: str
    frame_seq: int
    captured_ns: int
    tracks: tuple[Track, ...]

    def __post_init__(self) -> None:
        rids = [track.rid for track in self.tracks]
        if len(set(rids)) != len(rids):
            raise RegionError(f"track ids must be unique, got {rids}")


class Trigger(str, Enum):
    """Why a region is captioned now, highest priority first."""

    NEW = "new"
    REQUEST = "request"
    RECOVERED = "recovered"
    CHANGE = "change"
    REFRESH = "refresh"


Style = Literal["short", "long"]
"""The length of a caption: a noun phrase, or a sentence."""
AskedStyle = Literal["short", "long", "dense"]
"""`dense`: a noun phrase and what is known of its attributes (`ureca.attributes`)."""


@dataclass(frozen=True, slots=True)
class RegionRequest:
    """A scheduled request for one caption. `rev` counts the requests of its region, from 1."""

    request_id: int
    stream: str
    rid: str
    rev: int
    frame_seq: int
    mask: Mask
    box_xyxy_px: tuple[int, int, int, int]
    trigger: Trigger
    deadline_ns: int
    style: Style = "short"
    label: str | None = None
    ttl_ms: int | None = None
    max_new_tokens: int | None = None
    min_confidence: float | None = None
    """None, here, in `ttl_ms` and in `max_new_tokens`: the value of the configuration."""
    attributes: tuple[str, ...] = ()
    is_dense: bool = False
    """Whether a `short` caption gets a clause for each attribute that is known."""


# --- the captioner's side -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegionInput:
    """One row of a caption batch: mask bool [H, W] of the encoded frame's size. `attributes` are
    answered in its `RowDone`, as far as the engine can (`AttributeEngine`).
    """

    mask: Mask
    style: Style = "short"
    max_new_tokens: int = 32
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowDelta:
    """Text that row `row` gained: it starts at character `offset` of the caption so far."""

    row: int
    offset: int
    text: str


Stop = Literal["eos", "length", "aborted", "non_finite"]


@dataclass(frozen=True, slots=True)
class RowDone:
    """The end of one row. `score`: geometric mean of the chosen tokens' probabilities, 0..1;
    `confidence`: calibrated probability that the caption is right, None where it is not known.
    `writer`: who wrote the text, None: the engine that was asked.
    """

    row: int
    text: str
    n_tok: int
    stop: Stop
    score: float
    confidence: float | None = None
    writer: EngineInfo | None = None
    attributes: tuple[AttributeAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Model, runtime and bundle, so that every caption can be traced to them."""

    model: str
    runtime: str
    precision: str
    bundle_sha: str
    max_regions: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Durations of the last call in microseconds, by stage name (`prep vit prefill region gen`)."""

    us: Mapping[str, int] = field(default_factory=dict)
