"""AOTInductor: graphs compiled to machine code, for hosts that have torch and nothing else.

torch is loaded only if a bundle asks for this runtime. Compiled code assumes the shapes and strides
of contiguous tensors and checks neither. Another layout gives wrong logits silently, so every
tensor is made contiguous before it is passed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ureca.bundle import GraphSpec
from ureca.errors import BundleError, EngineError
from ureca.extras import require
from ureca.models.runtime.graph_backend import Value, Values
from ureca.models.runtime.graph_names import GATHER

EXTRA = "train"


class AotiRunner:
    """Implements `graph_backend.Runner` over torch tensors on the CPU."""

    def __init__(
        self, paths: Mapping[str, Path], specs: Mapping[str, GraphSpec], *, threads: int
    ) -> None:
        self._torch = require("torch", extra=EXTRA)
        self._torch.set_num_threads(threads)
        self._specs = specs
        self._graphs = {name: _open(path) for name, path in paths.items()}

    def put(self, array: npt.NDArray[Any]) -> Value:
        """The array as a tensor that shares its memory."""
        return self._torch.from_numpy(array)

    def run(self, graph: str, outputs: Sequence[str], feeds: Values) -> dict[str, Value]:
        """Run one compiled graph; rows are gathered by torch itself."""
        with self._torch.inference_mode():
            if graph == GATHER:
                rows, *own = feeds.values()
                kept = [cache.index_select(1, rows) for cache in own]
                return dict(zip(outputs, kept, strict=True))
            spec = self._specs[graph]
            self._check_shapes(graph, feeds)
            answer = self._graphs[graph](*(feeds[each.name].contiguous() for each in spec.inputs))
            values = answer if isinstance(answer, tuple) else (answer,)
            named = dict(zip((each.name for each in spec.outputs), values, strict=True))
            return {name: named[name] for name in outputs}

    def _check_shapes(self, graph: str, feeds: Values) -> None:
        """Check shapes first: compiled code reads past the end of a tensor that is too small."""
        for spec in self._specs[graph].inputs:
            shape, kind = tuple(feeds[spec.name].shape), str(feeds[spec.name].dtype)
            fits = len(shape) == len(spec.shape) and all(
                isinstance(want, str) or want == got
                for want, got in zip(spec.shape, shape, strict=True)
            )
            if not fits or kind != f"torch.{spec.dtype}":
                raise EngineError(
                    f"graph {graph!r} expects {spec.name} as {spec.dtype} {list(spec.shape)}, got "
                    f"{kind} {list(shape)}"
                )


def get_torch_version() -> str:
    """Version of the installed torch."""
    return str(require("torch", extra=EXTRA).__version__)


def describe_cpu_target() -> str:
    """What compiled code depends on: machine and vector instructions, such as `x86_64-avx2`."""
    capability = require("torch", extra=EXTRA).backends.cpu.get_cpu_capability()
    return f"{platform.machine()}-{capability.lower()}"


def _open(path: Path) -> Any:  # torch's loader class is private
    inductor = require("torch._inductor", extra=EXTRA)
    try:
        return inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        raise BundleError(
            f"torch {get_torch_version()} cannot open {path}: {error}; compile it on this machine: "
            "ureca export CHECKPOINT --runtime aoti"
        ) from error
