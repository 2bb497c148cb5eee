"""Device memory through `cuda-bindings`, NVIDIA's own bindings of the driver: 8 MB, no toolkit.

The driver's functions and not the runtime's, so that one version of the package serves old and new
drivers. Memory belongs to one stream, on which everything happens in order: freeing a buffer that a
graph still reads is safe.
"""

from __future__ import annotations

import math
import weakref
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError, MissingExtraError
from ureca.extras import require

EXTRA = "cuda"


@dataclass(frozen=True, eq=False)
class Buffer:
    """A contiguous array on the device."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    device: CudaDevice

    def numpy(self) -> npt.NDArray[Any]:
        """A copy on the host, once everything before it has run."""
        return self.device.download(self)


class CudaDevice:
    """The first CUDA device, its stream and its memory.

    `driver` is `cuda.bindings.driver` or anything with the ten functions of it that are used here.
    Raises `EngineError` without a device.
    """

    def __init__(self, driver: ModuleType | Any | None = None) -> None:
        self._driver = driver or _driver()
        reason = _initialised(self._driver)
        if reason:
            raise EngineError(f"expected a CUDA device, but {reason}")
        self._context = None
        self._context = self._do("cuDevicePrimaryCtxRetain", 0)
        self._stream = self._do("cuStreamCreate", 1)  # 1: does not wait for the default stream

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT wants it."""
        return int(self._stream)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """A new buffer of unknown content; an empty one has an address too."""
        kind = np.dtype(dtype)
        size = max(math.prod(shape) * kind.itemsize, 1)
        pointer = self._do("cuMemAllocAsync", size, self._stream)
        buffer = Buffer(shape, kind, int(pointer), self)
        weakref.finalize(buffer, self._free, pointer)
        return buffer

    def upload(self, array: npt.NDArray[Any]) -> Buffer:
        """A copy of a contiguous array on the device."""
        buffer = self.empty(array.shape, array.dtype)
        if array.size:
            source = array.ctypes.data  # pageable: the driver has read it when the call returns
            self._do("cuMemcpyHtoDAsync", buffer.address, source, array.nbytes, self._stream)
        return buffer

    def download(self, buffer: Buffer) -> npt.NDArray[Any]:
        """Wait for the stream and copy a buffer to the host."""
        array = np.empty(buffer.shape, buffer.dtype)
        if array.size:
            target = array.ctypes.data
            self._do("cuMemcpyDtoHAsync", target, buffer.address, array.nbytes, self._stream)
        self._do("cuStreamSynchronize", self._stream)
        return array

    def _free(self, pointer: Any) -> None:
        with suppress(EngineError):  # at exit the driver may be gone, and its memory with it
            self._do("cuMemFreeAsync", pointer, self._stream)

    def _do(self, name: str, *arguments: Any) -> Any:
        """Call the driver; the context is set every time because any thread may come."""
        if self._context is not None:
            _call(self._driver, "cuCtxSetCurrent", self._context)
        return _call(self._driver, name, *arguments)


def compute_capability(driver: ModuleType | Any | None = None) -> tuple[str | None, str]:
    """(`sm_89` of the first CUDA device or None, why there is none). Never raises."""
    try:
        driver = driver or _driver()
    except MissingExtraError as error:
        return None, f"no CUDA device can be seen: {error}"
    reason = _initialised(driver)
    if reason:
        return None, reason
    kinds = driver.CUdevice_attribute
    major, minor = (
        _call(driver, "cuDeviceGetAttribute", kind, 0)
        for kind in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return f"sm_{major}{minor}", ""


def _initialised(driver: Any) -> str:
    """Why there is no device; empty when there is."""
    try:
        _call(driver, "cuInit", 0)
        return "" if _call(driver, "cuDeviceGetCount") else "the driver found no CUDA device"
    except (EngineError, RuntimeError) as error:  # the driver's library is missing
        return f"there is no CUDA driver ({error})"


def _call(driver: Any, name: str, *arguments: Any) -> Any:
    """Every function returns its status and what it was asked for."""
    status, *result = getattr(driver, name)(*arguments)
    if int(status):
        raise EngineError(f"CUDA: {name} failed with {status!r}")
    return result[0] if result else None


def _driver() -> ModuleType:
    return require("cuda.bindings.driver", extra=EXTRA)
