"""The running node: its threads, and the order in which they start and stop.

    ureca-source ──► mailbox ──► ureca-step ──► ureca-caption
                                     └► event queue ◄┘
                                             └──► ureca-io ──► subscribers, sinks

Everything is drained in that order at the end: the source stops, what was accepted is finished (or
aborted after a grace period), regions end, the last events are sent, sockets close, threads are
joined.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import zmq

from ureca.clock import Clock
from ureca.datatypes import EngineInfo
from ureca.engine import Engine
from ureca.errors import UrecaError
from ureca.node.access import allow_unencrypted, open_gate
from ureca.node.captioning.batch import BatchCaptioner
from ureca.node.captioning.captioner import CaptionWriter, ThreadCaptioner
from ureca.node.captioning.output_filter import RejectedCaptions
from ureca.node.config import NodeConfig
from ureca.node.counters import Balance, NodeCounters
from ureca.node.monitoring.health import Vitals, failure_of
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.pipeline.step_thread import StepThread
from ureca.node.publishing.event_queue import EventQueue
from ureca.node.publishing.publisher import Sink
from ureca.node.publishing.socket_thread import open_sockets
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.recording_wrappers import (
    RecordingCaptioner,
    RecordingEngine,
    RecordingPipeline,
    RecordingSegmentationWorker,
)
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.recording.step_log import StepRecorder
from ureca.node.rendering.renderer import Renderer
from ureca.node.requests.handler import Control
from ureca.node.requests.preview import Previews
from ureca.node.requests.replies import Asker
from ureca.node.segmentation.factory import open_cutters
from ureca.node.sources.base import FrameSource, SourceStatus, Wait
from ureca.node.sources.factory import open_sources
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import AnyEvent, Heartbeat
from ureca.protocol.preview import PictureArgs
from ureca.security.authenticator import CurveAuthenticator

State = Literal["starting", "running", "paused", "draining", "stopped"]
OpenSources = Callable[[NodeConfig, Clock, NodeCounters, Wait], Sequence[FrameSource]]


def _open_configured(
    config: NodeConfig, clock: Clock, books: NodeCounters, wait: Wait
) -> Sequence[FrameSource]:
    return open_sources(config, clock=clock, books=books, wait=wait)


class Node:
    """Builds the parts, runs them, stops them. Construct, `start`, `wait`, and always `close`; a
    `with` block closes it.
    """

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        *,
        clock: Clock,
        prompts: Prompts | None = None,
        sinks: Iterable[Sink] = (),
        open_frames: OpenSources = _open_configured,
        recorder: Recorder | RecordSwitch | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.books = NodeCounters()
        self.session_id = uuid.uuid4().bytes
        self._config = config
        self._clock = clock
        self._info = engine.info
        self._state: State = "starting"
        self._stop = threading.Event()
        self._prompts = prompts or {}
        segmentation_worker = open_cutters(
            config.segmenter
        )  # first: a missing model leaves nothing behind
        sources = open_frames(config, clock, self.books, self._stop.wait)
        self._source_status = SourceStatus(sources)
        self._mailbox = Mailbox(self.books, max_streams=config.limits.max_streams)
        self._event_queue = EventQueue(config.limits.outbox, clock=clock, books=self.books)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: CurveAuthenticator | None = None
        try:
            self._gate = open_gate(self._context, config.security)
            self._open_sockets(tuple(sinks))
        except UrecaError:
            self._event_queue.close()
            self._close_context()
            raise
        self._recorder, self._renderer = recorder, renderer
        self._rejected_captions = RejectedCaptions()
        make: Callable[..., Pipeline] = Pipeline
        if recorder is not None:
            step_recorder = StepRecorder(recorder)
            engine, make = (
                RecordingEngine(engine, step_recorder),
                partial(RecordingPipeline, step_recorder=step_recorder),
            )
        self._captioner: BatchCaptioner = ThreadCaptioner(
            CaptionWriter(engine, config.caption, clock, self._rejected_captions)
        )
        if recorder is not None:
            self._captioner = RecordingCaptioner(self._captioner, step_recorder)
        self._segmentation_worker = (
            segmentation_worker
            if recorder is None or not segmentation_worker
            else RecordingSegmentationWorker(segmentation_worker, step_recorder)
        )
        self._pipeline = make(
            config,
            self._captioner,
            clock=clock,
            books=self.books,
            prompts=self._prompts,
            segmentation_worker=self._segmentation_worker,
            emit=self._event_queue.put,
            wake=self._mailbox.wake,
        )
        self._previews = Previews(self._pipeline.views, clock)
        self._vitals = self._watch_over()
        self._source_thread = SourceThread(
            sources, self._mailbox, self._prompts, self._vitals, self._stop
        )
        self._step_thread = StepThread(
            self._pipeline,
            self._mailbox,
            self._source_thread,
            self._source_status,
            self.books,
            clock,
            self._stop,
            renderer=renderer,
        )

    def _watch_over(self) -> Vitals:
        """Everything that counts or complains."""
        vitals = Vitals(self.books, self._info, self._clock, self._pipeline.streams)
        vitals.counters.append(self._rejected_captions.counters)
        for part in (self._recorder, self._renderer):
            if part is not None:
                vitals.counters.append(part.counters)
                vitals.complaints.append(failure_of(part))
        vitals.counters.append(self._source_status.counters)
        vitals.complaints.append(self._source_status.reasons)
        if self._gate is not None:
            vitals.counters.append(self._gate.counters)
        vitals.complaints.append(self._pipeline.reasons)
        return vitals

    def _open_sockets(self, sinks: tuple[Sink, ...]) -> None:
        guard = allow_unencrypted if self._gate is None else self._gate.guard
        control = Control(
            self._config,
            self,
            session_id=self.session_id,
            clock=self._clock,
            answer=self._event_queue.answer,
        )
        self._publisher, self._io = open_sockets(
            self._context,
            self._config.publish,
            max_regions=self._config.limits.max_streams * self._config.limits.max_regions,
            session_id=self.session_id,
            clock=self._clock,
            books=self.books,
            sinks=sinks,
            guard=guard,
            control=control,
            event_queue=self._event_queue,
            heartbeat=self.heartbeat,
            gate=self._gate,
        )

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all threads."""
        if self._recorder is not None:
            self._recorder.start(self._event_queue.put)
        if self._renderer is not None:
            self._renderer.start()
        self._previews.start()
        self._io.start()
        self._state = "running"
        self._step_thread.start()
        self._source_thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; True when everything that was accepted has ended."""
        return self._step_thread.done.wait(timeout_s)

    def stop(self) -> None:
        """Begin an orderly end; a second call aborts what is still in flight. Any thread may call
        it.
        """
        if self._stop.is_set():
            self._step_thread.hurry.set()
        self._stop.set()
        self._mailbox.wake()

    def close(self) -> None:
        """Stop if need be, join all threads, send the last events, close the sockets.

        May be called more than once. A source, captioner or segmenter that does not come back from
        a native call within seconds is left behind (`ureca.native_threads`); its requests end.
        """
        if self._state == "stopped":
            return
        self._stop.set()
        self._mailbox.wake()
        self._step_thread.join()
        self._source_thread.join()
        self._captioner.close()
        if self._segmentation_worker is not None:
            self._segmentation_worker.close()
        self._previews.close()
        self._state = "stopped"
        self._io.stop()
        self._event_queue.close()
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
        if self._state != "running":
            return self._state
        return "draining" if self._step_thread.is_draining else self._pipeline.halt or "running"

    def balance(self) -> Balance:
        """A snapshot of the counters."""
        return self.books.balance()

    def heartbeat(self) -> Heartbeat:
        """Current state, counters and streams."""
        return self._vitals.heartbeat(self.state)

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not well."""
        return self._vitals.reasons()

    @property
    def failure(self) -> UrecaError | None:
        """Why the sources ended before their time, if they did."""
        return self._vitals.failure

    def last_events(self) -> list[AnyEvent]:
        """The last word on every live region; only the socket thread may call this."""
        return self._publisher.last.events()

    @property
    def recordings(self) -> RecordSwitch | None:
        """The folder for recordings of clients; None if they may not record."""
        return self._recorder if isinstance(self._recorder, RecordSwitch) else None

    def refused(self) -> list[dict[str, Any]]:
        """The latest captions that the output gate kept back."""
        return self._rejected_captions.latest()

    def ask(self, ask: Ask) -> None:
        """Queue a direct request."""
        self._pipeline.ask(ask)

    def order(self, order: Order) -> None:
        """Queue a request that changes regions."""
        self._pipeline.order(order)

    def picture(self, args: PictureArgs, asker: Asker, deadline_ns: int) -> None:
        """Answer with a stream's next picture."""
        self._previews.ask(args, asker, deadline_ns)
