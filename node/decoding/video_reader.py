"""Reads video with FFmpeg (PyAV): files and network streams, packet by packet.

Damaged packets are reported and passed over. A packet of which the decoder makes no picture without
an error is reported at the end. Runs in a process of its own (`video_worker`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.decoding.rgb_pictures import RgbPictures, display_matrix, time_of
from ureca.node.decoding.video_messages import OpenVideo, VideoOpened

_MAX_THREADS = 4
_MAX_READ_ERRORS = 100
"""So many failed reads in a row without a packet are the end."""
_COUNTED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "avi"})
"""Containers that list every picture."""
_TIMED = frozenset({"matroska,webm", "flv", "mov,mp4,m4a,3gp,3g2,mj2"})
"""Containers that state their length in a header, not by what is there."""
_PACKED = _COUNTED | {"matroska,webm"}
"""Containers with one picture in each packet."""
_EARLY_S, _EARLY_SHARE = 2.0, 0.05
"""An end that is earlier than announced by more than both of these is a cut."""
_WEB = "http,https,tcp,tls,crypto,data,httpproxy"
_PROTOCOLS = {
    "http": _WEB,
    "https": _WEB,
    "rtsp": "rtsp,rtp,rtcp,udp,tcp,http,srtp",
    "rtsps": "rtsp,rtsps,rtp,rtcp,udp,tcp,tls,http,https,srtp",
    ".sdp": "file,rtp,rtcp,udp,srtp",
    ".m3u8": f"file,{_WEB}",
    "": "file,crypto,data",
}
"""What an address may lead to: a playlist from the network reads no files, a file no network."""
_JPEG_START = b"\xff\xd8"


class ReadPicture(NamedTuple):
    """A picture, or why there is none, with its presentation time in ns if it has one."""

    at_ns: int | None
    image: Image | SourceError


class VideoReader:
    """An open video. `packets` counts those that were read; `shortfall` says after the last picture
    what is missing of what the container announced.

    Raises `SourceError` for what cannot be opened.
    """

    def __init__(self, order: OpenVideo) -> None:
        self.packets = 0
        self.shortfall = ""
        self._order = order
        self._container = _open(order)
        try:
            self._stream = _video_of(self._container)
            self._prepare()
        except SourceError:
            self._container.close()
            raise
        self._rgb = RgbPictures(order.max_px)
        self._is_jpeg = self._stream.codec_context.name == "mjpeg"
        self._is_plain_jpeg = False
        self._expected = self._given = 0
        self._last_error: SourceError | None = None
        self._end_ns = 0

    @property
    def opened(self) -> VideoOpened:
        """What was opened."""
        stream, context = self._stream, self._stream.codec_context
        duration = self._container.duration
        return VideoOpened(
            codec=context.name,
            width=context.width,
            height=context.height,
            count=self._announced(),
            duration_s=max(0.0, duration / av.time_base) if duration else 0.0,
            fps=float(stream.guessed_rate or stream.average_rate or 0),
            ends=bool(duration and duration > 0) or self._container.size > 0,
        )

    def pictures(self) -> Generator[ReadPicture, None, None]:
        """All pictures in the order of their presentation. Raises `SourceError` when a network
        stream fails.
        """
        for packet in self._packets():
            for picture in self._decoded(packet):
                self._given += 1
                yield picture
        missing = self._expected - self._given if self._container.format.name in _PACKED else 0
        for _ in range(missing):
            yield ReadPicture(None, SourceError("a packet that gave no picture: it is incomplete"))
        self.shortfall = self._find_shortfall()

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    # --- packets ---------------------------------------------------------------------------------

    def _prepare(self) -> None:
        context, order = self._stream.codec_context, self._order
        if context.width * context.height > order.max_px:
            raise SourceError(
                f"it sends {context.width}x{context.height}, more than the limit of "
                f"{order.max_px} pixels (limits.max_image_px)"
            )
        context.options = {"max_pixels": str(order.max_px), "max_frame_delay": "1"}
        # Each further thread that decodes whole frames holds back one more frame.
        context.thread_type = "SLICE" if order.is_network else "AUTO"
        context.thread_count = 1 if order.is_network else min(_MAX_THREADS, os.cpu_count() or 1)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """All packets, the empty one that ends the stream included."""
        failures = 0
        while failures < _MAX_READ_ERRORS:
            before = self.packets
            error = yield from self._readable_packets()
            if error is None:
                return
            is_bad_data = isinstance(error, av.error.InvalidDataError)
            if self._order.is_network and not is_bad_data:
                raise SourceError(f"it broke off: {_reason(error)}") from error
            self._last_error = SourceError(_reason(error))
            if not is_bad_data:
                return
            failures = failures + 1 if self.packets == before else 1

    def _readable_packets(self) -> Generator[Packet[VideoStream], None, BaseException | None]:
        """Packets up to the end (None) or to an error of reading."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self.packets += 1
                    self._note_end(packet)
                yield packet
        except (av.error.FFmpegError, OSError) as error:
            return error
        return None

    def _note_end(self, packet: Packet[VideoStream]) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.time_base:
            end = (stamp + (packet.duration or 0)) * packet.time_base
            self._end_ns = max(self._end_ns, round(end * 1_000_000_000))

    def _decoded(self, packet: Packet[VideoStream]) -> Iterator[ReadPicture]:
        if packet.size and self.packets <= self._order.skip:
            return
        if packet.size and not packet.is_discard and not _is_hidden(packet, self._stream):
            self._expected += 1
        if self._is_plain_jpeg and packet.size:
            yield ReadPicture(_packet_ns(packet), self._jpeg(bytes(packet)))
            return
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, MemoryError) as error:
            self._last_error = SourceError(f"a damaged packet: {_reason(error)}")
            yield ReadPicture(_packet_ns(packet), self._last_error)
            return
        for frame in frames:
            if self._is_jpeg and _is_upright(frame, packet):
                self._is_plain_jpeg = True
                yield ReadPicture(time_of(frame), self._jpeg(bytes(packet)))
                continue
            for at_ns, image in self._rgb.take(frame):
                yield ReadPicture(at_ns, image)
        if not packet.size:
            for at_ns, image in self._rgb.flush():
                yield ReadPicture(at_ns, image)

    def _jpeg(self, data: bytes) -> Image | SourceError:
        """By our own decoder: FFmpeg invents what a cut JPEG lacks."""
        try:
            return decode_picture(data, max_px=self._order.max_px)
        except SourceError as error:
            return error

    # --- what was announced ----------------------------------------------------------------------

    def _announced(self) -> int:
        """How many pictures the container lists; 0 when it does not."""
        if self._container.format.name not in _COUNTED or not self._stream.frames:
            return 0
        return min(self._stream.frames, len(self._stream.index_entries) or self._stream.frames)

    def _find_shortfall(self) -> str:
        announced, name = self._announced(), self._container.format.name
        if announced and self.packets < announced:
            why = f" ({self._last_error})" if self._last_error else ""
            return (
                f"{self.packets} of {announced} pictures could be read: the rest of the file is "
                f"missing or damaged{why}"
            )
        duration, read_s = self._container.duration, self._end_ns / 1e9
        if announced or name not in _TIMED or not duration or self._order.is_network:
            return ""
        # Of a file with sound, only what it says of its video: the sound may go on for long.
        own = _own_duration_s(self._stream)
        end_s = own or (duration / av.time_base if len(self._container.streams) == 1 else 0.0)
        if end_s - read_s > max(_EARLY_S, _EARLY_SHARE * end_s):
            return (
                f"it ends after {read_s:.1f} s of {end_s:.1f} s: the rest of the file is missing "
                "or damaged"
            )
        return ""


