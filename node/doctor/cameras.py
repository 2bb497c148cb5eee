"""Lists the V4L2 cameras of this machine by the kernel's device capabilities."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_QUERYCAP = 0x80685600
"""VIDIOC_QUERYCAP of <linux/videodev2.h>, which fills a `struct v4l2_capability`."""
_CAPABILITY = struct.Struct("16s32s32s3I12x")
_CAPTURE, _CAPTURE_MPLANE, _DEVICE_CAPS = 0x1, 0x1000, 0x80000000

Query = Callable[[Path], bytes]
"""The answer of a device to VIDIOC_QUERYCAP; raises `OSError`."""


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """A camera device; `trouble` says why it cannot be opened."""

    uri: str
    name: str
    bus: str = ""
    trouble: str = ""

    @property
    def readable(self) -> bool:
        """True when this user may open it."""
        return not self.trouble


def ask_kernel(device: Path) -> bytes:
    """VIDIOC_QUERYCAP."""
    answer = bytearray(_CAPABILITY.size)
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(handle, _QUERYCAP, answer)
    finally:
        os.close(handle)
    return bytes(answer)


def cameras(folder: Path = Path("/dev"), *, query: Query = ask_kernel) -> list[CameraDevice]:
    """Cameras in the order of their numbers. One camera often has a second device for metadata,
    which is left out.
    """
    devices = sorted(folder.glob("video[0-9]*"), key=lambda path: int(path.name[5:]))
    return [camera for path in devices if (camera := _camera(path, query)) is not None]


def _camera(device: Path, query: Query) -> CameraDevice | None:
    uri = f"v4l2://{device}"
    try:
        _, card, bus, _, all_caps, own_caps = _CAPABILITY.unpack(query(device))
    except OSError as error:
        return CameraDevice(uri, device.name, trouble=error.strerror or str(error))
    if not (own_caps if all_caps & _DEVICE_CAPS else all_caps) & (_CAPTURE | _CAPTURE_MPLANE):
        return None
    return CameraDevice(uri, _string(card), _string(bus))


def _string(field: bytes) -> str:
    """A C string; devices write what they like into it."""
    text = field.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())
