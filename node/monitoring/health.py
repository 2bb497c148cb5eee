"""The state of the node: counters for heartbeats, and the reasons of `health`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ureca.clock import Clock
from ureca.datatypes import EngineInfo
from ureca.errors import UrecaError
from ureca.node.counters import NodeCounters
from ureca.protocol.events import AnyEvent, Heartbeat
from ureca.protocol.requests import Health

Counters = Callable[[], Mapping[str, int]]
Complaints = Callable[[], Iterable[str]]
Streams = Callable[[], dict[str, dict[str, int]]]


@dataclass
class Vitals:
    """Collects counters and health issues of the parts of the node for the socket thread."""

    books: NodeCounters
    info: EngineInfo
    clock: Clock
    streams: Streams
    counters: list[Counters] = field(default_factory=list)
    complaints: list[Complaints] = field(default_factory=list)
    failure: UrecaError | None = None
    """Why the sources ended before their time, if they did."""
    source_failures: list[UrecaError] = field(default_factory=list)
    """Why single sources ended before their time; the others may go on."""

    def __post_init__(self) -> None:
        self._started_ns = self.clock.now_ns()

    def heartbeat(self, state: str) -> Heartbeat:
        """Current state, counters and streams."""
        counters = dict(self.books.balance().counters())
        for part in self.counters:
            counters |= part()
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
        balance = self.books.balance()
        found = [f"source: {failure}" for failure in self.source_failures]
        found += [said for part in self.complaints for said in part()]
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


def failure_of(part: MayFail) -> Complaints:
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

    def last_events(self) -> list[AnyEvent]:
        """The last values of every live region."""

    def refused(self) -> list[dict[str, Any]]:
        """The latest captions that the output gate kept back."""


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
