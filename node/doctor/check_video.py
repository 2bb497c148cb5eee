"""Checks which video this machine decodes, and by which protocols it comes."""

from __future__ import annotations

from collections.abc import Iterator

from ureca.errors import MissingExtraError
from ureca.extras import require
from ureca.node.doctor.findings import Finding

_DECODERS = (
    *("h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "prores"),
    *("dnxhd", "ffv1", "dvvideo", "theora", "wmv3", "vc1", "rawvideo", "gif", "apng", "vvc"),
)
_OTHER_DECODERS = {"av1": "libdav1d"}
_FORMATS = ("rtsp", "hls", "sdp", "rtp")
_PROTOCOLS = ("http", "https", "rtmp", "tcp", "udp", "srt")
_PROBE_S = 0.2


def video() -> Iterator[Finding]:
    """Codecs and protocols of FFmpeg in PyAV, and what OpenCV reads cameras with."""
    try:
        av, cv2 = require("av", extra="node"), require("cv2", extra="node")
    except MissingExtraError as error:
        yield Finding("video", "bad", "no video can be read", str(error))
        return
    decoders = [name for name in _DECODERS if _decodes(av, name)]
    lacks = [name for name in _DECODERS if name not in decoders]
    said = f"FFmpeg {av.ffmpeg_version_info} (PyAV {av.__version__}) decodes {', '.join(decoders)}"
    yield Finding("video", "ok", said + _without(lacks))
    has = [name for name in _FORMATS if name in av.formats_available]
    has += [name for name in _PROTOCOLS if _speaks(av, name)]
    lacks = [name for name in (*_FORMATS, *_PROTOCOLS) if name not in has]
    yield Finding("protocols", "ok", f"{', '.join(has)}{_without(lacks)}")
    build = cv2.getBuildInformation()
    readers = [name for name in ("V4L2", "GStreamer") if _is_built(build, name)]
    said = f"OpenCV {cv2.__version__} reads {', '.join(readers) or 'no camera'}"
    yield Finding("capture", "ok" if readers else "warn", said)


def _without(names: list[str]) -> str:
    return f"; not {', '.join(names)}" if names else ""


def _decodes(av: object, name: str) -> bool:
    available = av.codecs_available  # type: ignore[attr-defined]  # an optional package
    return name in available or _OTHER_DECODERS.get(name) in available


def _speaks(av: object, scheme: str) -> bool:
    """Whether FFmpeg knows a protocol: it says so before it connects."""
    try:
        uri = f"{scheme}://127.0.0.1:9/x"
        av.open(uri, timeout=(_PROBE_S, _PROBE_S)).close()  # type: ignore[attr-defined]
    except av.error.ProtocolNotFoundError:  # type: ignore[attr-defined]
        return False
    except (av.error.FFmpegError, OSError, ValueError):  # type: ignore[attr-defined]
        return True
    return True


def _is_built(build: str, name: str) -> bool:
    lines = (line.lower() for line in build.splitlines())
    return any(name.lower() in line and "yes" in line for line in lines)
