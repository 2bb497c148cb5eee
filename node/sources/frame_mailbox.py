"""Passes frames from the source to the step thread: one slot per stream; the newest frame wins."""

from __future__ import annotations

import threading

from ureca.datatypes import Frame
from ureca.node.counters import NodeCounters


class Mailbox:
    """Holds the newest frame of each stream. A frame that is replaced is counted as
    `superseded`.
    """

    def __init__(self, counters: NodeCounters, *, max_streams: int = 1) -> None:
        self._counters = counters
        self._max_streams = max_streams
        self._frames: dict[str, tuple[Frame, bool]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._woken = False

    def put(self, frame: Frame, *, keep: bool = False, wait: bool = False) -> bool:
        """Store `frame` and return True; the caller has counted it.

        A frame stored with `keep` is not replaced: later ones wait until it is taken. With `wait`
        the call blocks until the slot is free, so nothing is lost. False after `close`.
        """
        with self._changed:
            while not self._closed and self._must_wait(frame.stream, wait=wait):
                self._changed.wait()
            if self._closed:
                self._counters.frame_dropped("shutdown")
                return False
            if frame.stream in self._frames:
                self._counters.frame_dropped("superseded")
            elif len(self._frames) >= self._max_streams:
                self._counters.frame_dropped("busy")
                return True
            self._frames[frame.stream] = (frame, keep)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> Frame | None:
        """The frame of the stream that has waited longest; None after `timeout_s`, `wake` or
        `close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._woken or self._closed, timeout_s)
            self._woken = False
            if not self._frames:
                return None
            stream = next(iter(self._frames))
            frame, _ = self._frames.pop(stream)
            self._changed.notify_all()
            return frame

    def wake(self) -> None:
        """Let a waiting `take` return, because something other than a frame needs attention."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further frames and drop what was not taken, counted as `shutdown`."""
        with self._changed:
            self._closed = True
            if self._frames:
                self._counters.frame_dropped("shutdown", len(self._frames))
            self._frames.clear()
            self._changed.notify_all()

    def is_empty(self) -> bool:
        """True when every frame was taken."""
        with self._changed:
            return not self._frames

    def _must_wait(self, stream: str, *, wait: bool) -> bool:
        held = self._frames.get(stream)
        return held is not None and (wait or held[1])
