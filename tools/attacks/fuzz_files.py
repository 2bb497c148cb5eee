"""Fuzz targets for files of strangers and for raw ZMTP: pictures, recordings, tars, connections."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import zmq

from ureca.client.sockets import harden, received_frames, take_subscriptions_only
from ureca.clock import MonotonicClock
from ureca.errors import ConfigError, SourceError, WireError
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.recording.header import config_of, prompts_of
from ureca.node.recording.reader import pictures, read
from ureca.node.recording.recorder import FORMAT, METADATA
from ureca.node.sources.prompt_file import first_frame_mask
from ureca.node.sources.video_readers import open_clip
from ureca.protocol.messagepack import unpack
from ureca.protocol.request_codec import salvage_request_id
from ureca.security.link_guard import LinkGuard

MAX_PX = 1 << 18
_SIDE = 24


def fuzz_decoder(data: bytes) -> None:
    """A picture of any kind is decoded within the limit, or refused."""
    image = decode_picture(data, max_px=MAX_PX)
    assert image.ndim == 3
    assert image.shape[0] * image.shape[1] <= MAX_PX


def fuzz_recording(data: bytes) -> None:
    """A recording with its header and pictures."""
    with _file(data, "x.mcap") as path:
        found = read(path)
        for reader in (config_of, prompts_of):
            with contextlib.suppress(SourceError):
                reader(found)
        for _ in pictures(path):
            pass


def fuzz_tar(data: bytes) -> None:
    """A tar as a source: its pictures and its mask."""
    with _file(data, "x.tar") as path:
        with contextlib.suppress(SourceError, ConfigError):
            first_frame_mask(path)
        for _ in open_clip(path, fps=1.0, max_px=MAX_PX).shots():
            pass


def fuzz_zmtp(data: bytes) -> None:
    """Bytes of a connection to a ROUTER and to an XPUB as the node opens them."""
    with zmq.Context() as context:
        for kind in (zmq.ROUTER, zmq.XPUB):
            with context.socket(kind) as link:
                harden(link)
                if kind == zmq.XPUB:
                    take_subscriptions_only(link)
                link.bind("tcp://127.0.0.1:*")
                _connect(link, data)


def _connect(link: zmq.Socket[bytes], data: bytes) -> None:
    """Send the bytes; what arrives is read as a request."""
    guard = LinkGuard("fuzz", MonotonicClock(), max_held_bytes=1 << 20)
    guard.watch(link)
    port = int(link.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.settimeout(0.2)
        with contextlib.suppress(OSError):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
        guard.check()
    while (message := received_frames(link, 4)) is not None:
        frames, last, size = message
        guard.delivered(last, size)
        salvage_request_id([frame.bytes for frame in frames[1:]])
        with contextlib.suppress(WireError):
            unpack(frames[-1].bytes)


@contextlib.contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (a thousand a second)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        path = Path(made, name)
        path.write_bytes(data)
        yield path


FILE_TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[type[Exception], ...]]] = {
    "decoder": (fuzz_decoder, (SourceError,)),
    "recording": (fuzz_recording, (SourceError,)),
    "tar": (fuzz_tar, (SourceError, ConfigError)),
    "zmtp": (fuzz_zmtp, ()),
}


# --- seeds ----------------------------------------------------------------------------------------


def file_seeds(name: str) -> Iterator[bytes]:
    """What mutations begin with."""
    if name == "decoder":
        yield from _pictures()
    elif name == "recording":
        yield _recording()
    elif name == "tar":
        yield from _tars()
    elif name == "zmtp":
        yield from _connections()


def _pictures() -> Iterator[bytes]:
    image = np.random.default_rng(0).integers(0, 255, (_SIDE, _SIDE, 3), np.uint8)
    flags = {".jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]}
    for suffix in (".jpg", ".png", ".webp", ".bmp"):
        for more in ([], flags.get(suffix, [])):
            yield bytes(cv2.imencode(suffix, image, more)[1])
    png = bytes(cv2.imencode(".png", image)[1])
    for kind in (b"IDAT", b"tEXt", b"fdAT", b"PLTE"):  # a chunk that says it is 2 GiB long
        yield png[:33] + struct.pack(">I", (1 << 31) - 16) + kind + png[41:]


def _recording() -> bytes:
    from mcap.writer import CompressionType, Writer

    file = io.BytesIO()
    writer = Writer(file, compression=CompressionType.ZSTD)
    writer.start(profile="", library="ureca")
    writer.add_metadata(METADATA, {"format": FORMAT, "config": "{}", "prompts": "{}"})
    schema = writer.register_schema(name="x", encoding="jsonschema", data=b"{}")
    channel = writer.register_channel(topic="/x", message_encoding="json", schema_id=schema)
    writer.add_message(channel_id=channel, log_time=1, data=b"{}", publish_time=1, sequence=0)
    writer.finish()
    return file.getvalue()


def _tars() -> Iterator[bytes]:
    png = bytes(cv2.imencode(".png", np.zeros((_SIDE, _SIDE, 3), np.uint8))[1])
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for link in (b"", tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=style) as archive:
                for name in ("a.png", "masks/a.png"):
                    member = tarfile.TarInfo(name)
                    member.size = 0 if link else len(png)
                    if link:
                        member.type, member.linkname = link, "masks/a.png"
                    archive.addfile(member, None if link else io.BytesIO(png))
            yield file.getvalue()[: 1 << 13]


def _connections() -> Iterator[bytes]:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"%s" + bytes(32)
    null = greeting.replace(b"%s", b"NULL".ljust(20, b"\0"))
    curve = greeting.replace(b"%s", b"CURVE".ljust(20, b"\0"))
    for kind in (b"DEALER", b"SUB", b"XSUB", b"ROUTER"):
        body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        ready = null + b"\x04" + bytes([len(body)]) + body
        yield ready + b"\x00\x06\x01ureca"
        yield ready + b"\x01\x00" * 64 + b"\x00\x01x"
        yield ready + b"\x02" + struct.pack(">Q", 1 << 30) + b"\x01" * 64
    yield curve + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192)
    yield null[:10]
