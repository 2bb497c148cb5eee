"""Images of ROS cameras as frames of the protocol, pixels untouched where possible. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ureca.bridges.ros.convert import nanoseconds
from ureca.bridges.ros.messages import CompressedImage, Header, Image
from ureca.errors import WireError
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.frames import Encoding, FrameHeader
from ureca.protocol.image_header import picture_size

_RAW: Mapping[str, Encoding] = MappingProxyType(
    {"rgb8": "rgb8", "bgr8": "bgr8", "mono8": "mono8", "8UC1": "mono8", "8UC3": "bgr8"}
)
_FOUR: Mapping[str, Encoding] = MappingProxyType({"rgba8": "rgb8", "bgra8": "bgr8"})
_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}

Sent = tuple[FrameHeader, bytes]


@dataclass
class Numbering:
    """The frames of one camera topic: a `session_id` for the life of the bridge, `seq` from 0."""

    stream: str
    session_id: bytes
    seq: int = field(default=0)

    def header(self, header: Header, now_ns: int, **more: Any) -> FrameHeader:  # keys of the header
        """The next header. `now_ns` (Unix time) replaces a stamp of 0."""
        captured_ns = nanoseconds(header.stamp)
        made = FrameHeader(
            v=PROTOCOL_VERSION,
            src=self.stream,
            session_id=self.session_id,
            seq=self.seq,
            captured_ns=captured_ns or now_ns,
            clk="utc",
            capture_source="driver" if captured_ns else "receive",
            frame_id=header.frame_id[:256] or None,
            **more,
        )
        self.seq += 1
        return made


def raw(image: Image, camera: Numbering, now_ns: int) -> Sent:
    """A `sensor_msgs/Image`; raises `WireError` for an encoding that no node reads."""
    if image.encoding in _FOUR:
        enc, pixels, step = _FOUR[image.encoding], _without_alpha(image), image.width * 3
    elif image.encoding in _RAW:
        enc, pixels, step = _RAW[image.encoding], image.data, image.step
    else:
        known = sorted({*_RAW, *_FOUR})
        raise WireError(f"expected an image of {known}, got {image.encoding!r:.40}; convert it")
    if len(pixels) != step * image.height:
        raise WireError(f"expected {image.height} rows of {step} bytes, got {len(pixels)} bytes")
    plain = step == image.width * _CHANNELS[enc]
    return camera.header(
        image.header,
        now_ns,
        enc=enc,
        w=image.width,
        h=image.height,
        stride=None if plain else step,
    ), pixels


def _without_alpha(image: Image) -> bytes:
    if image.step < image.width * 4 or len(image.data) != image.step * image.height:
        raise WireError(
            f"expected {image.height} rows of at least {image.width * 4} bytes of "
            f"{image.encoding}, got {len(image.data)} bytes in rows of {image.step}"
        )
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    pixels = rows[:, : image.width * 4].reshape(image.height, image.width, 4)
    return pixels[:, :, :3].tobytes()


def compressed(image: CompressedImage, camera: Numbering, now_ns: int) -> Sent:
    """A `sensor_msgs/CompressedImage`, forwarded unchanged; raises `WireError` if its first bytes
    are neither JPEG nor PNG.
    """
    enc: Literal["jpeg", "png"] = "png" if image.data.startswith(b"\x89PNG") else "jpeg"
    width, height = picture_size(image.data, enc)
    return camera.header(image.header, now_ns, enc=enc, w=width, h=height), image.data
