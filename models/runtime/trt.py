"""TensorRT and TensorRT-RTX: engines ("plans") of a bundle on a CUDA device.

One file serves both packages, and TensorRT 10 and 11, which share the few calls used here. It was
run with fakes of the packages only: no NVIDIA device has executed it yet (`docs/export.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import BundleError, EngineError
from ureca.models.runtime.cuda import Buffer, CudaDevice
from ureca.models.runtime.gpu.plan_replay import Execution, Executions
from ureca.models.runtime.graph_backend import Values

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python packages by the `runtime` of a bundle."""
EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}

Shapes = Mapping[str, tuple[int, ...]]


class PlanRunner:
    """Implements `graph_backend.Runner` over one plan per graph."""

    def __init__(self, trt: Any, paths: Mapping[str, Path], device: CudaDevice) -> None:
        self._device = device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive its engines
        self._plans = {name: self._open(trt, path) for name, path in paths.items()}

    def put(self, array: npt.NDArray[Any]) -> Buffer:
        """Copy the array to the device."""
        return self._device.upload(array)

    def run(self, graph: str, outputs: Sequence[str], feeds: Values) -> dict[str, Buffer]:
        """Enqueue one graph. It completes when an output is read."""
        values = self._plans[graph].run(feeds)
        return {name: values[name] for name in outputs}

    def refill(self, value: Buffer, source: npt.NDArray[Any] | Buffer) -> None:
        """Write to a buffer that is kept."""
        self._device.refill(value, source)

    def run_into(
        self, graph: str, outputs: Sequence[str], feeds: Values, into: Values
    ) -> dict[str, Buffer]:
        """As `run`, into kept buffers; recorded as a CUDA graph where the device can."""
        values = self._plans[graph].run_into(feeds, into)
        return {name: values[name] for name in outputs}

    def _open(self, trt: Any, path: Path) -> TensorRtPlan:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BundleError(
                f"{trt.__name__} {trt.__version__} cannot open {path} on this device: build it "
                "here with ureca export CHECKPOINT --runtime tensorrt (or tensorrt-rtx)"
            )
        return TensorRtPlan(trt, engine, self._device, name=path.stem)


class TensorRtPlan:
    """One engine with an execution context per optimisation profile."""

    def __init__(self, trt: Any, engine: Any, device: CudaDevice, *, name: str) -> None:
        self._engine, self._device, self._name = engine, device, name
        tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        of = trt.TensorIOMode.INPUT
        self._inputs = [t for t in tensors if engine.get_tensor_mode(t) == of]
        self._outputs = [t for t in tensors if engine.get_tensor_mode(t) != of]
        self._dtypes = {t: np.dtype(trt.nptype(engine.get_tensor_dtype(t))) for t in tensors}
        self._ranges = [self._read_profile(i) for i in range(engine.num_optimization_profiles)]
        self._strategy = _find_strategy(trt)
        self._contexts = [self._get_context(i) for i in range(len(self._ranges))]
        self._executions = Executions(device)

    def run(self, feeds: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Run once and return all outputs. Every address is set again, because buffers change."""
        context = self._contexts[self._choose_profile({n: feeds[n].shape for n in self._inputs})]
        results = self._bind(context, feeds, {})
        self._enqueue(context)
        return results

    def run_into(
        self, feeds: Mapping[str, Buffer], into: Mapping[str, Buffer]
    ) -> Mapping[str, Buffer]:
        """Run once into the buffers `into`. Other outputs are overwritten when the same buffers
        come again.
        """
        mine = {n: feeds[n] for n in self._inputs}

        def bind() -> Execution:
            context = self._get_context(self._choose_profile({n: b.shape for n, b in mine.items()}))
            results = self._bind(context, mine, into)
            return Execution(self._device, partial(self._enqueue, context), results)

        return self._executions.run({**mine, **into}, bind).results

    def _bind(
        self, context: Any, feeds: Mapping[str, Buffer], into: Mapping[str, Buffer]
    ) -> dict[str, Buffer]:
        """Set shapes and addresses. Outputs that `into` lacks get new buffers."""
        for name in self._inputs:
            self._check_dtype(name, feeds[name])
            if not context.set_input_shape(name, feeds[name].shape):
                raise EngineError(f"the plan {self._name!r} refuses {name} {feeds[name].shape}")
            context.set_tensor_address(name, feeds[name].address)
        results = {}
        for name in self._outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            results[name] = into.get(name) or self._device.empty(shape, self._dtypes[name])
            if (results[name].shape, results[name].dtype) != (shape, self._dtypes[name]):
                raise EngineError(f"the plan {self._name!r} gives {name} as {shape}")
            context.set_tensor_address(name, results[name].address)
        return results

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise EngineError(f"the plan {self._name!r} failed to run: see TensorRT's log above")

    def _read_profile(self, index: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Read the minimum and maximum shape of every input."""
        shapes = {n: self._engine.get_tensor_profile_shape(n, index) for n in self._inputs}
        return {n: (tuple(least), tuple(most)) for n, (least, _, most) in shapes.items()}

    def _get_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(*self._strategy)
        if context is None or not context.set_optimization_profile_async(
            profile, self._device.stream
        ):
            raise EngineError(
                f"the plan {self._name!r} got no execution context for profile {profile}: the "
                "device may be out of memory"
            )
        return context

    def _choose_profile(self, shapes: Shapes) -> int:
        """Return the first profile that accepts `shapes`; `lm` has its own for the prefix pass."""
        for index, ranges in enumerate(self._ranges):
            if all(_is_within(shape, *ranges[name]) for name, shape in shapes.items()):
                return index
        raise EngineError(
            f"the plan {self._name!r} takes inputs within {self._ranges}, got {dict(shapes)}: "
            "export with larger limits (--max-regions)"
        )

    def _check_dtype(self, name: str, feed: Buffer) -> None:
        if feed.dtype != self._dtypes[name]:
            raise EngineError(
                f"the plan {self._name!r} expects {name} as {self._dtypes[name]}, got {feed.dtype}"
            )


def _find_strategy(trt: Any) -> tuple[Any, ...]:
    """Ask for the working memory of one profile, not of the largest, where the package can."""
    kinds = getattr(trt, "ExecutionContextAllocationStrategy", None)
    return () if kinds is None else (kinds.ON_PROFILE_CHANGE,)


def _is_within(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return len(shape) == len(least) and all(
        low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
    )
