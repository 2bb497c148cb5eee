"""Replays executions of a plan as CUDA graphs: one launch in place of one for each kernel.

An execution is recorded when the same addresses and shapes come a second time. It keeps an
execution context of its own, as NVIDIA advises, because a recording holds what its context held.
Where a device or a plan cannot be recorded, the plan runs as before.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ureca.errors import EngineError
from ureca.models.runtime.cuda import Buffer, CudaDevice

MOST_RECORDINGS = 32
"""Of one plan. Each has the working memory of an execution context; later ones run unrecorded."""

_log = logging.getLogger(__name__)
Key = tuple[tuple[str, tuple[int, ...], int], ...]


class Execution:
    """One way to run a plan: fixed inputs and outputs, bound once. `enqueue` runs it."""

    def __init__(
        self, device: CudaDevice, enqueue: Callable[[], None], results: Mapping[str, Buffer]
    ) -> None:
        self.results = results
        self._device, self._enqueue = device, enqueue
        self._runs = 0
        self._recording: Any = None

    def run(self, *, may_record: bool) -> bool:
        """Run once; return False when it turned out that it cannot be recorded."""
        self._runs += 1
        if self._recording is not None:
            self._device.launch(self._recording)
            return True
        if not may_record or self._runs == 1:  # TensorRT wants one run before it is recorded
            self._enqueue()
            return True
        try:
            with _no_collection():
                self._recording = self._device.record(self._enqueue)
        except EngineError as error:
            _log.warning("a plan runs without CUDA graphs: %s", error)
            self._enqueue()
            return False
        self._device.launch(self._recording)
        return True


class Executions:
    """The executions of one plan by the addresses and shapes that they were bound to."""

    def __init__(self, device: CudaDevice) -> None:
        self._known: dict[Key, Execution] = {}
        self._may_record = device.can_record

    def run(self, bound: Mapping[str, Buffer], bind: Callable[[], Execution]) -> Execution:
        """Run the execution over `bound`; `bind` makes it where it is new."""
        key = tuple((name, each.shape, each.address) for name, each in sorted(bound.items()))
        execution = self._known.get(key)
        if execution is None:
            execution = bind()
            if len(self._known) < MOST_RECORDINGS:
                self._known[key] = execution
        self._may_record = execution.run(may_record=self._may_record) and self._may_record
        return execution


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the garbage collector off: memory that it frees would be freed in the recording."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
