"""Frames on the wire: `[topic][header][pixels]`, from a camera process to the node.

The header comes first so that a relay can route, expire or drop a frame without touching its
pixels. Sizes are checked against the header and inside the JPEG or PNG before a decoder sees the
bytes. The contract has no image decoder: `decode_frame` is given one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, Struct, UnsetType

from ureca.datatypes import CaptureSource, Frame, Image, Refusal, RegionSeed
from ureca.errors import RegionError, SourceError, WireError
from ureca.protocol.event_table import FRAME_TOPIC_PART
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.image_header import picture_size
from ureca.protocol.messagepack import (
    LIMITS,
    Topic,
    WireLimits,
    check_id,
    check_parts,
    check_version,
    convert,
    is_id,
    or_unknown,
    pack,
    parse_topic,
    unpack,
)
from ureca.protocol.region_codec import WirePrompt, WireRegion
from ureca.protocol.shared_memory import SharedPixels

Encoding = Literal["jpeg", "png", "rgb8", "bgr8", "mono8", "nv12", "unknown"]
ClockName = Literal["mono", "utc", "tai", "ptp", "unknown"]

U64 = Annotated[int, Meta(ge=0)]  # MessagePack has no larger integer
Side = Annotated[int, Meta(ge=1, le=1 << 16)]

_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
_KNOWN_WORDS = {
    "enc": frozenset({"jpeg", "png", "rgb8", "bgr8", "mono8", "nv12"}),
    "clk": frozenset({"mono", "utc", "tai", "ptp"}),
    "capture_source": frozenset({"sof", "eof", "driver", "decoder", "rtp", "receive"}),
}


class FrameHeader(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The header of a frame; `docs/protocol.md` explains each key."""

    v: tuple[int, int]
    src: str
    session_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    seq: U64
    captured_ns: int
    clk: ClockName
    capture_source: CaptureSource
    enc: Encoding
    w: Side
    h: Side
    clk_id: Annotated[bytes, Meta(max_length=16)] | None = None
    stride: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    frame_id: Annotated[str, Meta(max_length=256)] | None = None
    regions: tuple[WireRegion, ...] | UnsetType = UNSET
    prompts: tuple[WirePrompt, ...] = ()
    shm: SharedPixels | None = None

    @classmethod
    def of(cls, frame: Frame, enc: Encoding, **more: Any) -> FrameHeader:  # keys of the header
        """The header of a frame whose pixels are sent as `enc`."""
        regions = UNSET if frame.regions is None else tuple(map(WireRegion.of, frame.regions))
        return cls(
            v=PROTOCOL_VERSION,
            src=frame.stream,
            session_id=frame.session_id,
            seq=frame.seq,
            captured_ns=frame.captured_ns,
            clk=frame.clock if frame.clock in _KNOWN_WORDS["clk"] else "unknown",  # type: ignore[arg-type]
            capture_source=frame.capture_source,
            enc=enc,
            w=frame.width,
            h=frame.height,
            regions=regions,
            **more,
        )

    def seeds(self) -> tuple[tuple[RegionSeed, ...] | None, tuple[Refusal, ...]]:
        """The valid regions (None if the sender sends none), and the refused ones."""
        if isinstance(self.regions, UnsetType):
            return None, ()
        read = [_seed(region, self.w, self.h) for region in self.regions]
        return _parted(read)

    def prompt_seeds(self) -> tuple[tuple[RegionSeed, ...], tuple[Refusal, ...]]:
        """The regions to start, and the refused prompts."""
        return _parted([_prompt(prompt, self.w, self.h) for prompt in self.prompts])


def _parted(
    read: Sequence[RegionSeed | Refusal],
) -> tuple[tuple[RegionSeed, ...], tuple[Refusal, ...]]:
    seeds = tuple(one for one in read if isinstance(one, RegionSeed))
    return seeds, tuple(one for one in read if isinstance(one, Refusal))


def _prompt(prompt: WirePrompt, width_px: int, height_px: int) -> RegionSeed | Refusal:
    if prompt.text is not None:
        return Refusal(None, "a text prompt needs a detector, which no node has yet; send a box")
    region = WireRegion(box=prompt.box, point=prompt.point, label=prompt.label)
    return _seed(region, width_px, height_px)


def _seed(region: WireRegion, width_px: int, height_px: int) -> RegionSeed | Refusal:
    """One bad region costs that region, never the frame that it came with."""
    try:
        return region.seed(width_px, height_px)
    except (RegionError, WireError) as error:
        return Refusal(region.rid if is_id(region.rid) else None, str(error))


Pixels = bytes | npt.NDArray[np.uint8]
"""The payload: bytes, or u8 [N] when it came through shared memory."""

PixelDecoder = Callable[[Pixels, FrameHeader], Image]
"""Decodes the payload of a header whose `enc` is `jpeg`, `png` or `nv12` to RGB u8 [H, W, 3]."""

SharedReader = Callable[[SharedPixels, int], npt.NDArray[np.uint8]]
"""Reads a number of bytes from shared memory, as `RingReader.read` does."""


def encode_frame(
    header: FrameHeader, pixels: bytes, node: str, limits: WireLimits = LIMITS
) -> list[bytes]:
    """The three parts of a frame message; raises `WireError` if a peer would refuse it.

    With `header.shm` the pixels stay where they are and `pixels` is empty.
    """
    _check_header(header, limits)
    if header.shm is None:
        _check_payload(header, pixels, limits)
    topic = Topic(node, header.src, FRAME_TOPIC_PART)
    return [topic.encode(), pack(header, limits), pixels]


