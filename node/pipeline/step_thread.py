"""The step thread: frames from the mailbox through the pipeline, and the orderly end."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.rendering.renderer import Renderer
from ureca.node.sources.base import SourceStatus
from ureca.node.sources.frame_mailbox import Mailbox

_TICK_S = 0.05
_GRACE_S = 3.0
"""How long captions in flight may go on after a stop."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class StepThread:
    """Runs `pipeline` on the thread `ureca-step` until `stop` is set or the sources have ended.

    `hurry` ends the grace of captions in flight; `done` is set when everything that was accepted
    has ended.
    """

    pipeline: Pipeline
    mailbox: Mailbox
    source_thread: SourceThread
    sources: SourceStatus
    books: NodeCounters
    clock: Clock
    stop: threading.Event
    renderer: Renderer | None = None
    hurry: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    is_draining: bool = False

    def __post_init__(self) -> None:
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
        now_ns = self.clock.now_ns()
        if frame is not None:
            self.sources.taken(frame)
        try:
            if frame is None:
                self.pipeline.tick(now_ns)
            else:
                self.pipeline.step(frame, now_ns)
                self._render(frame)
        except Exception:  # noqa: BLE001  (costs one frame, is counted, shows in `health`)
            if frame is not None:
                self.books.frame_dropped("internal")
            _log.exception("a frame failed inside the node")

    def _render(self, frame: Frame) -> None:
        view = self.pipeline.views().get(frame.stream) if self.renderer is not None else None
        if view is not None and view[0] is frame and self.renderer is not None:
            self.renderer.saw(*view)

    def _is_finished(self) -> bool:
        """The sources have ended and everything that they gave was processed and captioned."""
        ended = self.source_thread.ended.is_set() and self.mailbox.is_empty()
        return ended and self.pipeline.is_idle()

    def _drain(self, reason: str) -> None:
        self.is_draining = True
        self.stop.set()
        self.mailbox.close()
        deadline_ns = self.clock.now_ns() + int(_GRACE_S * 1e9)
        while not self.pipeline.settle() and self.clock.now_ns() < deadline_ns:
            if self.hurry.wait(_TICK_S):
                break
        self.pipeline.close(reason, self.clock.now_ns())
