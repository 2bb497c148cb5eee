"""Selects keyframes for the segmenter, and passes its results to their streams. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ureca.clock import Clock
from ureca.log import RateLimitedLog
from ureca.node.pipeline.stream import Stream
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest, KeyframeResult

_STUCK_NS = 60_000_000_000
"""A keyframe that takes longer than this is named in `health`."""


class KeyframeSelection:
    """One keyframe at a time, of a stream that has one due when the segmenter is free."""

    def __init__(self, streams: Mapping[str, Stream], clock: Clock) -> None:
        self._streams = streams
        self._since_ns: int | None = None
        self._failures = 0
        self._failure: str | None = None
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)

    def finish(self, results: Sequence[KeyframeResult]) -> None:
        """Hand finished answers to their streams; their next frames take them up."""
        for result in results:
            self._since_ns = None
            self._failure = result.failure
            if result.failure is not None:
                self._failures += 1
                self._log.warning("segmenter", f"the segmenter failed: {result.failure}")
            stream = self._streams.get(result.stream)
            if stream is not None:
                stream.offer(result)

    def select(
        self, stream: Stream, now_ns: int, *, candidates: int = 0, at_once: bool = False
    ) -> KeyframeRequest | None:
        """The keyframe of `stream`, if one is due; then the segmenter is busy until `finish`. For
        `candidates` and `at_once` see `Stream.keyframe`.
        """
        if self._since_ns is not None:
            return None
        keyframe = stream.keyframe(candidates=candidates, at_once=at_once)
        if keyframe is not None:
            self._since_ns = now_ns
        return keyframe

    @property
    def is_busy(self) -> bool:
        """Whether the segmenter has a keyframe."""
        return self._since_ns is not None

    def is_at_work(self, now_ns: int) -> bool:
        """Whether the segmenter has a keyframe and does not hang."""
        return self._since_ns is not None and now_ns - self._since_ns < _STUCK_NS

    def reasons(self, now_ns: int) -> list[str]:
        """Why masks are not what they should be; may be called from any thread."""
        found = []
        since_ns, failure = self._since_ns, self._failure
        if since_ns is not None and now_ns - since_ns > _STUCK_NS:
            waited_s = (now_ns - since_ns) // 1_000_000_000
            found.append(f"the segmenter has not answered for {waited_s} s; masks go on by flow")
        if failure is not None:
            found.append(f"the segmenter failed ({self._failures} times): {failure}")
        return found
