"""The running node: its threads, and the order in which they start and stop.

    ureca-source ──► mailbox ──► ureca-step ──► ureca-caption
                                     └──► outbox ◄──┘
                                             └──► ureca-io ──► subscribers, sinks

Everything is drained in that order at the end: the source stops, what was accepted is finished (or
aborted after a grace period), regions end, the last events are sent, sockets close, threads are
joined.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import zmq

from ureca.clock import Clock
from ureca.datatypes import EngineInfo, Frame
from ureca.engine import Engine
from ureca.errors import UrecaError
from ureca.events import AnyEvent, Heartbeat
from ureca.node.accounting import Balance, Books
from ureca.node.asks import Ask
from ureca.node.auth import open_gate, unguarded
from ureca.node.captioner import CaptionWriter, ThreadCaptioner
from ureca.node.config import NodeConfig
from ureca.node.control import Control
from ureca.node.gate import Quarantine
from ureca.node.io import IoThread, bind_router
from ureca.node.jobs import Captioner
from ureca.node.mailbox import Mailbox
from ureca.node.orders import Order
from ureca.node.outbox import Outbox
from ureca.node.pipeline import Pipeline
from ureca.node.preview import Previews
from ureca.node.prompts import Prompts
from ureca.node.publisher import Publisher, Sink
from ureca.node.record.recorder import Recorder
from ureca.node.record.switch import RecordSwitch
from ureca.node.record.tape import Notes
from ureca.node.record.taped import TapedCaptioner, TapedCutters, TapedEngine, TapedPipeline
from ureca.node.render.renderer import Renderer
from ureca.node.replies import Asker
from ureca.node.segmenters import open_cutters
from ureca.node.sources import FrameSource, Wait, Watched, open_source
from ureca.pictures import PictureArgs
from ureca.zap import Gate

State = Literal["starting", "running", "paused", "draining", "stopped"]
OpenSource = Callable[[NodeConfig, Clock, Books, Wait], FrameSource]

_TICK_S = 0.05
_GRACE_S = 3.0
"""How long captions in flight may go on after a stop."""
_log = logging.getLogger(__name__)


def _open_configured(config: NodeConfig, clock: Clock, books: Books, wait: Wait) -> FrameSource:
    return open_source(config, clock=clock, books=books, wait=wait)


class Node:
    """Builds the parts, runs them, stops them. Construct, `start`, `wait`, and always `close`."""

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        *,
        clock: Clock,
        prompts: Prompts | None = None,
        sinks: Iterable[Sink] = (),
        open_frames: OpenSource = _open_configured,
        recorder: Recorder | RecordSwitch | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.books = Books()
        self.boot = uuid.uuid4().bytes
        self.failure: UrecaError | None = None
        """Why the source ended before its time, if it did."""
        self._config = config
        self._clock = clock
        self._info = engine.info
        self._state: State = "starting"
        self._started_ns = clock.now_ns()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._done = threading.Event()
        self._source_ended = threading.Event()
        self._prompts = prompts or {}
        cutters = open_cutters(config.segmenter)  # first: a missing model leaves nothing behind
        self._source = open_frames(config, clock, self.books, self._stop.wait)
        self._watched = self._source if isinstance(self._source, Watched) else None
        self._mailbox = Mailbox(self.books, max_streams=config.limits.max_streams)
        self._outbox = Outbox(config.limits.outbox, clock=clock, books=self.books)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: Gate | None = None
        try:
            self._gate = open_gate(self._context, config.security)
            self._open_sockets(tuple(sinks))
        except UrecaError:
            self._outbox.close()
            self._close_context()
            raise
        self._recorder, self._renderer = recorder, renderer
        self._quarantine = Quarantine()
        make: Callable[..., Pipeline] = Pipeline
        if recorder is not None:
            notes = Notes(recorder)
            engine, make = TapedEngine(engine, notes), partial(TapedPipeline, notes=notes)
        self._captioner: Captioner = ThreadCaptioner(
            CaptionWriter(engine, config.caption, clock, self._quarantine)
        )
        if recorder is not None:
            self._captioner = TapedCaptioner(self._captioner, notes)
        self._cutters = cutters if recorder is None or not cutters else TapedCutters(cutters, notes)
        self._pipeline = make(
            config,
            self._captioner,
            clock=clock,
            books=self.books,
            prompts=self._prompts,
            cutters=self._cutters,
            emit=self._outbox.put,
            wake=self._mailbox.wake,
        )
        self._previews = Previews(self._pipeline.views, clock)
        self._source_thread = threading.Thread(target=self._feed, name="ureca-source")
        self._step_thread = threading.Thread(target=self._work, name="ureca-step")

    def _open_sockets(self, sinks: tuple[Sink, ...]) -> None:
        publish, gate = self._config.publish, self._gate
        guard = unguarded if gate is None else gate.guard
        self._publisher = Publisher(
            self._context,
            publish,
            boot=self.boot,
            clock=self._clock,
            books=self.books,
            sinks=sinks,
            guard=guard,
        )
        try:
            router = bind_router(self._context, publish.requests, guard)
        except UrecaError:
            self._publisher.close()
            raise
        control = Control(
            self._config, self, boot=self.boot, clock=self._clock, answer=self._outbox.answer
        )
        self._io = IoThread(
            self._publisher,
            router,
            control,
            self._outbox,
            heartbeat=self.heartbeat,
            heartbeat_s=publish.heartbeat_s,
            clock=self._clock,
            gate=gate,
        )

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads."""
        if self._recorder is not None:
            self._recorder.start(self._outbox.put)
        if self._renderer is not None:
            self._renderer.start()
        self._previews.start()
        self._io.start()
        self._state = "running"
        self._step_thread.start()
        self._source_thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; True when everything that was accepted has ended."""
        return self._done.wait(timeout_s)

    def stop(self) -> None:
        """Begin an orderly end; a second call aborts what is still in flight. Any thread may call
        it.
        """
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()
        self._mailbox.wake()

    def close(self) -> None:
        """Stop if need be, join all threads, send the last events, close the sockets.

        May be called more than once.
        """
        if self._state == "stopped":
            return
        self._stop.set()
        self._mailbox.wake()
        for thread in (self._step_thread, self._source_thread):
            if thread.ident is not None:
                thread.join()
        self._captioner.close()
        if self._cutters is not None:
            self._cutters.close()
        self._previews.close()
        self._state = "stopped"
        self._io.stop()
        self._outbox.close()
        self._close_context()

    def _close_context(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    # --- what control asks -----------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        """The engine's names and limits."""
        return self._info

    @property
    def state(self) -> State:
        """Where the node is in its life; `paused` and `draining` also where a request halted it."""
        return (self._pipeline.halt or self._state) if self._state == "running" else self._state

    def balance(self) -> Balance:
        """The books now."""
        return self.books.balance()

    def heartbeat(self) -> Heartbeat:
        """State, books and streams now."""
        return Heartbeat(
            uptime_ms=(self._clock.now_ns() - self._started_ns) // 1_000_000,
            state=self.state,
            counters={
                **self.balance().counters(),
                **self._quarantine.counters(),
                **(self._recorder.counters() if self._recorder is not None else {}),
                **(self._renderer.counters() if self._renderer is not None else {}),
                **(self._watched.counters() if self._watched is not None else {}),
                **(self._gate.counters() if self._gate is not None else {}),
            },
            streams=dict(self._pipeline.streams()),
            model=self._info.model,
            bundle_sha=self._info.bundle_sha,
        )

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not well."""
        balance = self.balance()
        found = []
        if self.failure is not None:
            found.append(f"source: {self.failure}")
        if self._recorder is not None and self._recorder.failure is not None:
            found.append(self._recorder.failure)
        if self._renderer is not None and self._renderer.failure is not None:
            found.append(self._renderer.failure)
        found += self._watched.reasons() if self._watched is not None else ()
        found += self._pipeline.reasons()
        if balance.frames_dropped.get("internal"):
            found.append("frames failed inside the node; see its log")
        if balance.requests_ended.get("error", 0) > balance.requests_ended.get("final", 0):
            found.append("most captions fail")
        return tuple(found)

    def last_events(self) -> list[AnyEvent]:
        """The last word on every live region; only the socket thread may call this."""
        return self._publisher.last.events()

    @property
    def recordings(self) -> RecordSwitch | None:
        """Where clients' recordings go; None when this node makes none for them."""
        return self._recorder if isinstance(self._recorder, RecordSwitch) else None

    def refused(self) -> list[dict[str, Any]]:
        """The latest captions that the output gate kept back."""
        return self._quarantine.latest()

    def ask(self, ask: Ask) -> None:
        """Queue a direct request."""
        self._pipeline.ask(ask)

    def order(self, order: Order) -> None:
        """Queue a request that changes regions."""
        self._pipeline.order(order)

    def picture(self, args: PictureArgs, asker: Asker, deadline_ns: int) -> None:
        """Answer with a stream's next picture."""
        self._previews.ask(args, asker, deadline_ns)

    # --- threads ---------------------------------------------------------------------------------

    def _feed(self) -> None:
        try:
            for frame in self._source.frames():
                # A prompt is drawn on this very picture.
                keep = frame.seq in self._prompts or bool(frame.prompts)
                if not self._mailbox.put(frame, keep=keep, wait=self._source.is_lossless):
                    break
        except UrecaError as error:
            self.failure = error
            _log.error("the source failed: %s", error)
        except Exception as error:  # noqa: BLE001  (a source may fail in any way; it is reported)
            self.failure = UrecaError(f"the source failed: {type(error).__name__}: {error}")
            _log.exception("the source failed")
        self._source_ended.set()
        self._mailbox.wake()

    def _work(self) -> None:
        try:
            finished = False
            while not self._stop.is_set() and not (finished := self._is_finished()):
                self._advance(self._mailbox.take(_TICK_S))
            self._drain("source_end" if finished else "shutdown")
        finally:
            self._done.set()

    def _advance(self, frame: Frame | None) -> None:
        now_ns = self._clock.now_ns()
        if frame is not None and self._watched is not None:
            self._watched.taken(frame)
        try:
            if frame is None:
                self._pipeline.tick(now_ns)
            else:
                self._pipeline.step(frame, now_ns)
                self._render(frame)
        except Exception:  # noqa: BLE001  (costs one frame, is counted, shows in `health`)
            if frame is not None:
                self.books.frame_dropped("internal")
            _log.exception("a frame failed inside the node")

    def _render(self, frame: Frame) -> None:
        view = self._pipeline.views().get(frame.stream) if self._renderer is not None else None
        if view is not None and view[0] is frame and self._renderer is not None:
            self._renderer.saw(*view)

    def _is_finished(self) -> bool:
        """The source has ended and everything that it gave was processed and captioned."""
        ended = self._source_ended.is_set() and self._mailbox.is_empty()
        return ended and self._pipeline.is_idle()

    def _drain(self, reason: str) -> None:
        self._state = "draining"
        self._stop.set()
        self._mailbox.close()
        deadline_ns = self._clock.now_ns() + int(_GRACE_S * 1e9)
        while not self._pipeline.settle() and self._clock.now_ns() < deadline_ns:
            if self._hurry.wait(_TICK_S):
                break
        self._pipeline.close(reason, self._clock.now_ns())
