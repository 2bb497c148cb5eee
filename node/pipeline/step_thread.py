"""The step thread: frames from the mailbox into steps, and the orderly end."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.log import RateLimitedLog
from ureca.node.annotated_video.renderer import Renderer
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.sources.base import SourceStatus
from ureca.node.sources.frame_mailbox import Mailbox

_TICK_S = 0.05
_GRACE_S = 3.0
"""How long captions in flight may go on after a stop."""


@dataclass(eq=False)
class StepThread:
    """Runs steps on the thread `ureca-step` until `stop` is set or the sources have ended.

    `hurry` ends the grace of captions in flight; `done` is set when everything that was accepted
    has ended.
    """

    runner: StepRunner
    mailbox: Mailbox
    source_thread: SourceThread
    sources: SourceStatus
    clock: Clock
    stop: threading.Event
    renderer: Renderer | None = None
    hurry: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    is_draining: bool = False

    def __post_init__(self) -> None:
        self._log = RateLimitedLog(logging.getLogger(__name__), self.clock)
        self._thread = threading.Thread(target=self._work, name="ureca-step")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            finished = False
            while not self.stop.is_set() and not (finished := self._is_finished()):
                self._advance(self.mailbox.take(_TICK_S))
            self._drain("source_end" if finished else "shutdown")
        finally:
            self.done.set()

    def _advance(self, frame: Frame | None) -> None:
        if frame is not None:
            self.sources.taken(frame)
        try:
            output = self.runner.step(frame)
            if frame is not None and output.tracks is not None and self.renderer is not None:
                self.renderer.saw(frame, output.tracks)
        except BaseException as error:  # noqa: BLE001  (the node goes on; the log tells)
            name = type(error).__name__
            self._log.warning(name, "a step could not be carried out", error=error)

    def _is_finished(self) -> bool:
        """The sources have ended and everything that they gave was processed and captioned."""
        ended = self.source_thread.ended.is_set() and self.mailbox.is_empty()
        return ended and self.runner.is_idle()

    def _drain(self, reason: str) -> None:
        self.is_draining = True
        self.stop.set()
        self.mailbox.close()
        deadline_ns = self.clock.now_ns() + int(_GRACE_S * 1e9)
        while not self.runner.settle() and self.clock.now_ns() < deadline_ns:
            if self.hurry.wait(_TICK_S):
                break
        self.runner.close(reason)
