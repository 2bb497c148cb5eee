"""The source threads: one per source, from the source into the mailbox, until all have ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial

from ureca.errors import UrecaError
from ureca.native_threads import NativeThread
from ureca.node.monitoring.health import HealthMonitor
from ureca.node.pipeline.start_prompts import StartPrompts
from ureca.node.sources.base import FrameSource
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.node.sources.prompt_file import Prompts

_JOIN_S = 10.0
"""For all threads; longer than every wait of a source that ends by itself."""
_log = logging.getLogger(__name__)


class SourceThread:
    """Reads each of `sources` on a thread of its own. The end or failure of one source does not end
    the others; `ended` is set when the last one has ended.

    Failures are in `health_monitor.source_failures`. The first one becomes
    `health_monitor.failure` when all sources have ended and `stop` is not set.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        mailbox: Mailbox,
        prompts: Prompts,
        health_monitor: HealthMonitor,
        stop: threading.Event,
    ) -> None:
        self.ended = threading.Event()
        self._mailbox, self._prompts = mailbox, prompts
        self._health_monitor, self._stop = health_monitor, stop
        self._lock = threading.Lock()
        self._reading = len(sources)
        self._threads = [
            NativeThread(
                target=partial(self._run, source),
                name="ureca-source" if len(sources) == 1 else f"ureca-source-{place}",
            )
            for place, source in enumerate(sources)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for their end, if they were started; one that does not end in time is left
        behind.
        """
        until_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            if not thread.end(max(0.0, until_s - time.monotonic())):
                _log.error("%s did not return from its frame; it is left behind", thread.name)

    def _run(self, source: FrameSource) -> None:
        try:
            self._feed(source)
        except UrecaError as error:
            self._health_monitor.source_failures.append(error)
            _log.error("the source failed: %s", error)
        except Exception as error:  # noqa: BLE001  (a source may fail in any way; it is reported)
            failure = UrecaError(f"it failed: {type(error).__name__}: {error}")
            self._health_monitor.source_failures.append(failure)
            _log.exception("the source failed")
        self._end()

    def _feed(self, source: FrameSource) -> None:
        prompts = StartPrompts(self._prompts) if self._prompts else None
        for frame in source.frames():
            # A prompt is drawn on this very picture.
            is_due = prompts is not None and bool(prompts.due(frame))
            keep = is_due or bool(frame.prompts or frame.texts)
            if not self._mailbox.put(frame, keep=keep, wait=source.is_lossless):
                return

    def _end(self) -> None:
        """One source has ended."""
        with self._lock:
            self._reading -= 1
            if self._reading:
                return
        if self._health_monitor.source_failures and not self._stop.is_set():
            self._health_monitor.failure = self._health_monitor.source_failures[0]
        self.ended.set()
        self._mailbox.wake()
