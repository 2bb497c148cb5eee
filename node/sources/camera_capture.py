"""The interface to cameras and network streams: it opens one and reads images one by one. Here are
cameras of this machine, read by OpenCV; `network_capture` has the others, tests use a fake.
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
import numpy as np

from ureca.clock import Clock
from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.sources.source_uri import NETWORK, hide_secrets, split

DEVICE, CSI, PIPELINE = "v4l2", "csi", "gst"
LOCAL = frozenset({DEVICE, CSI, PIPELINE})
"""Schemes of cameras of this machine."""
_MJPEG = cv2.VideoWriter.fourcc(*"MJPG")
_DATAGRAMS = frozenset({"udp", "rtp"})
_MAX_DRIVER_AGE_NS = 2_000_000_000
_SELECT_TIMEOUT = "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"
_TEGRA = Path("/etc/nv_tegra_release")
_TO_APP = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
_SETTINGS = {
    "fourcc": cv2.CAP_PROP_FOURCC,  # first: it decides which sizes and rates there are
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
}


@dataclass(frozen=True, slots=True)
class RawImage:
    """One raw image: BGR (RGB with `is_rgb`) u8 [H, W, 3], the bytes of a JPEG that is not decoded
    yet, or the reason why there is none. `read_ns` is the time of the read; `stamp_ns` is the
    driver's stamp on the same clock, None without one.
    """

    picture: Image | bytes | SourceError
    read_ns: int
    stamp_ns: int | None = None
    is_rgb: bool = False


class Capture(Protocol):
    """An open camera or stream; used from one thread."""

    def read(self) -> RawImage | None:
        """Wait for the next image; None at the end or after the timeout."""

    def close(self) -> None:
        """Give the device back."""


OpenCapture = Callable[[str, NodeConfig, Clock], Capture]
"""Opens a URI; `SourceError` says why it cannot be opened now."""


class OpenCvCapture:
    """`cv2.VideoCapture` on V4L2 or GStreamer.

    MJPEG of devices is decoded by us: OpenCV paints over what a truncated JPEG lacks, and we would
    never know.
    """

    def __init__(self, video: cv2.VideoCapture, clock: Clock, *, is_device: bool) -> None:
        self._video = video
        self._clock = clock
        self._is_device = is_device
        is_mjpeg = is_device and int(video.get(cv2.CAP_PROP_FOURCC)) == _MJPEG
        self._is_packed = is_mjpeg and bool(video.set(cv2.CAP_PROP_CONVERT_RGB, 0))

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

    def _picture(self) -> Image | bytes:
        ok, picture = self._video.retrieve()
        if not ok or picture is None:
            return b""
        return picture.tobytes() if self._is_packed else np.asarray(picture, np.uint8)

    def _stamp_ns(self, read_ns: int) -> int | None:
        """The driver's stamp of the buffer, where it is on our clock; some drivers give wall time
        or nothing.
        """
        stamp_ns = round(self._video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return stamp_ns if 0 <= read_ns - stamp_ns <= _MAX_DRIVER_AGE_NS else None


def open_device(uri: str, config: NodeConfig, clock: Clock) -> Capture:
    """Open `v4l2:///dev/…`, `csi://…` or `gst://…`; see `OpenCapture`."""
    is_device = uri.startswith(f"{DEVICE}:")
    video = _open_device(uri, config) if is_device else _open_pipeline(uri)
    width, height = (int(video.get(key)) for key in (_SETTINGS["width"], _SETTINGS["height"]))
    if width * height > config.limits.max_image_px:
        video.release()
        raise SourceError(
            f"{uri} sends {width}x{height}, more than limits.max_image_px = "
            f"{config.limits.max_image_px}"
        )
    return OpenCvCapture(video, clock, is_device=is_device)


def check_uri(uri: str) -> None:
    """Refuse at the start what can never be opened. Raises `SourceError` with the right form."""
    if uri.startswith(f"{PIPELINE}://"):
        return
    parts = split(uri)
    if parts.scheme == DEVICE:
        _settings(uri)
        if not parts.path.startswith("/") or parts.netloc:
            raise SourceError(f"expected v4l2:///dev/video0?width=1280&height=720, got {uri!r}")
    elif parts.scheme == CSI:
        _settings(uri)
        if not parts.netloc.isdecimal() or parts.path.strip("/"):
            raise SourceError(f"expected csi://0?width=1280&height=720&fps=30, got {uri!r}")
    elif parts.scheme in _DATAGRAMS:
        if parts.port is None:
            raise SourceError(f"expected {parts.scheme}://[HOST]:PORT, got {hide_secrets(uri)}")
    elif parts.scheme != "file" and (parts.scheme not in NETWORK or not parts.hostname):
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


def _open_pipeline(uri: str) -> cv2.VideoCapture:
    """A GStreamer pipeline that ends in an `appsink`. No wheel of OpenCV on PyPI has GStreamer."""
    if "GStreamer:                   YES" not in cv2.getBuildInformation():
        raise SourceError(
            f"{uri}: this OpenCV is built without GStreamer; take one that has it (JetPack and "
            "Debian bring it), or send the camera's stream by RTSP or UDP"
        )
    pipeline = uri.removeprefix(f"{PIPELINE}://") if uri.startswith(PIPELINE) else csi_pipeline(uri)
    video = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not video.isOpened():
        video.release()
        raise SourceError(f"GStreamer cannot run {pipeline!r}; try it with `gst-launch-1.0`")
    return video


def csi_pipeline(uri: str, *, is_tegra: bool | None = None) -> str:
    """The GStreamer pipeline of `csi://SENSOR?width=…&height=…&fps=…`: NVIDIA's camera source on a
    Jetson, libcamera elsewhere.
    """
    asked, sensor = _settings(uri), split(uri).netloc
    caps = [f"{key}={asked[key]:.0f}" for key in ("width", "height") if key in asked]
    caps += [f"framerate={asked['fps']:.0f}/1"] if "fps" in asked else []
    if _TEGRA.exists() if is_tegra is None else is_tegra:
        form = ",".join(["video/x-raw(memory:NVMM)", *caps])
        return (
            f"nvarguscamerasrc sensor-id={sensor} ! {form} ! nvvidconv ! "
            f"video/x-raw,format=BGRx ! {_TO_APP}"
        )
    return f"libcamerasrc ! {','.join(['video/x-raw', *caps])} ! {_TO_APP}"
