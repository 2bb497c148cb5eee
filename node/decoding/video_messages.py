"""Messages between the node and the process that decodes video (`video_process`, `video_worker`).

Each is msgpack behind its length. Pixels go through the ring of `ureca.protocol.shared_memory`.
"""

from __future__ import annotations

import struct

import msgspec

from ureca.protocol.shared_memory import SharedPixels

LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 16
GO = b"+"
"""One more picture is wanted: the node has room for it."""
WANTED = 2
"""Pictures on the way: one is decoded while the node takes the other."""
MAX_VIDEO_PX = 1 << 26
"""Most pixels of a picture of a file: 8192 x 8192."""
MAX_SLOT_BYTES = 3 * MAX_VIDEO_PX


class OpenVideo(msgspec.Struct, frozen=True, kw_only=True):
    """What to open. Times are in seconds; `skip` packets are read but not decoded."""

    uri: str
    is_network: bool = False
    max_px: int = MAX_VIDEO_PX
    open_timeout_s: float = 30.0
    read_timeout_s: float = 30.0
    skip: int = 0


class VideoOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """What was opened.

    `count`: pictures that the container announces, 0 when it does not. `duration_s`: 0 when it has
    length that is known. `fps`: the container's rate, 0 without one. `ends`: it has a length, or
    its server says how many bytes it has (a transport stream over HTTP).
    """

    codec: str
    width: int
    height: int
    count: int
    duration_s: float
    fps: float
    ends: bool = False


class VideoPicture(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """One picture, or why there is none (`error`). `at_ns` is its presentation time in the
    container, None without one; `packets` counts the packets that were decoded so far.
    """

    at_ns: int | None
    packets: int
    height: int = 0
    width: int = 0
    pixels: SharedPixels | None = None
    error: str = ""


class VideoEnd(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """There is no further picture. `shortfall` says what is missing of what was announced;
    `failed` is why it could not be opened or not be read further.
    """

    shortfall: str = ""
    failed: str = ""


VideoMessage = VideoOpened | VideoPicture | VideoEnd
_decode_message = msgspec.msgpack.Decoder(VideoMessage).decode
_decode_order = msgspec.msgpack.Decoder(OpenVideo).decode


def pack_message(message: VideoMessage | OpenVideo) -> bytes:
    """A message with its length in front."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def unpack_message(data: bytes) -> VideoMessage:
    """Raises `msgspec.MsgspecError` for what is no message."""
    return _decode_message(data)


def unpack_order(data: bytes) -> OpenVideo:
    """Raises `msgspec.MsgspecError` for what is no order."""
    return _decode_order(data)