def _open(order: OpenVideo) -> InputContainer:
    is_uri = order.is_network and "://" in order.uri
    scheme = order.uri.partition("://")[0].lower() if is_uri else ""
    kind = scheme or os.path.splitext(order.uri)[1].lower()  # noqa: PTH122  (a name, no path)
    options = {"fpsprobesize": "0"} if order.is_network else {}  # no waiting for a rate to settle
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"
    allowed = _PROTOCOLS.get(kind, "" if scheme else _PROTOCOLS[""])
    if allowed:
        options["protocol_whitelist"] = allowed
    try:
        return av.open(
            order.uri if is_uri else f"file:{order.uri}",
            mode="r",
            options=options,
            metadata_errors="replace",
            timeout=(order.open_timeout_s, order.read_timeout_s),
        )
    except av.error.ProtocolNotFoundError as error:
        raise SourceError(
            f"this FFmpeg has no {scheme}. Let another program receive it: `ffmpeg -i URI -c copy "
            "-f mpegts udp://127.0.0.1:5000`, and --source udp://127.0.0.1:5000"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise SourceError(_reason(error)) from error


def _video_of(container: InputContainer) -> VideoStream:
    """The video stream; `SourceError` when there is none, or none that can be decoded."""
    streams = container.streams
    videos = [one for one in streams.video if not one.disposition & _ATTACHED]
    if not videos:
        kinds = ", ".join(sorted({one.type for one in streams})) or "nothing"
        raise SourceError(f"it has no video, only {kinds}")
    best = streams.best("video")
    chosen = best if isinstance(best, VideoStream) and best in videos else videos[0]
    if chosen.codec_context is None:
        raise SourceError(
            f"its codec {chosen.codec_tag!r} is none that this FFmpeg decodes; convert it with "
            "`ffmpeg -i IN -c:v libx264 OUT.mp4`"
        )
    return chosen


_ATTACHED = av.stream.Disposition.attached_pic


def _own_duration_s(stream: VideoStream) -> float:
    """The length of the video itself, 0 when the file does not say it."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:00:05.000000000
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = (float(part) for part in parts)
        return 3600 * hours + 60 * minutes + seconds
    return 0.0


def _is_hidden(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a packet holds no picture to be shown: VP8 stores its hidden references so."""
    return stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10


def _is_upright(frame: VideoFrame, packet: Packet[VideoStream]) -> bool:
    """Whether the JPEG of a packet is all of the picture: no field of it, and not turned."""
    matrix = display_matrix(frame)
    is_turned = matrix[0] <= 0 or matrix[3] <= 0
    return not (frame.interlaced_frame or is_turned) and bytes(packet)[:2] == _JPEG_START


def _packet_ns(packet: Packet[VideoStream]) -> int | None:
    if packet.pts is None or not packet.time_base:
        return None
    return round(packet.pts * packet.time_base * 1_000_000_000)


def _reason(error: BaseException) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "invalid data"
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    text = getattr(error, "strerror", None)  # never the whole text: it has the address in it
    return text if isinstance(text, str) else type(error).__name__
