"""Segments keyframes on a separate thread, or in the caller.

A segmenter takes seconds on a small machine. The step thread leaves it one keyframe at a time and
finds the answer in a queue; it never waits.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ureca.clock import MonotonicClock
from ureca.log import RateLimitedLog
from ureca.native_threads import NativeThread, ends_the_process
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeResult,
    KeyframeSegmenter,
)

_JOIN_S = 2.0
_log = logging.getLogger(__name__)
_failures = RateLimitedLog(_log, MonotonicClock())


class SegmentationWorker(Protocol):
    """One keyframe is in flight at most; every `submit` leads to one result, unless it hangs."""

    def start(self) -> None:
        """Called once, before all other methods."""

    def submit(self, request: KeyframeRequest) -> None:
        """Cut this keyframe."""

    def results(self) -> list[KeyframeResult]:
        """What has been cut since the last call."""

    def close(self) -> None:
        """Cut no more."""


class InlineSegmentationWorker:
    """Segments in the caller; the result is available at the next poll."""

    def __init__(self, keyframe_segmenter: KeyframeSegmenter) -> None:
        self._keyframe_segmenter = keyframe_segmenter
        self._done: list[KeyframeResult] = []

    def start(self) -> None:
        """See `SegmentationWorker`."""

    def submit(self, request: KeyframeRequest) -> None:
        """See `SegmentationWorker`."""
        self._done.append(run_request(self._keyframe_segmenter, request))

    def results(self) -> list[KeyframeResult]:
        """See `SegmentationWorker`."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """See `SegmentationWorker`."""


class ThreadSegmentationWorker:
    """Cuts on the thread `ureca-segment`."""

    def __init__(self, keyframe_segmenter: KeyframeSegmenter) -> None:
        self._keyframe_segmenter = keyframe_segmenter
        self._requests: queue.Queue[KeyframeRequest | None] = queue.Queue(maxsize=2)
        self._done: deque[KeyframeResult] = deque()
        self._stopping = threading.Event()
        self._thread = NativeThread(target=self._loop, name="ureca-segment")

    def start(self) -> None:
        """See `SegmentationWorker`; starts the thread."""
        self._thread.start()

    def submit(self, request: KeyframeRequest) -> None:
        """See `SegmentationWorker`."""
        self._requests.put_nowait(request)

    def results(self) -> list[KeyframeResult]:
        """See `SegmentationWorker`."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """See `SegmentationWorker`: stops the model, and leaves behind one that does not stop in
        time.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._keyframe_segmenter.stop()
        self._requests.put(None)
        if not self._thread.end(_JOIN_S):
            _log.warning("the segmenter is still at work on a keyframe; its thread is left behind")

    def _loop(self) -> None:
        while (request := self._requests.get()) is not None and not self._stopping.is_set():
            self._done.append(
                run_request(self._keyframe_segmenter, request, is_stopped=self._stopping.is_set)
            )


def run_request(
    keyframe_segmenter: KeyframeSegmenter,
    request: KeyframeRequest,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> KeyframeResult:
    """The result, or the reason of a failure: a model may fail in any way; the node continues with
    flow.
    """
    try:
        return keyframe_segmenter.segment(request)
    except BaseException as error:
        if ends_the_process(error):
            raise
        frame = request.frame
        if not is_stopped():  # a model that was stopped does fail
            text = f"the segmenter failed on frame {frame.seq} of {frame.stream}"
            _failures.warning(type(error).__name__, text, error=error)
        failure = f"{type(error).__name__}: {error!s:.200}"
        return KeyframeResult(frame.stream, frame.seq, failure=failure)
