"""Selects keyframes for the segmenter, and passes its results to their streams. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ureca.clock import Clock
from ureca.log import RateLimitedLog
from ureca.node.pipeline.stream import Stream
from ureca.node.segmentation.worker import SegmentationWorker

_STUCK_NS = 60_000_000_000
"""A keyframe that takes longer than this is named in `health`."""


class Keyframes:
    """One keyframe at a time, of a stream that has one due when the segmenter is free; none without
    `segmentation_worker`.
    """

    def __init__(
        self,
        segmentation_worker: SegmentationWorker | None,
        streams: Mapping[str, Stream],
        clock: Clock,
    ) -> None:
        self._segmentation_worker = segmentation_worker
        self._streams = streams
        self._since_ns: int | None = None
        self._failures = 0
        self._failure: str | None = None
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        if segmentation_worker is not None:
            segmentation_worker.start()

    def take(self) -> None:
        """Hand finished answers to their streams; their next frames take them up."""
        for keyframe_result in (
            self._segmentation_worker.results() if self._segmentation_worker is not None else ()
        ):
            self._since_ns = None
            self._failure = keyframe_result.failure
            if keyframe_result.failure is not None:
                self._failures += 1
                self._log.warning("segmenter", f"the segmenter failed: {keyframe_result.failure}")
            stream = self._streams.get(keyframe_result.stream)
            if stream is not None:
                stream.corrections.offer(keyframe_result)

    def offer(self, stream: Stream, now_ns: int) -> None:
        """`stream` has a new frame: it may be the next keyframe."""
        if self._segmentation_worker is None or self._since_ns is not None:
            return
        keyframe_request = stream.keyframe()
        if keyframe_request is not None:
            self._since_ns = now_ns
            self._segmentation_worker.submit(keyframe_request)

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
