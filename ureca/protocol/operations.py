"""Every operation of a client as data: name, arguments, and decoder of the result. Both clients use
it; `Client` describes the operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from ureca.datatypes import RegionSeed, Style
from ureca.errors import WireError
from ureca.protocol.events import AnyEvent
from ureca.protocol.messagepack import convert
from ureca.protocol.preview import Picture
from ureca.protocol.region_codec import WireRegion
from ureca.protocol.region_requests import PolicyPatch
from ureca.protocol.requests import Health, Hello
from ureca.protocol.wire import event_from_plain

_Answer = TypeVar("_Answer")
Plain = dict[str, Any]


class Stats(Struct, frozen=True, kw_only=True):
    """The result of `stats`. `refused` are the latest captions that the output filter rejected."""

    uptime_ms: int
    counters: dict[str, int]
    streams: dict[str, Plain]
    refused: tuple[Plain, ...] = ()


class Followed(Struct, frozen=True, kw_only=True):
    """One region of `region.list`; `box` is (x0, y0, x1, y1) px."""

    rid: str
    state: str
    box: tuple[int, int, int, int]
    label: str | None = None
    parent: str | None = None
    age_frames: int = 0
    missed_frames: int = 0
    policy: Plain = {}


class Added(Struct, frozen=True, kw_only=True):
    """The result of `region.add`: followed from frame `seq` on."""

    rid: str
    seq: int
    policy: Plain = {}


class Found(Struct, frozen=True, kw_only=True):
    """One region of `find`; `score` is the share of the searched words in its caption."""

    stream: str
    rid: str
    text: str
    score: float


class Halted(Struct, frozen=True, kw_only=True):
    """The result of `pause`, `drain` and `resume`: the state, and how many requests are open."""

    state: str
    requests_in_flight: int


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The node's clock minus ours, off by at most `error_ns`; `clk` is the node's."""

    clk: str
    offset_ns: int
    error_ns: int

    @classmethod
    def of(cls, sent_ns: int, answer: Plain, received_ns: int) -> ClockOffset:
        """Compute it from four stamps: request and reply on our clock, receipt and reply on the
        node's.

        The error is at most half of the round-trip time.
        """
        try:
            there, back = int(answer["recv_ns"]), int(answer["send_ns"])
            clk = str(answer["clk"])
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"expected clk, recv_ns and send_ns, got {answer!r:.80}") from error
        on_the_way_ns = (received_ns - sent_ns) - (back - there)
        offset_ns = ((there - sent_ns) + (back - received_ns)) // 2
        return cls(clk, offset_ns, max(0, on_the_way_ns) // 2 + 1)


@dataclass(frozen=True, slots=True)
class Question(Generic[_Answer]):
    """`read` decodes the result, and raises `WireError` if it is invalid."""

    op: str
    args: Plain
    read: Callable[[Plain], _Answer]


def hello() -> Question[Hello]:
    """`hello`."""
    return Question("hello", {}, lambda result: typed(result, Hello))


def health() -> Question[Health]:
    """`health`."""
    return Question("health", {}, lambda result: typed(result, Health))


def stats() -> Question[Stats]:
    """`stats`."""
    return Question("stats", {}, lambda result: typed(result, Stats))


def config() -> Question[Plain]:
    """`config.get`."""
    return Question("config.get", {}, lambda result: dict(result["config"]))


def snapshot() -> Question[list[AnyEvent]]:
    """`snapshot`."""
    return Question("snapshot", {}, snapshot_events)


def picture(stream: str, after: int | None, max_width_px: int) -> Question[Picture]:
    """`picture`."""
    args = {"stream": stream, "after": after, "max_width_px": max_width_px}
    return Question("picture", args, lambda result: typed(result, Picture))


def find(text: str, stream: str | None, limit: int) -> Question[list[Found]]:
    """`find`."""
    args = {"text": text, "stream": stream, "limit": limit}
    return Question("find", args, lambda result: _each(result, "regions", Found))


def regions(stream: str) -> Question[list[Followed]]:
    """`region.list`."""
    args = {"stream": stream}
    return Question("region.list", args, lambda result: _each(result, "regions", Followed))


def add_region(stream: str, region: RegionSeed, policy: Plain | None) -> Question[Added]:
    """`region.add`."""
    args = {"stream": stream, "region": _region(region), "policy": _policy(policy or {})}
    return Question("region.add", args, lambda result: typed(result, Added))


def update_region(stream: str, rid: str, region: RegionSeed) -> Question[int]:
    """`region.update`."""
    args = {"stream": stream, "rid": rid, "region": _region(region)}
    return Question("region.update", args, lambda result: int(result["seq"]))


def remove_region(stream: str, rid: str) -> Question[None]:
    """`region.remove`."""
    return Question("region.remove", {"stream": stream, "rid": rid}, lambda _: None)


def set_policy(stream: str, rid: str | None, changes: Plain) -> Question[Plain]:
    """`policy.set`."""
    args = {"stream": stream, "rid": rid, "policy": _policy(changes)}
    return Question("policy.set", args, lambda result: dict(result["policy"]))


def set_prompt(stream: str, rid: str | None, prompt: Style) -> Question[None]:
    """`prompt.set`."""
    args = {"stream": stream, "rid": rid, "prompt": prompt}
    return Question("prompt.set", args, lambda _: None)


def cancel(request_id: bytes) -> Question[bool]:
    """`cancel`."""
    return Question("cancel", {"id": request_id}, lambda result: bool(result["cancelled"]))


def halt(op: str) -> Question[Halted]:
    """`pause`, `drain` or `resume`."""
    return Question(op, {}, lambda result: typed(result, Halted))


def start_recording(name: str) -> Question[str]:
    """`record.start`."""
    return Question("record.start", {"name": name}, lambda result: str(result["file"]))


def stop_recording() -> Question[Plain]:
    """`record.stop`."""
    return Question("record.stop", {}, dict)


def shutdown() -> Question[None]:
    """`shutdown`."""
    return Question("shutdown", {}, lambda _: None)


def _each(result: Plain, key: str, kind: type[_Answer]) -> list[_Answer]:
    listed = result.get(key)
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise WireError(f"expected a list of {key!r}, got {result!r:.80}")
    return [typed(item, kind) for item in listed]


def _region(seed: RegionSeed) -> Plain:
    plain: Plain = msgspec.to_builtins(WireRegion.of(seed))
    return {key: value for key, value in plain.items() if value is not None}


def _policy(changes: Plain) -> Plain:
    """Refuses unknown keys here, where the mistake was made; the node would ignore them."""
    if unknown := changes.keys() - set(PolicyPatch.__struct_fields__):
        known = ", ".join(PolicyPatch.__struct_fields__)
        raise WireError(f"a policy has {known}; got {', '.join(sorted(unknown))}")
    return changes


_Result = TypeVar("_Result")


def typed(result: dict[str, Any], kind: type[_Result]) -> _Result:
    """A checked result."""
    return convert(result, kind, kind.__name__)


def snapshot_events(result: dict[str, Any]) -> list[AnyEvent]:
    """The events of a `snapshot` result."""
    listed = result.get("events")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise WireError("expected a snapshot with a list of 'events'")
    return [event_from_plain(item) for item in listed]
