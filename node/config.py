"""The configuration of a node as frozen dataclasses. The defaults make a working node.

`ureca run --config FILE --set scheduler.refresh_s=2` goes through `ureca.config.load`, which names
the nearest key when one is unknown. Environment variables have no effect here.
Importing this loads no OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ureca.attributes import OFF_BY_DEFAULT
from ureca.client.sockets import is_local, no_keys_message
from ureca.datatypes import Style, TextPrompt
from ureca.errors import ConfigError, RegionError
from ureca.node.config_checks import ID_PATTERN, ensure
from ureca.node.panoptic_config import PanopticConfig
from ureca.node.segmenter_config import NO_SEGMENTER, MaskThresholds, SegmenterConfig

_TO_NODE = """    ureca keys new node -o keys
    ureca keys new robot --role observe -o keys
    ureca run ... --set security.key=keys/node.key_secret --set security.allow=keys/allow.txt"""


Preset = Literal["ultrafast", "fast", "medium"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The source of frames. `uri` is a video file, an image folder, a tar of images, a camera
    (`v4l2:///dev/video0`), a network stream (`rtsp://…`, `http://…`), or an endpoint of cameras
    that use `docs/protocol.md` (`zmq+tcp://…` to connect, `credit+tcp://…` to bind).
    `docs/sources.md` has every form.
    """

    uri: str = ""
    also: tuple[str, ...] = ()
    """Further sources of the same node, each with a stream of its own: `NAME=URI`, or `URI` for
    `cam1`, `cam2`, … by its place."""
    fps: float = 0.0
    """Images per second of a folder or tar; 0: the rate of the container, or 24 if it has none."""
    realtime: bool = True
    """Play at the recorded rate and drop what is late. False plays every frame, as fast as it is
    processed."""
    loop: bool = False
    max_gap_s: float = 5.0
    """Longest wait between two images of a clip in real time: longer gaps of its stamps are
    shortened, and the log says so. 0: gaps are kept."""
    stream: str = "cam0"
    max_age_ms: int = 2000
    """A received frame older than this (on the shared monotonic clock), or stamped as far in the
    future, is dropped as `expired`."""
    frozen_s: float = 5.0
    """If the image stays the same, bit for bit, for this long, the camera hangs: nothing is
    renewed, and health reports it. 0 for sources without noise, such as simulators.
    """
    open_timeout_s: float = 5.0
    """A camera or network stream that does not open within this is tried again later."""
    read_timeout_s: float = 5.0
    """A source without an image for this long is down: health reports it, and it is opened again.
    """
    retry_s: float = 0.5
    """First delay before it is opened again; the delay doubles after each failure."""
    retry_max_s: float = 10.0
    """Longest delay between two attempts."""
    silent_s: float = 5.0
    """Health names a ZeroMQ link that had frames and has had none for this long."""
    credits: int = 2
    """How many frames of each camera on `credit+…` may be in flight to the scheduler."""

    def __post_init__(self) -> None:
        ensure(0 <= self.fps <= 1000, f"source.fps must be 0..1000, got {self.fps}")
        ensure(self.max_gap_s >= 0, f"source.max_gap_s must be at least 0, got {self.max_gap_s}")
        ensure(1 <= self.credits <= 16, f"source.credits must be 1..16, got {self.credits}")
        for key in ("open_timeout_s", "read_timeout_s", "retry_s", "silent_s"):
            ensure(
                0 < getattr(self, key) <= 3600,
                f"source.{key} must be above 0 and at most 3600, got {getattr(self, key)}",
            )
        ensure(
            self.retry_s <= self.retry_max_s <= 3600,
            f"source.retry_max_s must be source.retry_s..3600, got {self.retry_max_s}",
        )
        ensure(
            ID_PATTERN.fullmatch(self.stream) is not None,
            f"source.stream must match [a-z0-9_-]{{1,64}}, got {self.stream!r}",
        )


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """How masks are propagated from frame to frame, and when a region is lost."""

    work_width_px: int = 320
    """Flow and masks are computed on an image at most this wide."""
    flow_preset: Preset = "medium"
    colour_weight: float = 0.8
    """How much the colours inside and around the region correct the outline that flow predicts."""
    edge_sigma_px: float = 3.5
    """Uncertainty of the predicted outline, in work pixels."""
    adapt_rate: float = 0.05
    """Share of the running colour model that each confident frame replaces."""
    max_flow_error_px: float = 3.0
    """Median forward-backward error inside the mask, in work pixels, above which the motion is not
    trusted.
    """
    min_area_share: float = 0.2
    """Below this share of its usual area a region counts as hidden (or as gone, at the border)."""
    max_area_jump: float = 2.2
    """Growth within one frame, or shrinking by the inverse, that no motion explains."""
    max_area_growth: float = 3.5
    """Growth over the reference area, slowly adapted, above which the outline has leaked."""
    min_appearance: float = 0.45
    """Colour similarity (Bhattacharyya coefficient, 0..1) to the reference below which the region
    is lost."""
    bad_frames: int = 3
    """Consecutive doubtful frames before a region is declared lost."""
    border_px: int = 2
    recover_score: float = 0.83
    """Normalised correlation that a stored view must reach to recover a lost region."""
    recover_appearance: float = 0.85
    recover_every: int = 2
    """Lost regions are searched on every n-th frame."""
    lost_ttl_s: float = 10.0
    max_area_share_of_frame: float = 0.95
    """A corrected mask above this is a segmenter that has lost its object."""
    min_presence: float | None = None
    """Score that a segmenter must give its own mask before it corrects a region. Empty: the
    segmenter's own threshold, 0.5 for SAM 2 and 0.3 for `nano`."""
    bad_keyframes: int = 2
    """Consecutive keyframes below that before a region is declared lost."""
    min_agreement: float | None = None
    """IoU of a corrected mask with the propagated one below which it is of another object. Empty:
    the segmenter's own threshold, 0.3 for SAM 2 and 0.7 for `nano`."""
    min_memory: float | None = None
    """IoU of a corrected mask with the region of the segmenter's memory, from which on the memory
    is trusted more than the propagated mask. Empty: the segmenter's own threshold, 0.5 for SAM 2
    and 0.8 for `nano`.
    """
    same_region: float = 0.45
    """A given mask without an id continues the region that it fits at least this well, 0..1:
    overlap, nearness and colours together."""

    def __post_init__(self) -> None:
        ensure(
            64 <= self.work_width_px <= 1920,
            f"tracker.work_width_px must be 64..1920, got {self.work_width_px}",
        )
        ensure(self.lost_ttl_s > 0, f"tracker.lost_ttl_s must be positive, got {self.lost_ttl_s}")
        ensure(
            self.bad_frames >= 1, f"tracker.bad_frames must be at least 1, got {self.bad_frames}"
        )

    def fill(self, own: MaskThresholds) -> TrackerConfig:
        """With the segmenter's own thresholds where none are set."""
        return replace(
            self,
            min_presence=own.presence if self.min_presence is None else self.min_presence,
            min_agreement=own.agreement if self.min_agreement is None else self.min_agreement,
            min_memory=own.memory if self.min_memory is None else self.min_memory,
        )


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """Texts that the node looks for by itself, and what they are asked of (`docs/find.md`)."""

    texts: tuple[str, ...] = ()
    """Standing texts of every stream (`ureca run --text`): asked again until they are found."""
    every_frames: int = 5
    """Without a segmenter a standing text is asked on every n-th frame, and at once when a region
    appears. With one, on every keyframe."""
    min_standing: float = 0.85
    """A standing text is asked over and over, so it is found only in regions that it is true of
    with at least this probability."""
    max_candidates: int = 64
    """How many masks of a segmenter a text is asked of."""

    def __post_init__(self) -> None:
        try:
            _ = [TextPrompt(text) for text in self.texts]
        except RegionError as error:
            raise ConfigError(f"grounding.texts: {error}") from error
        ensure(
            self.every_frames >= 1,
            f"grounding.every_frames must be at least 1, got {self.every_frames}",
        )
        ensure(
            0 <= self.min_standing <= 1,
            f"grounding.min_standing must be 0..1, got {self.min_standing}",
        )
        ensure(
            1 <= self.max_candidates <= 256,
            f"grounding.max_candidates must be 1..256, got {self.max_candidates}",
        )


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """When regions are captioned."""

    refresh_s: float = 5.0
    """A caption older than this is checked: renewed without decoding if the region looks the same,
    else generated again.
    """
    min_interval_s: float = 1.0
    """A region is not captioned again for CHANGE sooner than this, and not checked more often."""
    recheck: bool = True
    """False: every caption is generated again after `refresh_s`, whether or not anything changed.
    """
    rewrite_s: float = 300.0
    """A caption is generated again after this long, however often it was renewed. This limits the
    effect of changes that the check does not detect.
    """
    change_look: float = 10.0
    """CHANGE: the worst part of the region differs by this much in colour, on the 0..255 scale of
    8-bit Lab. Camera noise of sigma 5 with JPEG stays below 8, an opened drawer gives 30."""
    change_outline: float = 0.5
    """CHANGE: this share of the outline's area is another."""
    change_shift: float = 0.6
    """CHANGE: the box centre moved by this share of the box diagonal since the last caption."""
    change_area_ratio: float = 1.6
    """CHANGE: the area grew or shrank by this factor since the last caption."""
    deadline_s: float = 5.0
    """A request that has no caption after this is aborted."""
    max_batch: int = 16

    def __post_init__(self) -> None:
        ensure(
            1 <= self.max_batch <= 256, f"scheduler.max_batch must be 1..256, got {self.max_batch}"
        )
        ensure(self.deadline_s > 0, f"scheduler.deadline_s must be positive, got {self.deadline_s}")
        ensure(
            0 <= self.min_interval_s <= self.refresh_s,
            f"scheduler.min_interval_s must be 0..refresh_s, got {self.min_interval_s} "
            f"and refresh_s {self.refresh_s}",
        )
        ensure(
            self.change_area_ratio > 1,
            f"scheduler.change_area_ratio must exceed 1, got {self.change_area_ratio}",
        )


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """How captions are generated, and which are published."""

    style: Style = "short"
    max_new_tokens: int = 24
    ttl_ms: int = 10_000
    """How long a consumer may act on a caption, counted from the capture of its frame."""
    max_chars: int = 400
    min_score: float = 0.0
    """Captions with a lower mean token probability become `caption.error`; 0: all are published."""
    min_confidence: float = 0.4
    """Captions with a lower calibrated probability of being right are published as `unsure`; 0:
    none is.
    """
    max_repeat: int = 3
    """A word, or pair or triple of words, that occurs more than this many times in a row is a
    failure.
    """
    vote_looks: int = 5
    """A followed region says what its last captions, up to this many, agree on; 1: what the last
    one says. Captions from before a detected change count half.
    """
    parts_take_whole: bool = True
    """A part ("the handle of a red mug") takes the words of the region that contains it."""
    person_words: Literal["neutral", "full"] = "neutral"
    """`neutral` says "a person" and "people"; `full` also says sex and age, which are often wrong
    (`docs/captions.md`).
    """

    @property
    def attributes_off(self) -> frozenset[str]:
        """Attributes that are not answered: with `neutral` those that are often wrong of people."""
        return OFF_BY_DEFAULT if self.person_words == "neutral" else frozenset()

    def __post_init__(self) -> None:
        ensure(
            1 <= self.vote_looks <= 100,
            f"caption.vote_looks must be 1..100, got {self.vote_looks}",
        )
        ensure(
            0 <= self.min_confidence <= 1,
            f"caption.min_confidence must be 0..1, got {self.min_confidence}",
        )
        ensure(
            1 <= self.max_new_tokens <= 512,
            f"caption.max_new_tokens must be 1..512, got {self.max_new_tokens}",
        )
        ensure(
            self.max_repeat >= 1, f"caption.max_repeat must be at least 1, got {self.max_repeat}"
        )


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Addresses of events and requests. An address on the network needs `SecurityConfig`."""

    node: str = "node"
    events: str = "tcp://127.0.0.1:5601"
    requests: str = "tcp://127.0.0.1:5602"
    update_hz: float = 10.0
    """`track.update` per region and second, at most."""
    heartbeat_s: float = 1.0
    greet: bool = True
    """Repeat the last values of every live region when a client subscribes. All subscribers get
    them. False: a new subscriber requests a `snapshot`, which only it gets.
    """

    def __post_init__(self) -> None:
        ensure(
            ID_PATTERN.fullmatch(self.node) is not None,
            f"publish.node must match [a-z0-9_-]{{1,64}}, got {self.node!r}",
        )


@dataclass(frozen=True, kw_only=True)
class SecurityConfig:
    """Who may connect (`docs/security.md`). With a key, every TCP socket of the node uses CURVE,
    loopback included.
    """

    key: str = ""
    """The node's secret key file, `NODE.key_secret` of `ureca keys new`."""
    allow: str = ""
    """The allow-list: which keys may connect, and their roles."""
    camera: str = ""
    """Public key file of the camera that `source.uri` names. A ZeroMQ source on another host is
    refused without it."""
    decode: Literal["auto", "inside", "apart"] = "auto"
    """Where compressed images of other processes are decoded: those of ZeroMQ, on this host or not,
    of requests, and of HTTP cameras. `inside`: in the node; `apart` and `auto`: in a separate
    process, whose crash costs one image.
    """

    def __post_init__(self) -> None:
        ensure(
            bool(self.key) == bool(self.allow),
            "security.key and security.allow go together: a key without an allow-list lets nobody "
            "in, and a list without a key guards nothing",
        )
        ensure(self.key or not self.camera, "security.camera needs security.key as well")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Bounds on everything that could grow."""

    max_streams: int = 4
    max_regions: int = 32
    """Regions followed per stream; more are refused and counted."""
    max_orders: int = 64
    """Requests that change regions waiting for the next frame or tick; one more is answered
    BUSY."""
    max_asks: int = 8
    """`describe` requests waiting; one more is answered BUSY."""
    max_finds: int = 8
    """`find` requests, and texts of `region.add`, waiting; one more is answered BUSY."""
    max_texts: int = 16
    """Standing texts, and text prompts waiting, per stream; one more is refused."""
    outbox: int = 4096
    """Events waiting to be sent; beyond it deltas and updates are dropped and counted."""
    max_image_px: int = 16_000_000


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """The HTTP server for `/metrics` and `/healthz`; port 0 is off."""

    port: int = 0
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"http.port must be 0..65535, got {self.port}")
        if self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                f"http.host must be a loopback address, got {self.host!r}: nobody is asked for a "
                "key there. Let a reverse proxy or an SSH tunnel carry it further."
            )


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """The whole node."""

    bundle: str = ""
    """Folder of the captioner's bundle, or the YAML file of a server (docs/server.md); empty takes
    the bundle that ships with the package.
    """
    prompts: str = ""
    source: SourceConfig = field(default_factory=SourceConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    panoptic: PanopticConfig = field(default_factory=PanopticConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    http: HttpConfig = field(default_factory=HttpConfig)

    def __post_init__(self) -> None:
        ensure(
            not (self.panoptic.on and self.segmenter.everything),
            "panoptic.on finds everything by itself: leave segmenter.everything (--auto) out",
        )
        ensure(
            not self.panoptic.on or self.segmenter.model not in ("none", ""),
            f"panoptic.on: {NO_SEGMENTER.format(why='segmenter.model is none')}",
        )
        ensure(
            len(set(self.grounding.texts)) <= self.limits.max_texts,
            f"expected at most limits.max_texts = {self.limits.max_texts} standing texts, got "
            f"{len(set(self.grounding.texts))}",
        )
        for key in ("events", "requests"):
            address = getattr(self.publish, key)
            ensure(
                is_local(address) or (self.security.key and address.startswith("tcp://")),
                no_keys_message(f"publish.{key}", address, _TO_NODE),
            )
