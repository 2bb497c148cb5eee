"""Selects runtime and precision of an export. Impossible choices are refused; `auto` gives its
reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec

import onnxruntime

from ureca.errors import ConfigError
from ureca.export.config import DISTRIBUTIONS, TORCH_TENSORRT, ExportConfig
from ureca.models.runtime.compatibility import RTX_ANY, is_rtx_target_supported
from ureca.models.runtime.cuda import find_compute_capability
from ureca.models.runtime.ort_gpu import PLACEMENTS
from ureca.models.runtime.trt import PACKAGES

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("int8", "fp32"),
    "ort-gpu": ("fp16", "fp32"),
    "tensorrt": ("fp16", "fp32"),
    "tensorrt-rtx": ("fp16", "fp32"),
    "aoti": ("fp32",),
}
"""The precisions of each runtime. The first is the default."""
GPU = ("ort-gpu", "tensorrt", "tensorrt-rtx")
EXPERIMENTAL = GPU
"""Runtimes that never ran on a device of theirs; `ureca export --help` says so."""
_MODELOPT = (
    "it needs QDQ graphs from nvidia-modelopt, whose ONNX part replaces onnxruntime and onnx by "
    "older builds with CUDA and cannot be tried without a GPU (docs/export.md)"
)
_WHY_NOT: Mapping[tuple[str, str], str] = {
    ("onnx", "fp16"): "processors compute float16 slower than float32 (measured on x86)",
    ("onnx", "int4"): "4-bit weights are slower than int8 from 8 regions on (measured)",
    ("aoti", "int8"): "AOTInductor compiles the float graphs; int8 on a CPU is what onnx is for",
    ("aoti", "fp16"): "processors compute float16 slower than float32 (measured on x86)",
    ("aoti", "int4"): "AOTInductor compiles the float graphs",
    **{(runtime, kind): _MODELOPT for runtime in GPU for kind in ("int8", "int4")},
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine can use on this machine: packages, and the `sm_XX` of a CUDA device or why
    there is none.
    """

    device: str | None
    no_device: str
    packages: frozenset[str]

    @classmethod
    def inspect(cls) -> Machine:
        """Inspect this process's machine."""
        device, reason = find_compute_capability()
        found = {name for name in PACKAGES.values() if find_spec(name)}
        found |= {name for name in DISTRIBUTIONS.values() if _is_installed(name)}
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            found.add("onnxruntime-gpu")
        return cls(device, reason, frozenset(found))


def choose_runtime(machine: Machine) -> tuple[str, str]:
    """Return (runtime, reason) of `--runtime auto`: the most specialised runtime that can run
    here.
    """
    device, packages = machine.device, machine.packages
    if device is None:
        return "onnx", f"{machine.no_device}; int8 in ONNX Runtime is the fastest measured on CPUs"
    if "tensorrt" in packages:
        return "tensorrt", f"a CUDA device ({device}) and tensorrt are here"
    if "tensorrt_rtx" in packages and is_rtx_target_supported(RTX_ANY, device):
        return "tensorrt-rtx", f"tensorrt_rtx is here and supports {device}; tensorrt is not"
    if "onnxruntime-gpu" in packages:
        return "ort-gpu", f"onnxruntime has CUDA for {device}; no TensorRT for it is installed"
    return "onnx", (
        f"there is a CUDA device ({device}) but nothing to use it: pip install 'ureca[tensorrt]' "
        "(Jetson: JetPack's own), 'ureca[rtx]' or 'ureca[gpu]', and export again"
    )


def resolve_config(config: ExportConfig, machine: Machine) -> tuple[ExportConfig, str]:
    """Return `config` with every default filled in, and the choice in words. Raises
    `ConfigError`.
    """
    asked = config.runtime
    runtime, why = choose_runtime(machine) if asked == "auto" else (asked, "as asked")
    precision = config.precision or PRECISIONS[runtime][0]
    _check_precision(runtime, precision)
    target = _resolve_target(runtime, config.target, machine)
    if config.builder == TORCH_TENSORRT:
        _check_torch_tensorrt(runtime, target, config, machine)
    buckets = config.buckets
    if buckets is None:
        buckets = _powers_of_two(config.max_regions) if runtime in GPU else ()
    chosen = {"runtime": runtime, "precision": precision, "target": target, "buckets": buckets}
    by = f", built by {config.builder}" if config.builder == TORCH_TENSORRT else ""
    said = f"runtime {runtime}, {precision}, for {target}{by}: {why}"
    return replace(config, **chosen), said  # type: ignore[arg-type]  # checked against the table


def why_not_runnable(config: ExportConfig, machine: Machine) -> str:
    """Return why a resolved export cannot run on this machine; empty if it can."""
    if config.runtime not in GPU or config.target == "cpu":
        return ""
    if machine.device is None:
        return machine.no_device
    if config.runtime == "tensorrt-rtx" and not is_rtx_target_supported(
        str(config.target), machine.device
    ):
        return f"it is for {config.target}, this device is {machine.device}"
    return ""


def _check_torch_tensorrt(
    runtime: str, target: str, config: ExportConfig, machine: Machine
) -> None:
    """Refuse what torch-tensorrt cannot build, before any work."""
    if runtime not in DISTRIBUTIONS:
        kinds = " or ".join(DISTRIBUTIONS)
        raise ConfigError(
            f"--builder torch-tensorrt makes plans: expected --runtime {kinds}, got {runtime}"
        )
    name = DISTRIBUTIONS[runtime]
    if name not in machine.packages:
        raise ConfigError(
            f"--builder torch-tensorrt for {runtime} needs {name}, which is not installed: in an "
            f"environment of its own, pip install 'ureca[{name}]'; --builder onnx needs it not"
        )
    if machine.device is None:
        raise ConfigError(
            f"torch-tensorrt asks the CUDA device while it builds, and here {machine.no_device}: "
            "run this export on the device; --builder onnx builds tensorrt-rtx without one"
        )
    if runtime == "tensorrt-rtx" and target != RTX_ANY:
        raise ConfigError(
            f"torch-tensorrt cannot build for one device: expected --target {RTX_ANY}, got "
            f"{target}; --builder onnx can"
        )
    if config.static_cache:
        raise ConfigError(
            "torch-tensorrt has no converter for caches that regions share (its own takes a batch "
            "of one): export --static-cache with --builder onnx"
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_precision(runtime: str, precision: str) -> None:
    if precision not in PRECISIONS[runtime]:
        raise ConfigError(
            f"{runtime} cannot be exported in {precision}: {_WHY_NOT[runtime, precision]}. Choose "
            f"--precision {' or '.join(PRECISIONS[runtime])}"
        )


def _resolve_target(runtime: str, asked: str | None, machine: Machine) -> str:
    """Return the target on which the bundle will run."""
    allowed: tuple[str, ...] = ("this machine",)
    if runtime == "tensorrt":
        if machine.device is None:
            raise ConfigError(
                f"TensorRT builds on the device that it builds for, and here {machine.no_device}: "
                "run this export there; --runtime tensorrt-rtx builds without one"
            )
        allowed = (machine.device,)
    elif runtime == "tensorrt-rtx":
        allowed = (RTX_ANY, "sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
    elif runtime == "ort-gpu":
        allowed = tuple(PLACEMENTS)
    if asked not in {None, *allowed}:
        raise ConfigError(f"--target of {runtime} can be {', '.join(allowed)}; got {asked}")
    return asked or allowed[0]


def _powers_of_two(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and the largest batch."""
    return (*(2**i for i in range((largest - 1).bit_length())), largest)
