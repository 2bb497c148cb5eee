"""Checks which bundles this process can open: their runtimes, versions and devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ureca.bundle import BundleManifest
from ureca.errors import BundleError, MissingExtraError
from ureca.extras import require
from ureca.models.config import CaptionerConfig
from ureca.models.runtime import aoti, ort
from ureca.models.runtime.cuda import CudaDevice, find_compute_capability
from ureca.models.runtime.graph_backend import Runner
from ureca.models.runtime.graph_names import GATHER, GRAPHS
from ureca.models.runtime.ort_gpu import PLACEMENTS, BoundRunner, place_graph
from ureca.models.runtime.trt import EXTRAS, PACKAGES, PlanRunner

ONNX, ORT_GPU, AOTI = "onnxruntime", "ort-gpu", "aoti"
TENSORRT, TENSORRT_RTX = PACKAGES
OPTIONS = {"onnx": ONNX, **{name: name for name in (ORT_GPU, TENSORRT, TENSORRT_RTX, AOTI)}}
"""Maps `ureca export --runtime` to the `runtime` of a manifest."""

TRANSFORMERS = "transformers"
"""Runtime of `ureca-mllm` bundles, which hold tensors and no graphs
(`models/mllm/mllm_engine.py`).
"""
MLLM_CONFIG = "mllm.json"
"""A folder with this file is a checkpoint of `ureca-mllm`."""

FIXED_RUNTIMES = frozenset({ORT_GPU, TENSORRT, TENSORRT_RTX})
"""Runtimes whose runners write to values that exist (`gpu.static_backend`)."""
BUCKET_PROFILES = frozenset({TENSORRT})
"""Runtimes that choose kernels when they build: they get an optimisation profile for each bucket.
TensorRT-RTX chooses them on the device, for the shapes that come.
"""

ANY = "any"
RTX_ANY = "sm_80+"
"""Target of an RTX plan that names no device: every device from Ampere on, except Jetson's."""
_NO_RTX = frozenset({"sm_87", "sm_90", "sm_100", "sm_101", "sm_103", "sm_110"})
"""Jetson and data centres: TensorRT-RTX 1.7 has no code for them."""


def list_graph_names(runtime: str) -> tuple[str, ...]:
    """List the graphs that a bundle of `runtime` must hold. torch gathers rows without a graph."""
    return tuple(name for name in GRAPHS if runtime != AOTI or name != GATHER)


def get_runtime_version(runtime: str) -> str:
    """Return the version of the installed runtime. Raises `MissingExtraError`, or `BundleError` for
    an unknown runtime.
    """
    if runtime in {ONNX, ORT_GPU}:
        return ort.get_ort_version()
    if runtime == AOTI:
        return aoti.get_torch_version()
    if runtime not in PACKAGES:
        raise BundleError(f"expected a runtime of {list(OPTIONS.values())}, got {runtime!r}")
    return str(require(PACKAGES[runtime], extra=EXTRAS[runtime]).__version__)


def check_compatibility(folder: Path, manifest: BundleManifest) -> None:
    """Raise `BundleError` for a bundle of another runtime, version or device, with the remedy."""
    runtime, target = manifest.runtime, manifest.target
    made = f"{folder} was made for {runtime} {manifest.runtime_version} on {target}"
    try:
        here = get_runtime_version(runtime)
    except (BundleError, MissingExtraError) as error:
        raise BundleError(
            f"{made}, which is not here: {error}. {_format_remedy(folder)}"
        ) from error
    fits, device = _check_target(runtime, target)
    # Plans and machine code need the version that made them; ONNX graphs run in any version.
    if not fits or (runtime in {AOTI, *PACKAGES} and here != manifest.runtime_version):
        again = next(key for key, name in OPTIONS.items() if name == runtime) if fits else "auto"
        raise BundleError(
            f"{made}; this process has {runtime} {here} on {device}. "
            f"{_format_remedy(folder, again)}"
        )


def open_runner(
    manifest: BundleManifest, paths: Mapping[str, Path], config: CaptionerConfig, *, threads: int
) -> Runner:
    """Open the graphs of a bundle that passed `check_compatibility` in its runtime."""
    runtime, specs = manifest.runtime, manifest.graphs
    if runtime == AOTI:
        return aoti.AotiRunner(paths, specs, threads=threads)
    if runtime in PACKAGES:
        return PlanRunner(require(PACKAGES[runtime], extra=EXTRAS[runtime]), paths, CudaDevice())
    if runtime == ONNX:
        return ort.OrtRunner({n: ort.open_session(p, threads=threads) for n, p in paths.items()})
    where = PLACEMENTS[manifest.target]
    sessions = {}
    for name, path in paths.items():
        providers = place_graph(where, name, specs[name], config, manifest.limits)
        sessions[name] = ort.open_session(path, threads=threads, providers=providers)
    return BoundRunner(sessions, device=where.device)


def is_rtx_target_supported(target: str, device: str | None) -> bool:
    """Whether an RTX plan for `target` runs on the `sm_XX` of a device."""
    if device is None or device in _NO_RTX:
        return False
    return (
        _parse_capability(device) >= _parse_capability(RTX_ANY)
        if target == RTX_ANY
        else device == target
    )


def _check_target(runtime: str, target: str) -> tuple[bool, str]:
    """Return (whether a bundle for `target` can run here, a description of this machine)."""
    if runtime == ONNX:
        return target == ANY, "the CPU"
    if runtime == ORT_GPU:
        return target in PLACEMENTS, f"targets {', '.join(PLACEMENTS)}"
    if runtime == AOTI:
        return target == aoti.describe_cpu_target(), aoti.describe_cpu_target()
    device, reason = find_compute_capability()
    fits = is_rtx_target_supported(target, device) if runtime == TENSORRT_RTX else device == target
    return fits, device or f"no device: {reason}"


def _parse_capability(target: str) -> int:
    found = re.fullmatch(r"sm_(\d+)\+?", target)
    return int(found[1]) if found else 0


def _format_remedy(folder: Path, runtime: str = "auto") -> str:
    return f"Make one for it: ureca export CHECKPOINT -o {folder} --runtime {runtime}"
