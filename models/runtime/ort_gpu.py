"""ONNX Runtime's CUDA and TensorRT providers: every value stays on the device by IO binding.

Without binding, ONNX Runtime copies each output to the host, the KV caches with it. The device is a
row of a table, so the same code runs on the CPU, where it can be tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ureca.bundle import GraphSpec, Limits
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graph_backend import Value, Values
from ureca.models.runtime.ort import PROVIDER, OrtRunner, Provider, Session
from ureca.models.runtime.shape_ranges import joined, profiles, sizes

_TENSORRT = "TensorrtExecutionProvider"
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})  # fp32 is to mean float32


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


def placed(
    where: ProviderChoice, graph: str, spec: GraphSpec, config: CaptionerConfig, limits: Limits
) -> list[Provider]:
    """The providers of one graph; TensorRT's is told all shapes, or it builds anew for each."""
    ranges = joined(profiles(graph, config, max_regions=limits.max_regions))
    free = [each for each in spec.inputs if any(isinstance(d, str) for d in each.shape)]
    told = {}
    for index, kind in enumerate(("min", "opt", "max")):
        shapes = (f"{e.name}:{'x'.join(map(str, sizes(e, ranges)[index]))}" for e in free)
        told[f"trt_profile_{kind}_shapes"] = ",".join(shapes)
    return [(each, told) if each == _TENSORRT and free else each for each in where.providers]


class BoundRunner(OrtRunner):
    """Implements `graph_backend.Runner` with inputs and outputs bound to one device."""

    def __init__(self, sessions: Mapping[str, Session], *, device: str) -> None:
        super().__init__(sessions)
        self._device = device

    def put(self, array: npt.NDArray[Any]) -> Value:
        """A copy of the array on the device."""
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _run(self, session: Session, outputs: list[str], feeds: Values) -> Sequence[Value]:
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, self._device, 0)
        session.run_with_iobinding(binding)
        values: Sequence[Value] = binding.get_outputs()
        return values
