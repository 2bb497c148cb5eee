"""The interface to cameras and network streams: it opens one and reads images one by one. OpenCV's
VideoCapture implements it; tests use a fake.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

import cv2

from ureca.clock import Clock
from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.decoding.opencv_retrieve import check_opencv, retrieve
from ureca.node.sources.source_uri import NETWORK, hide_secrets, split

DEVICE = "v4l2"
_MJPEG = cv2.VideoWriter.fourcc(*"MJPG")
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
"""OpenCV 5 moved it."""
_MAX_DRIVER_AGE_NS = 2_000_000_000
_ERRORS = 2
_SELECT_TIMEOUT = "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"
_JPEG_END = b"\xff\xd9"
_REMEDY = "set the camera to progressive, or send its stream through `ffmpeg -vf bwdif`"
_SETTINGS = {
    "fourcc": cv2.CAP_PROP_FOURCC,  # first: it decides which sizes and rates there are
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
}


@dataclass(frozen=True, slots=True)
class RawImage:
    """One raw image: BGR u8 [H, W, 3], the bytes of a JPEG that is not decoded yet, or the reason
    why there is none. `read_ns` is the time of the read; `stamp_ns` is the driver's stamp on the
    same clock, None without one.
    """

    picture: Image | bytes | SourceError
    read_ns: int
    stamp_ns: int | None = None


class Capture(Protocol):
    """An open camera or stream; used from one thread."""

    def read(self) -> RawImage | None:
        """Wait for the next image; None at the end or after the timeout."""

    def close(self) -> None:
        """Give the device back."""


OpenCapture = Callable[[str, NodeConfig, Clock], Capture]
"""Opens a URI; `SourceError` says why it cannot be opened now."""


class OpenCvCapture:
    """`cv2.VideoCapture` on V4L2 or FFmpeg.

    MJPEG is decoded by us: OpenCV and FFmpeg paint over what a truncated JPEG lacks, and we would
    never know.
    """

    def __init__(self, video: cv2.VideoCapture, clock: Clock, *, is_device: bool) -> None:
        self._video = video
        self._clock = clock
        self._is_device = is_device
        fourcc = int(video.get(cv2.CAP_PROP_FOURCC))
        raw = (cv2.CAP_PROP_CONVERT_RGB, 0) if is_device else (cv2.CAP_PROP_FORMAT, -1)
        self._is_packed = fourcc == _MJPEG and bool(video.set(*raw))

    def read(self) -> RawImage | None:
        """See `Capture`."""
        if not self._video.grab():
            return None
        read_ns = self._clock.now_ns()
        stamp_ns = self._stamp_ns(read_ns) if self._is_device else None
        return RawImage(self._picture(), read_ns, stamp_ns)

    def close(self) -> None:
        """See `Capture`."""
        self._video.release()

    def _picture(self) -> Image | bytes | SourceError:
        try:
            picture = retrieve(self._video)
        except SourceError as error:
            return SourceError(f"{error}; {_REMEDY}")
        if picture is None:
            return b""
        return _trimmed(picture.tobytes()) if self._is_packed else picture

    def _stamp_ns(self, read_ns: int) -> int | None:
        """The driver's stamp of the buffer, where it is on our clock; some drivers give wall time
        or nothing.
        """
        stamp_ns = round(self._video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return stamp_ns if 0 <= read_ns - stamp_ns <= _MAX_DRIVER_AGE_NS else None


def _trimmed(data: bytes) -> bytes:
    """A JPEG without what cameras put behind its end marker; one that has none stays cut off."""
    end = data.rfind(_JPEG_END)
    return data if end < 0 else data[: end + len(_JPEG_END)]


def open_capture(uri: str, config: NodeConfig, clock: Clock) -> Capture:
    """Open `v4l2:///dev/…` or a network stream; see `OpenCapture`."""
    is_device = split(uri).scheme == DEVICE
    video = _open_device(uri, config) if is_device else _open_stream(uri, config)
    check_opencv(video)
    width, height = (int(video.get(key)) for key in (_SETTINGS["width"], _SETTINGS["height"]))
    if width * height > config.limits.max_image_px:
        video.release()
        raise SourceError(
            f"{hide_secrets(uri)} sends {width}x{height}, more than limits.max_image_px = "
            f"{config.limits.max_image_px}"
        )
    return OpenCvCapture(video, clock, is_device=is_device)


def check_uri(uri: str) -> None:
    """Refuse at the start what can never be opened. Raises `SourceError` with the right form."""
    parts = split(uri)
    if parts.scheme == DEVICE:
        _settings(uri)
        if not parts.path.startswith("/") or parts.netloc:
            raise SourceError(f"expected v4l2:///dev/video0?width=1280&height=720, got {uri!r}")
    elif parts.scheme not in NETWORK or not parts.hostname:
        raise SourceError(f"expected {parts.scheme}://HOST/…, got {hide_secrets(uri)}")


def _settings(uri: str) -> dict[str, float]:
    """Which properties of a V4L2 device to set, by name."""
    asked = dict(parse_qsl(split(uri).query, keep_blank_values=True))
    unknown = sorted(asked.keys() - _SETTINGS.keys())
    if unknown:
        raise SourceError(f"{uri}: unknown {unknown}; a camera has {', '.join(_SETTINGS)}")
    fourcc = asked.pop("fourcc", None)
    if fourcc is not None and len(fourcc) != 4:
        raise SourceError(f"{uri}: a fourcc is 4 characters like MJPG, got {fourcc!r}")
    try:
        numbers = {key: float(value) for key, value in asked.items()}
    except ValueError as error:
        raise SourceError(f"{uri}: {error}") from error
    if ("width" in numbers) != ("height" in numbers):
        raise SourceError(f"{uri}: width and height go together")
    if not all(0 < number < 1e5 for number in numbers.values()):
        raise SourceError(f"{uri}: width, height and fps are above 0, got {numbers}")
    return numbers | ({} if fourcc is None else {"fourcc": cv2.VideoWriter.fourcc(*fourcc)})


def _open_device(uri: str, config: NodeConfig) -> cv2.VideoCapture:
    path = Path(split(uri).path)
    _check_device(path)
    # OpenCV has no other way to say how long a read may take on V4L2 (10 s).
    os.environ.setdefault(_SELECT_TIMEOUT, str(math.ceil(config.source.read_timeout_s)))
    video = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    if not video.isOpened():
        video.release()
        raise SourceError(
            f"cannot open the camera {path}: another program may use it, or it is a second device "
            "of the same camera without pictures; `v4l2-ctl --list-devices` lists them"
        )
    asked = _settings(uri)
    for name in (name for name in _SETTINGS if name in asked):
        video.set(_SETTINGS[name], asked[name])
    return video


def _check_device(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceError(f"no camera at {path}: {error.strerror}; is it plugged in?") from error
    if not stat.S_ISCHR(mode):
        raise SourceError(f"{path} is no device; a video file is given without v4l2://")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"no permission for {path}: add this user to the group `video`")


def _open_stream(uri: str, config: NodeConfig) -> cv2.VideoCapture:
    source = config.source
    _set_log_level(_ERRORS)  # what OpenCV would warn of at each attempt, we say once
    video = cv2.VideoCapture(
        uri,
        cv2.CAP_FFMPEG,
        [
            *(cv2.CAP_PROP_N_THREADS, 1),  # each more holds back one more frame
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(source.open_timeout_s * 1e3)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(source.read_timeout_s * 1e3)),
        ],
    )
    if not video.isOpened():
        video.release()
        raise SourceError(
            f"cannot open {hide_secrets(uri)}: nobody answers, the login or path is wrong, or it "
            "is no video; try it with `ffprobe`"
        )
    return video
