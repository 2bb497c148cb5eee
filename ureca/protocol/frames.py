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

from ureca.datatypes import CaptureSource, Frame, Image, Refusal, RegionSeed, TextPrompt
from ureca.errors import RegionError, SourceError, WireError
from ureca.protocol.event_table import FRAME_TOPIC_PART
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.image_header import check_size, measure_head
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
from ureca.protocol.region_turning import turn_seeds
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
            prompts=(*map(WirePrompt.of, frame.prompts), *map(WirePrompt.of, frame.texts)),
            **more,
        )

    def seeds(self) -> tuple[tuple[RegionSeed, ...] | None, tuple[Refusal, ...]]:
        """The valid regions (None if the sender sends none), and the refused ones."""
        if isinstance(self.regions, UnsetType):
            return None, ()
        read = [_seed(region, self.w, self.h) for region in self.regions]
        return _parted(read)

    def read_prompts(
        self,
    ) -> tuple[tuple[RegionSeed, ...], tuple[TextPrompt, ...], tuple[Refusal, ...]]:
        """The regions to start, the texts to find, and the refused prompts."""
        read = [_prompt(prompt, self.w, self.h) for prompt in self.prompts]
        texts = tuple(one for one in read if isinstance(one, TextPrompt))
        seeds, refused = _parted([one for one in read if not isinstance(one, TextPrompt)])
        return seeds, texts, refused


def _parted(
    read: Sequence[RegionSeed | Refusal],
) -> tuple[tuple[RegionSeed, ...], tuple[Refusal, ...]]:
    seeds = tuple(one for one in read if isinstance(one, RegionSeed))
    return seeds, tuple(one for one in read if isinstance(one, Refusal))


def _prompt(prompt: WirePrompt, width_px: int, height_px: int) -> RegionSeed | TextPrompt | Refusal:
    try:
        text = prompt.text_prompt()
    except RegionError as error:
        return Refusal(None, str(error))
    region = WireRegion(
        box=prompt.box,
        point=prompt.point,
        label=prompt.label,
        more_points=prompt.more_points,
        not_points=prompt.not_points,
    )
    return text or _seed(region, width_px, height_px)


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
    """Read and check the header without looking at the pixels; raises `WireError`. Regions and
    prompts of a wrong form are left out.
    """
    return _decode_header(parts, limits)[0]


def _decode_header(
    parts: Sequence[bytes], limits: WireLimits
) -> tuple[FrameHeader, tuple[Refusal, ...]]:
    """The header, and the regions and prompts that are left out of it."""
    check_parts(parts, least=3, most=3, what="a frame")
    topic = parse_topic(parts[0])
    data = unpack(parts[1], limits)
    check_version(data)
    or_unknown(data, _KNOWN_WORDS)
    _check_count(data, limits)
    refused = _take_out_broken(data)
    header = convert(data, FrameHeader, "frame header")
    if topic.kind != FRAME_TOPIC_PART or topic.stream != header.src:
        raise WireError(f"a frame of {header.src!r} came under the topic {parts[0][:80]!r}")
    _check_header(header, limits)
    return header, refused


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
    picture is in `Frame.refused`. A picture whose EXIF data says so is turned, and regions with it,
    if the header has the size before that.
    """
    header, broken = _decode_header(parts, limits)
    pixels: Pixels = parts[2] if header.shm is None else _fetch(header, parts[2], shared)
    _check_payload(header, pixels, limits)
    regions, refused = header.seeds()
    prompts, texts, hopeless = header.read_prompts()
    if header.enc in _CHANNELS:
        image = _raw_image(header, pixels)
    else:
        image = _decoded(header, pixels, decoder)
    if image.shape[:2] != (header.h, header.w):  # the header says the size before it is turned
        turn = measure_head(bytes(pixels)).orientation
        regions = None if regions is None else turn_seeds(regions, turn, header.w, header.h)
        prompts = turn_seeds(prompts, turn, header.w, header.h)
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
        texts=texts,
        refused=(*broken, *refused, *hopeless),
    )


def _take_out_broken(data: dict[str, Any]) -> tuple[Refusal, ...]:
    """One region of a wrong form costs that region, never the frame that it came with."""
    refused: list[Refusal] = []
    for key, kind in (("regions", WireRegion), ("prompts", WirePrompt)):
        listed = data.get(key)
        if not isinstance(listed, list):
            continue
        found = [_refusal_of(one, kind, key.removesuffix("s")) for one in listed]
        data[key] = [one for one, refusal in zip(listed, found, strict=True) if refusal is None]
        refused += [refusal for refusal in found if refusal is not None]
    return tuple(refused)


def _refusal_of(one: Any, kind: type[WireRegion | WirePrompt], what: str) -> Refusal | None:
    try:
        convert(one, kind, what)
    except WireError as error:
        rid = one.get("rid") if isinstance(one, dict) else None
        return Refusal(rid if isinstance(rid, str) and is_id(rid) else None, str(error))
    return None


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
        check_size(bytes(pixels), header.enc, (header.w, header.h))
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
    width, height = (
        measure_head(bytes(pixels)).upright_size
        if header.enc in ("jpeg", "png")
        else (header.w, header.h)
    )
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise WireError(
            f"expected {header.enc} of u8 [{height}, {width}, 3] (EXIF orientation applied), got "
            f"{image.dtype} {list(image.shape)}"
        )
    return image
