"""Describes the machine of a measurement: device, power mode and versions. It names no host, user
or path, because reports are sent to others.

Everything is read from files and installed packages, except what only NVIDIA's `nvidia-smi` knows.
What cannot be read is left out.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import msgspec

from ureca import __version__
from ureca.models.runtime.cuda import find_compute_capability

_VERSIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "torch",
    "transformers",
)
_SMI = ("name", "driver_version", "power.limit", "clocks.max.sm")
_SMI_S = 5.0


class BenchMachine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a measurement ran on. Empty where it could not be read."""

    system: str = ""
    processor: str = ""
    python: str = ""
    threads: int | None = None
    board: str = ""
    """Name of the board in the device tree, such as a Jetson's."""
    jetson_linux: str = ""
    """`R36.4.3`, of `/etc/nv_tegra_release`."""
    power_mode: str = ""
    """Name of nvpmodel's mode on a Jetson."""
    governor: str = ""
    """Clock policy of the first core."""
    gpu: str = ""
    gpu_driver: str = ""
    gpu_power_limit: str = ""
    gpu_clock_limit: str = ""
    compute_capability: str = ""
    versions: dict[str, str] = {}


def describe_machine(root: Path = Path("/")) -> BenchMachine:
    """Describe this machine; its files are read below `root`."""
    smi = _ask_nvidia_smi()
    return BenchMachine(
        system=platform.platform(),
        processor=_read_processor(root),
        python=platform.python_version(),
        board=_read(root / "proc/device-tree/model").strip("\0\n "),
        jetson_linux=_read_jetson_linux(root),
        power_mode=_read_power_mode(root),
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        gpu=smi.get("name", ""),
        gpu_driver=smi.get("driver_version", ""),
        gpu_power_limit=smi.get("power.limit", ""),
        gpu_clock_limit=smi.get("clocks.max.sm", ""),
        compute_capability=find_compute_capability()[0] or "",
        versions={"ureca": __version__, **_find_versions()},
    )


def _read_processor(root: Path) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor()


def _read_jetson_linux(root: Path) -> str:
    """`# R36 (release), REVISION: 4.3, GCID: ...` is `R36.4.3`."""
    text = _read(root / "etc/nv_tegra_release")
    found = re.search(r"(R\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _read_power_mode(root: Path) -> str:
    """Name of the mode whose number `/var/lib/nvpmodel/status` holds, by `/etc/nvpmodel.conf`."""
    found = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if not found:
        return ""
    names = re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", _read(root / "etc/nvpmodel.conf"))
    number = int(found[1])
    return next((name for key, name in names if int(key) == number), f"mode {number}")


def _ask_nvidia_smi() -> dict[str, str]:
    """What the driver's own command says of the first GPU; empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    wanted = [f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(  # noqa: S603  (the driver's command, fixed arguments)
            [program, *wanted], capture_output=True, text=True, timeout=_SMI_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if len(values) != len(_SMI):
        return {}
    return {k: v for k, v in zip(_SMI, values, strict=True) if not v.startswith("[")}


def _find_versions() -> dict[str, str]:
    installed = {each.name: each.version for each in metadata.distributions()}
    return {name: installed[name] for name in _VERSIONS if name in installed}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf8", "replace")
    except OSError:
        return ""