def decode_frame_header(parts: Sequence[bytes], limits: WireLimits = LIMITS) -> FrameHeader:
    """Read and check the header without looking at the pixels; raises `WireError`."""
    check_parts(parts, least=3, most=3, what="a frame")
    topic = parse_topic(parts[0])
    data = unpack(parts[1], limits)
    check_version(data)
    or_unknown(data, _KNOWN_WORDS)
    _check_count(data, limits)
    header = convert(data, FrameHeader, "frame header")
    if topic.kind != FRAME_TOPIC_PART or topic.stream != header.src:
        raise WireError(f"a frame of {header.src!r} came under the topic {parts[0][:80]!r}")
    _check_header(header, limits)
    return header


def decode_frame(
    parts: Sequence[bytes],
    decoder: PixelDecoder,
    *,
    received_ns: int,
    limits: WireLimits = LIMITS,
    shared: SharedReader | None = None,
) -> Frame:
    """Read a frame message.

    Raw `rgb8`, `bgr8` and `mono8` are read here, everything else by `decoder`; pixels that stayed
    in shared memory by `shared`. Raises `WireError` for a broken message or picture (`STALE_FRAME`
    and `GONE` for shared memory that was used again or has gone); a region that does not fit the
    picture is in `Frame.refused`.
    """
    header = decode_frame_header(parts, limits)
    pixels: Pixels = parts[2] if header.shm is None else _fetch(header, parts[2], shared)
    _check_payload(header, pixels, limits)
    regions, refused = header.seeds()
    prompts, hopeless = header.prompt_seeds()
    image = (
        _raw_image(header, pixels) if header.enc in _CHANNELS else _decoded(header, pixels, decoder)
    )
    return Frame(
        stream=header.src,
        session_id=header.session_id,
        seq=header.seq,
        captured_ns=header.captured_ns,
        image=image,
        clock=header.clk,
        clock_id=header.clk_id,
        capture_source=header.capture_source,
        received_ns=received_ns,
        regions=regions,
        prompts=prompts,
        refused=(*refused, *hopeless),
    )


def _check_count(data: dict[str, Any], limits: WireLimits) -> None:
    for key in ("regions", "prompts"):
        listed = data.get(key)
        if isinstance(listed, list) and len(listed) > limits.max_regions:
            raise WireError(
                f"expected at most {limits.max_regions} {key}, got {len(listed)}; send fewer",
                code="TOO_LARGE",
            )


def _check_header(header: FrameHeader, limits: WireLimits) -> None:
    check_id(header.src, "stream")
    if header.w * header.h > limits.max_pixels:
        raise WireError(
            f"expected at most {limits.max_pixels} pixels, got {header.w}x{header.h}",
            code="TOO_LARGE",
        )
    if header.enc == "unknown":
        raise WireError(f"expected an encoding of {sorted(_KNOWN_WORDS['enc'])}, got another one")


def _fetch(header: FrameHeader, inline: bytes, shared: SharedReader | None) -> Pixels:
    if shared is None:
        raise WireError("pixels in shared memory are taken from cameras of this host only")
    if inline or header.shm is None or header.enc in ("jpeg", "png"):
        raise WireError(f"expected raw pixels in shared memory, got {header.enc} beside it")
    row, rows = _rows(header)
    return shared(header.shm, row * rows)


def _rows(header: FrameHeader) -> tuple[int, int]:
    """Bytes of a row of raw pixels and how many rows there are; NV12 has half as many of colour."""
    if header.enc == "nv12":
        return header.stride or header.w + header.w % 2, header.h + (header.h + 1) // 2
    return header.stride or header.w * _CHANNELS[header.enc], header.h


def _check_payload(header: FrameHeader, pixels: Pixels, limits: WireLimits) -> None:
    """Refuse a payload that cannot be the picture of the header, before any decoder sees it."""
    if len(pixels) > limits.max_payload_bytes:
        raise WireError(
            f"expected at most {limits.max_payload_bytes} bytes of pixels, got {len(pixels)}",
            code="TOO_LARGE",
        )
    if header.enc in ("jpeg", "png"):
        found = picture_size(bytes(pixels), header.enc)
        if found != (header.w, header.h):
            raise WireError(f"the header says {header.w}x{header.h}, the {header.enc} says {found}")
        return
    row, rows = _rows(header)
    least = header.w + header.w % 2 if header.enc == "nv12" else header.w * _CHANNELS[header.enc]
    if row < least or len(pixels) != row * rows:
        raise WireError(
            f"expected {rows} rows of {row} bytes = {row * rows} bytes of {header.enc}, "
            f"got {len(pixels)}"
        )


def _raw_image(header: FrameHeader, pixels: Pixels) -> Image:
    channels = _CHANNELS[header.enc]
    rows = np.frombuffer(pixels, np.uint8).reshape(header.h, -1)
    image = rows[:, : header.w * channels].reshape(header.h, header.w, channels)
    if header.enc == "bgr8":
        image = image[:, :, ::-1]
    return np.ascontiguousarray(np.broadcast_to(image, (header.h, header.w, 3)))


def _decoded(header: FrameHeader, pixels: Pixels, decoder: PixelDecoder) -> Image:
    try:
        image = decoder(pixels, header)
    except (SourceError, ValueError) as error:
        raise WireError(f"the {header.enc} cannot be decoded: {error!s:.200}") from error
    if image.shape != (header.h, header.w, 3) or image.dtype != np.uint8:
        raise WireError(
            f"expected {header.enc} of u8 [{header.h}, {header.w}, 3], "
            f"got {image.dtype} {list(image.shape)}"
        )
    return image
