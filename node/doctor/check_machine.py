"""Checks the machine: processor, memory, clock, cameras, files."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from ureca import __version__
from ureca.node.doctor.cameras import CameraDevice, cameras
from ureca.node.doctor.findings import Finding

_FAST = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")
"""What int8 products use, best first: x86, then ARM."""
_FILES = 1024
_SHARED_MIB = 64
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def python() -> Finding:
    """Interpreter and package."""
    said = f"ureca {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Finding("python", "ok", said)


def processor(
    cpuinfo: Path = Path("/proc/cpuinfo"), devices: Path = Path("/sys/devices/system/cpu")
) -> Iterator[Finding]:
    """Cores that this process may use, its instructions for int8, and whether it is held back."""
    flags = set(_first_line(cpuinfo, ("flags", "Features")).split())
    fast = next((flag for flag in _FAST if flag in flags), None)
    cores = len(os.sched_getaffinity(0))
    said = f"{cores} cores, {platform.machine()}, int8 by {fast or 'plain instructions'}"
    yield Finding("processor", "ok" if cores > 1 else "warn", said, _more_cores(cores))
    governor = _text(devices / "cpu0/cpufreq/scaling_governor")
    if governor == "powersave":
        remedy = "sudo cpupower frequency-set -g performance (Jetson: sudo nvpmodel -m 0)"
        yield Finding("governor", "warn", "the processor saves power; latency will vary", remedy)


def memory() -> Finding:
    """Memory that is free; the node with the shipped captioner takes some 300 MB."""
    kib = int(_first_line(Path("/proc/meminfo"), ("MemAvailable",)).split()[0])
    said = f"{kib / 2**20:.1f} GiB available"
    if kib < 512 * 1024:
        return Finding("memory", "warn", said, "end something: the node needs about 0.3 GiB")
    return Finding("memory", "ok", said)


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108  (where rings live)
    """Room for raw pictures between processes (`ureca camera --shm`)."""
    if not folder.is_dir():
        return Finding("shared memory", "absent", f"there is no {folder}: send frames over ipc")
    free = shutil.disk_usage(folder).free // 2**20
    if free < _SHARED_MIB:
        remedy = "make room, or in Docker: --shm-size=256m"
        return Finding("shared memory", "warn", f"{free} MiB free in {folder}", remedy)
    return Finding("shared memory", "ok", f"{free} MiB free in {folder}")


def open_files() -> Finding:
    """Each subscriber costs a file descriptor or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft} files may be open"
    if soft < _FILES:
        return Finding("open files", "warn", said, f"ulimit -n {min(hard, 4096)}")
    return Finding("open files", "ok", said)


def clock_sync(state: tuple[bool, float] | None = None) -> Finding:
    """Ages across hosts are as honest as the clocks. `state`: (synchronised, error in ms)."""
    synchronised, error_ms = _kernel_clock() if state is None else state
    if not synchronised:
        remedy = "run chrony or systemd-timesyncd; on one host nothing needs it"
        return Finding("clock", "warn", "not synchronised: ages across hosts are unknown", remedy)
    return Finding("clock", "ok", f"synchronised, at most {error_ms:.1f} ms off")


def camera_access(found: list[CameraDevice] | None = None) -> Iterator[Finding]:
    """Cameras of this machine, and whether this user may open them."""
    listed = cameras() if found is None else found
    if not listed:
        yield Finding("cameras", "absent", "none here: files, RTSP and ZeroMQ sources still work")
    for camera in listed:
        remedy = "" if camera.readable else f"sudo usermod -aG video {_user()}, and log in again"
        said = camera.name if camera.readable else f"{camera.name}: {camera.trouble}"
        yield Finding(camera.uri, "ok" if camera.readable else "bad", said, remedy)


def _kernel_clock() -> tuple[bool, float]:
    """What adjtimex(2) says; `struct timex` begins modes (int), offset, freq, maxerror (long)."""
    buffer = (ctypes.c_long * 64)()
    status = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer))
    if status < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return status != _TIME_ERROR, buffer[3] / 1000


def _first_line(path: Path, names: tuple[str, ...]) -> str:
    """The value of the first `name : value` line of a file in /proc; empty without one."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


def _more_cores(cores: int) -> str:
    return "" if cores > 1 else "one core serves tracking and captions in turn: give it two"


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
