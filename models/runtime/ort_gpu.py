"""ONNX Runtime's CUDA and TensorRT providers. IO binding keeps every value on the device.

Without binding, ONNX Runtime copies each output to the host, including the KV caches. The device is
a row of a table, so the same code runs on the CPU, where it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bundle import GraphSpec, Limits
from ureca.errors import EngineError
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graph_backend import Value, Values
from ureca.models.runtime.ort import PROVIDER, OrtRunner, Provider, Session
from ureca.models.runtime.shape_ranges import build_profiles, compute_shapes, join_ranges

_TENSORRT = "TensorrtExecutionProvider"
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})  # fp32 must mean float32: no TF32


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Execution providers in their order of preference, and the device of inputs and outputs."""

    providers: tuple[Provider, ...]
    device: str


PLACEMENTS: Mapping[str, ProviderChoice] = {
    "cuda": ProviderChoice((_CUDA, PROVIDER), "cuda"),
    "tensorrt": ProviderChoice((_TENSORRT, _CUDA, PROVIDER), "cuda"),
    "cpu": ProviderChoice((PROVIDER,), "cpu"),
}
"""By the `target` of a bundle. `cpu` gains nothing; it is there to prove the path of the others."""


def place_graph(
    where: ProviderChoice, graph: str, spec: GraphSpec, config: CaptionerConfig, limits: Limits
) -> list[Provider]:
    """Return the providers of one graph. TensorRT gets all shape ranges; otherwise it builds again
    for each new shape.
    """
    ranges = join_ranges(build_profiles(graph, config, max_regions=limits.max_regions))
    free = [each for each in spec.inputs if any(isinstance(d, str) for d in each.shape)]
    profiles = {}
    for index, kind in enumerate(("min", "opt", "max")):
        shapes = (f"{e.name}:{'x'.join(map(str, compute_shapes(e, ranges)[index]))}" for e in free)
        profiles[f"trt_profile_{kind}_shapes"] = ",".join(shapes)
    return [(each, profiles) if each == _TENSORRT and free else each for each in where.providers]


class BoundRunner(OrtRunner):
    """Implements `graph_backend.Runner` with inputs and outputs bound to one device."""

    def __init__(self, sessions: Mapping[str, Session], *, device: str) -> None:
        super().__init__(sessions)
        self._device = device

    def put(self, array: npt.NDArray[Any]) -> Value:
        """A copy of the array on the device."""
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def refill(self, value: Value, source: npt.NDArray[Any] | Value) -> None:
        """Write an array or another value into `value`."""
        value.update_inplace(source if isinstance(source, np.ndarray) else source.numpy())

    def run_into(
        self, graph: str, outputs: Sequence[str], feeds: Values, into: Values
    ) -> dict[str, Value]:
        """As `run`, but write the outputs that `into` names to its values."""
        wanted = [*(name for name in outputs if name not in into), *into]
        values = self._run_bound(graph, wanted, feeds, into)
        return {name: values[name] for name in outputs}

    def _run_bound(
        self, graph: str, wanted: list[str], feeds: Values, into: Values
    ) -> dict[str, Value]:
        try:
            values = self._run(self._sessions[graph], wanted, feeds, into)
        except self._errors as error:
            raise EngineError(f"graph {graph!r} failed in place: {error}") from error
        return dict(zip(wanted, values, strict=True))

    def _run(
        self, session: Session, outputs: list[str], feeds: Values, into: Values | None = None
    ) -> Sequence[Value]:
        binding, kept = session.io_binding(), into or {}
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            if name in kept:
                binding.bind_ortvalue_output(name, kept[name])
            else:
                binding.bind_output(name, self._device, 0)
        session.run_with_iobinding(binding)
        values: Sequence[Value] = binding.get_outputs()
        return values
