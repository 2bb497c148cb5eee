"""Manages device memory through `cuda-bindings`, NVIDIA's bindings of the driver: 8 MB, no toolkit.

It calls the driver and not the runtime library, so that one version of the package serves old and
new drivers. Memory belongs to one stream, on which everything happens in order, so it is safe to
free a buffer that a graph still reads.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError, MissingExtraError
from ureca.extras import require

EXTRA = "cuda"
_RECORDING = (
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
    "cuGraphInstantiate",
    "cuGraphLaunch",
)


@dataclass(frozen=True, eq=False)
class Buffer:
    """A contiguous array on the device."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    device: CudaDevice

    def numpy(self) -> npt.NDArray[Any]:
        """Copy to the host, after everything before it has run."""
        return self.device.download(self)


@dataclass(eq=False)
class _Pinned:
    """Page-locked memory of the host; `used_at` counts the waits before its last copy began."""

    address: int
    array: npt.NDArray[np.uint8]
    used_at: int = -1


@dataclass(frozen=True, eq=False)
class _Recording:
    """A CUDA graph that can be launched."""

    handle: Any


class CudaDevice:
    """The first CUDA device, its stream and its memory.

    `driver` is `cuda.bindings.driver` or an object with the functions that are used here.
    Raises `EngineError` without a device.
    """

    def __init__(self, driver: ModuleType | Any | None = None) -> None:
        self._driver = driver or _import_driver()
        reason = _initialise(self._driver)
        if reason:
            raise EngineError(f"expected a CUDA device, but {reason}")
        self._context = None
        self._context = self._call("cuDevicePrimaryCtxRetain", 0)
        self._stream = self._call("cuStreamCreate", 1)  # 1: does not wait for the default stream
        self._syncs = 0
        self._pinned: dict[int, _Pinned] = {}

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT expects it."""
        return int(self._stream)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """Allocate a buffer of undefined content. An empty buffer has an address, too."""
        kind = np.dtype(dtype)
        size = max(math.prod(shape) * kind.itemsize, 1)
        pointer = self._call("cuMemAllocAsync", size, self._stream)
        buffer = Buffer(shape, kind, int(pointer), self)
        weakref.finalize(buffer, self._free, pointer)
        return buffer

    @property
    def can_record(self) -> bool:
        """Whether the driver has CUDA graphs."""
        return all(hasattr(self._driver, name) for name in _RECORDING)

    def refill(self, buffer: Buffer, source: npt.NDArray[Any] | Buffer) -> None:
        """Write a contiguous array or another buffer to `buffer`, which has its shape and type.

        An array goes through page-locked memory of the buffer's own: the device reads that by
        itself, while pageable memory is copied by the driver first. Raises `EngineError` when the
        source does not fit.
        """
        if (source.shape, source.dtype) != (buffer.shape, buffer.dtype):
            raise EngineError(
                f"expected {buffer.dtype} {buffer.shape} for a buffer that is kept, got "
                f"{source.dtype} {source.shape}"
            )
        size = math.prod(buffer.shape) * buffer.dtype.itemsize
        if not size:
            return
        if isinstance(source, Buffer):
            copy = (buffer.address, source.address, size, self._stream)
            self._call("cuMemcpyDtoDAsync", *copy)
            return
        host = self._find_pinned(buffer, size)
        host.array[:size] = np.frombuffer(source, np.uint8)
        self._call("cuMemcpyHtoDAsync", buffer.address, host.address, size, self._stream)
        host.used_at = self._syncs

    def record(self, work: Callable[[], None]) -> Any:
        """Record what `work` enqueues as a CUDA graph, without running it. Raises `EngineError`
        where the device cannot.
        """
        modes = self._driver.CUstreamCaptureMode
        mode = modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            with suppress(EngineError):  # the stream must leave the capture
                self._call("cuStreamEndCapture", self._stream)
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        recording = _Recording(self._call("cuGraphInstantiate", graph, 0))
        self._call("cuGraphDestroy", graph)
        weakref.finalize(recording, self._drop_recording, recording.handle)
        return recording

    def launch(self, recording: Any) -> None:
        """Run a recording on the stream."""
        self._call("cuGraphLaunch", recording.handle, self._stream)

    def upload(self, array: npt.NDArray[Any]) -> Buffer:
        """Copy a contiguous array to the device."""
        buffer = self.empty(array.shape, array.dtype)
        if array.size:
            source = (
                array.ctypes.data
            )  # pageable memory: the driver has read it when the call returns
            self._call("cuMemcpyHtoDAsync", buffer.address, source, array.nbytes, self._stream)
        return buffer

    def download(self, buffer: Buffer) -> npt.NDArray[Any]:
        """Wait for the stream and copy a buffer to the host."""
        array = np.empty(buffer.shape, buffer.dtype)
        if array.size:
            target = array.ctypes.data
            self._call("cuMemcpyDtoHAsync", target, buffer.address, array.nbytes, self._stream)
        self._call("cuStreamSynchronize", self._stream)
        self._syncs += 1
        return array

    def _find_pinned(self, buffer: Buffer, size: int) -> _Pinned:
        """Return the page-locked memory of a buffer. What it held last has been read."""
        host = self._pinned.get(buffer.address)
        if host is None:
            address = int(self._call("cuMemHostAlloc", size, 0))
            area = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            host = self._pinned[buffer.address] = _Pinned(address, area)
            weakref.finalize(buffer, self._free_pinned, buffer.address)
        elif host.used_at == self._syncs:
            self._call("cuStreamSynchronize", self._stream)
            self._syncs += 1
        return host

    def _free_pinned(self, key: int) -> None:
        with suppress(EngineError):
            self._call("cuStreamSynchronize", self._stream)
            self._call("cuMemFreeHost", self._pinned.pop(key).address)

    def _drop_recording(self, handle: Any) -> None:
        with suppress(EngineError):
            self._call("cuGraphExecDestroy", handle)

    def _free(self, pointer: Any) -> None:
        with suppress(EngineError):  # at exit the driver may be gone, and its memory with it
            self._call("cuMemFreeAsync", pointer, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver. The context is set every time because any thread may call."""
        if self._context is not None:
            _call_driver(self._driver, "cuCtxSetCurrent", self._context)
        return _call_driver(self._driver, name, *arguments)


def find_compute_capability(driver: ModuleType | Any | None = None) -> tuple[str | None, str]:
    """Return (`sm_89` of the first CUDA device or None, why there is none). Never raises."""
    try:
        driver = driver or _import_driver()
    except MissingExtraError as error:
        return None, f"no CUDA device can be seen: {error}"
    reason = _initialise(driver)
    if reason:
        return None, reason
    kinds = driver.CUdevice_attribute
    major, minor = (
        _call_driver(driver, "cuDeviceGetAttribute", kind, 0)
        for kind in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return f"sm_{major}{minor}", ""


def _initialise(driver: Any) -> str:
    """Initialise the driver; return why there is no device, or an empty string."""
    try:
        _call_driver(driver, "cuInit", 0)
        return "" if _call_driver(driver, "cuDeviceGetCount") else "the driver found no CUDA device"
    except (EngineError, RuntimeError) as error:  # the driver's library is missing
        return f"there is no CUDA driver ({error})"


def _call_driver(driver: Any, name: str, *arguments: Any) -> Any:
    """Call a driver function and check its status. Every function returns its status and its
    results.
    """
    status, *result = getattr(driver, name)(*arguments)
    if int(status):
        raise EngineError(f"CUDA: {name} failed with {status!r}")
    return result[0] if result else None


def _import_driver() -> ModuleType:
    return require("cuda.bindings.driver", extra=EXTRA)
