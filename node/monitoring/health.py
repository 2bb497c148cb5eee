"""The state of the node: counters for heartbeats, and the reasons of `health`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ureca.clock import Clock
from ureca.datatypes import EngineInfo
from ureca.errors import UrecaError
from ureca.node.counters import NodeCounters
from ureca.protocol.events import AnyEvent, Heartbeat, Panoptic
from ureca.protocol.requests import Health

CounterSource = Callable[[], Mapping[str, int]]
IssueSource = Callable[[], Iterable[str]]
StreamCounters = Callable[[], dict[str, dict[str, int]]]


@dataclass
class HealthMonitor:
    """Collects counters and health issues of the parts of the node for the socket thread."""

    counters: NodeCounters
    info: EngineInfo
    clock: Clock
    streams: StreamCounters
    counter_sources: list[CounterSource] = field(default_factory=list)
    issue_sources: list[IssueSource] = field(default_factory=list)
    failure: UrecaError | None = None
    """Why the sources ended before their time, if they did."""
    source_failures: list[UrecaError] = field(default_factory=list)
    """Why single sources ended before their time; the others may go on."""

    def __post_init__(self) -> None:
        self._started_ns = self.clock.now_ns()

    def heartbeat(self, state: str) -> Heartbeat:
        """Current state, counters and streams."""
        counters = dict(self.counters.balance().counters())
        for source in self.counter_sources:
            counters |= source()
        return Heartbeat(
            uptime_ms=(self.clock.now_ns() - self._started_ns) // 1_000_000,
            state=state,  # type: ignore[arg-type]  # one of the node's own states
            counters=counters,
            streams=dict(self.streams()),
            model=self.info.model,
            bundle_sha=self.info.bundle_sha,
        )

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not well."""
        balance = self.counters.balance()
        found = [f"source: {failure}" for failure in self.source_failures]
        found += [issue for source in self.issue_sources for issue in source()]
        if balance.frames_dropped.get("internal"):
            found.append("frames failed inside the node; see its log")
        if balance.requests_ended.get("error", 0) > balance.requests_ended.get("final", 0):
            found.append("most captions fail")
        return tuple(found)


class MayFail(Protocol):
    """A part that continues after a failure and keeps its reason."""

    @property
    def failure(self) -> str | None:
        """The failure; None without one."""

    def counters(self) -> dict[str, int]:
        """What it lost, for the heartbeat."""


def failure_of(part: MayFail) -> IssueSource:
    """The part's failure as a health issue, if there is one."""
    return lambda: [part.failure] if part.failure is not None else []


class NodeStatus(Protocol):
    """The node's state for read-only operations; called on the thread that owns the sockets."""

    @property
    def info(self) -> EngineInfo:
        """The engine's names and limits."""

    def heartbeat(self) -> Heartbeat:
        """Current state, counters and streams."""

    def reasons(self) -> tuple[str, ...]:
        """Why the node is not well; empty when it is."""

    @property
    def find_by(self) -> str:
        """The measure of `find`: `likelihood` or `caption_words`."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that the captioner answers."""

    def last_events(self) -> list[AnyEvent]:
        """The last values of every live region."""

    def panoptic(self, stream: str | None) -> Panoptic | None:
        """The newest segments of a stream, or of the only one."""

    def refused(self) -> list[dict[str, Any]]:
        """The latest captions that the output filter rejected."""


def health_of(facts: NodeStatus) -> Health:
    """The result of `health` and of `/healthz`."""
    beat, reasons = facts.heartbeat(), facts.reasons()
    return Health(
        state="degraded" if reasons and beat.state == "running" else beat.state,
        uptime_ms=beat.uptime_ms,
        reasons=reasons,
        counters=beat.counters,
        streams=beat.streams,
    )
