"""Images of ROS cameras as frames of the protocol, pixels untouched where possible. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ureca.bridges.ros.convert import nanoseconds
from ureca.bridges.ros.encodings import convert, depth_of
from ureca.bridges.ros.messages import CompressedImage, Header, Image
from ureca.errors import WireError
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.frames import FrameHeader
from ureca.protocol.image_header import picture_size

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
    """A `sensor_msgs/Image`; raises `WireError` for an encoding that is not known."""
    enc, pixels, step = convert(image)
    plain = image.width + image.width % 2 if enc == "nv12" else image.width * _CHANNELS[enc]
    return camera.header(
        image.header,
        now_ns,
        enc=enc,
        w=image.width,
        h=image.height,
        stride=None if step == plain else step,
    ), pixels


def compressed(image: CompressedImage, camera: Numbering, now_ns: int) -> Sent:
    """A `sensor_msgs/CompressedImage`, forwarded unchanged; raises `WireError` if its first bytes
    are neither JPEG nor PNG, and for depth.
    """
    if (depth := depth_of(image.format)) is not None:
        raise WireError(f"{depth!r:.60} is depth, no picture: forward the colour topic")
    enc: Literal["jpeg", "png"] = "png" if image.data.startswith(b"\x89PNG") else "jpeg"
    width, height = picture_size(image.data, enc)
    return camera.header(image.header, now_ns, enc=enc, w=width, h=height), image.data
