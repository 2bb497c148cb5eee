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
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import zmq

from ureca.clock import Clock
from ureca.datatypes import EngineInfo
from ureca.engine import Engine
from ureca.errors import UrecaError
from ureca.models.runtime.grounding import Grounder
from ureca.node.access import Guard, allow_unencrypted, open_gate
from ureca.node.annotated_video.renderer import Renderer
from ureca.node.assembly import OpenSources, assemble
from ureca.node.config import NodeConfig
from ureca.node.counters import Balance, NodeCounters
from ureca.node.monitoring.found_things import FoundThings
from ureca.node.monitoring.prompt_report import PromptReport
from ureca.node.monitoring.run_report import EventFile
from ureca.node.publishing.socket_thread import open_sockets
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.requests.handler import Control
from ureca.node.sources.base import FrameSource, Wait
from ureca.node.sources.factory import open_sources
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import AnyEvent, EventSink, Heartbeat, Panoptic
from ureca.security.authenticator import CurveAuthenticator

State = Literal["starting", "running", "paused", "draining", "stopped"]


def _open_configured(
    config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
) -> Sequence[FrameSource]:
    return open_sources(config, clock=clock, counters=counters, wait=wait)


class Node:
    """Builds the parts, runs them, stops them. Construct, `start`, `wait`, and always `close`; a
    `with` block closes it. Without a `grounder`, `find` compares words of captions.
    """

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        *,
        clock: Clock,
        prompts: Prompts | None = None,
        grounder: Grounder | None = None,
        sinks: Iterable[EventSink] = (),
        open_frames: OpenSources = _open_configured,
        recorder: Recorder | RecordSwitch | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.counters = NodeCounters()
        self.session_id = uuid.uuid4().bytes
        self._config = config
        self._clock = clock
        self._info = engine.info
        self._state: State = "starting"
        self._stop = threading.Event()
        self._recorder, self._renderer = recorder, renderer
        self._parts = assemble(
            config,
            engine,
            clock=clock,
            counters=self.counters,
            stop=self._stop,
            prompts=prompts or {},
            grounder=grounder,
            open_frames=open_frames,
            recorder=recorder,
            renderer=renderer,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: CurveAuthenticator | None = None
        try:
            self._gate = open_gate(self._context, config.security)
            sinks = tuple(sinks)
            self._open_sockets(sinks)
        except UrecaError:
            self._parts.event_queue.close()
            self._close_context()
            raise
        monitor = self._parts.health_monitor
        monitor.counter_sources.append(self._io.counters)
        monitor.issue_sources.append(self._publisher.reasons)
        monitor.issue_sources += [one.reasons for one in sinks if isinstance(one, EventFile)]
        if self._gate is not None:
            monitor.counter_sources.append(self._gate.counters)

    def _open_sockets(self, sinks: tuple[EventSink, ...]) -> None:
        guard = allow_unencrypted if self._gate is None else self._gate.guard
        control = Control(
            self._config,
            self,
            submit=self._parts.runner.submit,
            previews=self._parts.previews,
            session_id=self.session_id,
            clock=self._clock,
            answer=self._parts.event_queue.answer,
        )
        try:
            self._bind(control, sinks, guard)
        except UrecaError:
            control.close()  # its decoder may run already
            raise

    def _bind(self, control: Control, sinks: tuple[EventSink, ...], guard: Guard) -> None:
        self._publisher, self._io = open_sockets(
            self._context,
            self._config.publish,
            max_regions=self._config.limits.max_streams * self._config.limits.max_regions,
            session_id=self.session_id,
            clock=self._clock,
            counters=self.counters,
            sinks=sinks,
            guard=guard,
            control=control,
            event_queue=self._parts.event_queue,
            heartbeat=self.heartbeat,
            gate=self._gate,
            links=self._parts.links,
        )

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all threads."""
        parts = self._parts
        if self._recorder is not None:
            self._recorder.start(parts.event_queue.put)
        if self._renderer is not None:
            self._renderer.start()
        parts.previews.start()
        self._io.start()
        self._state = "running"
        parts.runner.start()
        parts.step_thread.start()
        parts.source_thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; True when everything that was accepted has ended."""
        return self._parts.step_thread.done.wait(timeout_s)

    def stop(self) -> None:
        """Begin an orderly end; a second call aborts what is still in flight. Any thread may call
        it.
        """
        if self._stop.is_set():
            self._parts.step_thread.hurry.set()
        self._stop.set()
        self._parts.mailbox.wake()

    def close(self) -> None:
        """Stop if need be, join all threads, send the last events, close the sockets.

        May be called more than once. A source, captioner or segmenter that does not come back from
        a native call within seconds is left behind (`ureca.native_threads`); its requests end.
        """
        if self._state == "stopped":
            return
        self._stop.set()
        parts = self._parts
        parts.mailbox.wake()
        parts.step_thread.join()
        parts.source_thread.join()
        parts.captioner.close()
        if parts.segmentation_worker is not None:
            parts.segmentation_worker.close()
        parts.previews.close()
        self._state = "stopped"
        self._io.stop()
        parts.event_queue.close()
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
        """Where the node is in its life; `paused` and `draining` also if a request set this
        mode.
        """
        if self._state != "running":
            return self._state
        if self._parts.step_thread.is_draining:
            return "draining"
        return self._parts.runner.pipeline.run_mode or "running"

    def balance(self) -> Balance:
        """A snapshot of the counters."""
        return self.counters.balance()

    def heartbeat(self) -> Heartbeat:
        """Current state, counters and streams."""
        return self._parts.health_monitor.heartbeat(self.state)

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not well."""
        return self._parts.health_monitor.reasons()

    @property
    def failure(self) -> UrecaError | None:
        """Why the sources ended before their time, if they did."""
        return self._parts.health_monitor.failure

    def found_things(self) -> FoundThings:
        """What the segmenter found by itself."""
        return self._parts.runner.pipeline.found_things()

    def prompt_report(self) -> PromptReport:
        """What became of the prompts that the node was started with."""
        return self._parts.runner.pipeline.prompt_report()

    @property
    def find_by(self) -> str:
        """The measure of `find`."""
        return "likelihood" if self._parts.captioner.can_ground else "caption_words"

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that the captioner answers; those that are off are not among them."""
        off = self._config.caption.attributes_off
        return tuple(name for name in self._parts.captioner.attributes if name not in off)

    def last_events(self) -> list[AnyEvent]:
        """The last word on every live region; only the socket thread may call this."""
        return self._publisher.last.events()

    def panoptic(self, stream: str | None) -> Panoptic | None:
        """The newest segments of a stream; only the socket thread may call this."""
        return self._publisher.panoptic(stream)

    @property
    def recordings(self) -> RecordSwitch | None:
        """The folder for recordings of clients; None if they may not record."""
        return self._recorder if isinstance(self._recorder, RecordSwitch) else None

    def refused(self) -> list[dict[str, Any]]:
        """The latest captions that the output filter rejected."""
        return self._parts.rejected_captions.latest()
