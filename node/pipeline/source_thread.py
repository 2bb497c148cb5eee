"""The source thread: puts every frame into the mailbox, until the source ends or fails."""

from __future__ import annotations

import logging
import threading

from ureca.errors import UrecaError
from ureca.native_threads import NativeThread
from ureca.node.monitoring.health import Vitals
from ureca.node.sources.base import FrameSource
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.node.sources.prompt_file import Prompts

_JOIN_S = 10.0
"""Longer than every wait of a source that ends by itself."""
_log = logging.getLogger(__name__)


class Feeder:
    """Reads frames of `source` on the thread `ureca-source`. `ended` is set after the last one;
    `vitals.failure` has the reason if the source failed.
    """

    def __init__(
        self, source: FrameSource, mailbox: Mailbox, prompts: Prompts, vitals: Vitals
    ) -> None:
        self.ended = threading.Event()
        self._source, self._mailbox = source, mailbox
        self._prompts, self._vitals = prompts, vitals
        self._thread = NativeThread(target=self._run, name="ureca-source")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, if it was started; one that does not end in time is left behind."""
        if not self._thread.end(_JOIN_S):
            _log.error("the source did not return from its frame; its thread is left behind")

    def _run(self) -> None:
        try:
            self._feed()
        except UrecaError as error:
            self._vitals.failure = error
            _log.error("the source failed: %s", error)
        except Exception as error:  # noqa: BLE001  (a source may fail in any way; it is reported)
            self._vitals.failure = UrecaError(f"it failed: {type(error).__name__}: {error}")
            _log.exception("the source failed")
        self.ended.set()
        self._mailbox.wake()

    def _feed(self) -> None:
        for frame in self._source.frames():
            # A prompt is drawn on this very picture.
            keep = frame.seq in self._prompts or bool(frame.prompts)
            if not self._mailbox.put(frame, keep=keep, wait=self._source.is_lossless):
                return
