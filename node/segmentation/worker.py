"""Where keyframes are cut: on a thread of its own, or in the caller.

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

from ureca.native_threads import NativeThread
from ureca.node.segmentation.keyframe_segmenter import Cutter, Cutting, KeyWish

_JOIN_S = 2.0
_log = logging.getLogger(__name__)


class Cutters(Protocol):
    """One keyframe is in flight at most; every `submit` leads to one result, unless it hangs."""

    def start(self) -> None:
        """Called once, before all other methods."""

    def submit(self, wish: KeyWish) -> None:
        """Cut this keyframe."""

    def results(self) -> list[Cutting]:
        """What has been cut since the last call."""

    def close(self) -> None:
        """Cut no more."""


class InlineCutters:
    """Segments in the caller; the result is available at the next poll."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._done: list[Cutting] = []

    def start(self) -> None:
        """See `Cutters`."""

    def submit(self, wish: KeyWish) -> None:
        """See `Cutters`."""
        self._done.append(answered(self._cutter, wish))

    def results(self) -> list[Cutting]:
        """See `Cutters`."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """See `Cutters`."""


class ThreadCutters:
    """Cuts on the thread `ureca-segment`."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._wishes: queue.Queue[KeyWish | None] = queue.Queue(maxsize=2)
        self._done: deque[Cutting] = deque()
        self._stopping = threading.Event()
        self._thread = NativeThread(target=self._loop, name="ureca-segment")

    def start(self) -> None:
        """See `Cutters`; starts the thread."""
        self._thread.start()

    def submit(self, wish: KeyWish) -> None:
        """See `Cutters`."""
        self._wishes.put_nowait(wish)

    def results(self) -> list[Cutting]:
        """See `Cutters`."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """See `Cutters`: stops the model, and leaves behind one that does not stop in time."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._cutter.stop()
        self._wishes.put(None)
        if not self._thread.end(_JOIN_S):
            _log.warning("the segmenter is still at work on a keyframe; its thread is left behind")

    def _loop(self) -> None:
        while (wish := self._wishes.get()) is not None and not self._stopping.is_set():
            self._done.append(answered(self._cutter, wish, is_stopped=self._stopping.is_set))


def answered(
    cutter: Cutter, wish: KeyWish, *, is_stopped: Callable[[], bool] = lambda: False
) -> Cutting:
    """The result, or the reason of a failure: a model may fail in any way; the node continues with
    flow.
    """
    try:
        return cutter.cut(wish)
    except Exception as error:  # noqa: BLE001  (see above)
        frame = wish.frame
        if not is_stopped():  # a model that was stopped does fail
            _log.exception("the segmenter failed on frame %d of %s", frame.seq, frame.stream)
        failure = f"{type(error).__name__}: {error!s:.200}"
        return Cutting(frame.stream, frame.seq, failure=failure)
