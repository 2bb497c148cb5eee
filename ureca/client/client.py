"""The subscriber's side: live events, a snapshot of everything that is known, and questions.

    with Client.connect() as client:
        print(client.hello().model)
        for event in client.events(kinds={"caption.final"}):
            print(event.rid, event.text)

A client belongs to one thread. The same for asyncio is `ureca.client.async_client`; cameras use
`FramePublisher`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import zmq

from ureca.client.frame_publisher import FramePublisher
from ureca.client.shared import (
    EVENTS_ADDRESS,
    REQUESTS_ADDRESS,
    EventReader,
    check_kinds,
    describe_args,
    left_ms,
    new_request,
    no_answer,
    result_of,
)
from ureca.client.sockets import connect_pair, received, send_now
from ureca.datatypes import Image, RegionSeed, Style
from ureca.protocol import operations
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent
from ureca.protocol.messagepack import LIMITS, WireLimits
from ureca.protocol.operations import (
    Added,
    ClockOffset,
    Followed,
    Found,
    Halted,
    Question,
    Stats,
    typed,
)
from ureca.protocol.preview import Picture
from ureca.protocol.requests import Description, Health, Hello, decode_reply, encode_request
from ureca.security.keys import ClientKeys

__all__ = ["EVENTS_ADDRESS", "REQUESTS_ADDRESS", "Client", "FramePublisher"]

_Answer = TypeVar("_Answer")


class Client:
    """A subscriber and asker; use `connect` and close it, or use it as a context manager."""

    def __init__(
        self,
        events: str,
        requests: str,
        timeout_s: float,
        limits: WireLimits,
        keys: ClientKeys | None = None,
    ) -> None:
        self._timeout_s, self._limits, self._requests = timeout_s, limits, requests
        self._reader = EventReader(limits)
        self._context = zmq.Context()
        self._sub, self._dealer = connect_pair(self._context, events, requests, limits, keys)

    @classmethod
    def connect(
        cls,
        events: str = EVENTS_ADDRESS,
        requests: str = REQUESTS_ADDRESS,
        *,
        timeout_s: float = 5.0,
        limits: WireLimits = LIMITS,
        keys: ClientKeys | None = None,
    ) -> Client:
        """Connect to a node, which may start later; `timeout_s` bounds every question.

        A node on the network wants `keys`: `ClientKeys.read("me.key_secret", "node.key")`.
        """
        return cls(events, requests, timeout_s, limits, keys)

    def close(self) -> None:
        """Close both sockets at once; nothing is waited for."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def missed(self) -> int:
        """Events that were sent but did not arrive; after one, ask for a `snapshot`."""
        return self._reader.missed

    @property
    def unreadable(self) -> int:
        """Messages that were no events of this protocol."""
        return self._reader.unreadable

    def events(
        self, kinds: Collection[str] | None = None, timeout_s: float | None = None
    ) -> Iterator[AnyEvent]:
        """Events of these kinds (all, if None) as they arrive.

        Ends when none of them came for `timeout_s` seconds (never, if None). Raises `VersionError`
        when the node speaks another major version.
        """
        wanted = check_kinds(kinds)
        while (event := self._next_event(wanted, timeout_s)) is not None:
            yield event

    def _next_event(self, kinds: Collection[str], timeout_s: float | None) -> AnyEvent | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._sub.poll(None if until is None else left_ms(until)):
            parts = received(self._sub)
            event = None if parts is None else self._reader.read(parts)
            if event is not None and event_kind(event) in kinds:
                return event
        return None

    def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        *,
        picture: bytes | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Ask, and wait for the terminal reply.

        Raises `RequestError` with the node's code, or `DEADLINE` when no node answers in time.
        """
        seconds = self._timeout_s if deadline_s is None else deadline_s
        request = new_request(op, args, seconds)
        until = time.monotonic() + seconds
        message = encode_request(request, picture, self._limits)
        sent = False
        while not sent and (ms := left_ms(until)) and self._dealer.poll(ms, zmq.POLLOUT):
            sent = send_now(self._dealer, message)
        while sent and self._dealer.poll(left_ms(until)):
            parts = received(self._dealer)
            reply = None if parts is None else decode_reply(parts, self._limits)
            if reply is None or reply.id != request.id:
                continue  # an answer that came after its question was given up
            if reply.terminal:
                return result_of(reply)
            if reply.status == "progress" and on_progress is not None:
                on_progress(reply.result)
        raise no_answer(self._requests, op, seconds)

    def _ask(self, question: Question[_Answer]) -> _Answer:
        return question.read(self.request(question.op, question.args))

    def hello(self) -> Hello:
        """Who answers, what it can do, and its limits."""
        return self._ask(operations.hello())

    def health(self) -> Health:
        """The node's state, the reasons if it is not well, and its books."""
        return self._ask(operations.health())

    def stats(self) -> Stats:
        """The books, and the latest captions that the output gate kept back."""
        return self._ask(operations.stats())

    def config(self) -> dict[str, Any]:
        """The node's whole configuration, as YAML would hold it."""
        return self._ask(operations.config())

    def clock_offset(self) -> ClockOffset:
        """How far the node's clock is from `time.monotonic_ns` here, and how sure that is. Stamps
        of `clk` `mono` minus `offset_ns` are on this host's clock.
        """
        sent_ns = time.monotonic_ns()
        answer = self.request("time")
        return ClockOffset.of(sent_ns, answer, time.monotonic_ns())

    def snapshot(self) -> list[AnyEvent]:
        """The last word on every live region: its track event and, if it has one, its caption."""
        return self._ask(operations.snapshot())

    def picture(self, stream: str, *, after: int | None = None, max_width_px: int = 640) -> Picture:
        """What the node sees of a stream, as a JPEG at most so wide, with the regions' masks.

        Waits for a frame whose number is not `after`; raises `RequestError` (DEADLINE) if none
        comes.
        """
        return self._ask(operations.picture(stream, after, max_width_px))

    def find(self, text: str, *, stream: str | None = None, limit: int = 16) -> list[Found]:
        """The regions whose captions have words of `text`, those with most of them first."""
        return self._ask(operations.find(text, stream, limit))

    def regions(self, stream: str) -> list[Followed]:
        """All regions of a stream, lost ones included."""
        return self._ask(operations.regions(stream))

    def add_region(
        self, stream: str, region: RegionSeed, policy: dict[str, Any] | None = None
    ) -> Added:
        """Follow one more region from the newest frame on."""
        return self._ask(operations.add_region(stream, region, policy))

    def update_region(self, stream: str, rid: str, region: RegionSeed) -> int:
        """Say where a region is on the newest frame; returns that frame's `seq`."""
        return self._ask(operations.update_region(stream, rid, region))

    def remove_region(self, stream: str, rid: str) -> None:
        """Follow a region no longer."""
        self._ask(operations.remove_region(stream, rid))

    def set_policy(self, stream: str, rid: str | None = None, **changes: Any) -> dict[str, Any]:
        """Change when a region (or every one of the stream) is captioned, e.g. `ttl_ms=700`.

        Keys left out stay, None takes a value back; returns the policy in force.
        """
        return self._ask(operations.set_policy(stream, rid, changes))

    def set_prompt(self, stream: str, prompt: Style, rid: str | None = None) -> None:
        """Ask for `short` or `long` captions from now on."""
        self._ask(operations.set_prompt(stream, rid, prompt))

    def pause(self) -> Halted:
        """Start no captions but those that are asked for; regions are followed on."""
        return self._ask(operations.halt("pause"))

    def drain(self) -> Halted:
        """Start no captions at all; ask again until `requests_in_flight` is 0."""
        return self._ask(operations.halt("drain"))

    def resume(self) -> Halted:
        """Caption again after `pause` or `drain`."""
        return self._ask(operations.halt("resume"))

    def start_recording(self, name: str) -> str:
        """Begin `NAME.mcap` in the node's folder for recordings; returns its path there."""
        return self._ask(operations.start_recording(name))

    def stop_recording(self) -> dict[str, Any]:
        """Finish the recording; returns its path and what it lost."""
        return self._ask(operations.stop_recording())

    def shutdown(self) -> None:
        """Ask the node to finish what it accepted and to exit."""
        self._ask(operations.shutdown())

    def describe(
        self,
        region: RegionSeed | str,
        *,
        stream: str | None = None,
        image: Image | bytes | None = None,
        style: Style = "short",
        deadline_s: float | None = None,
    ) -> Description:
        """Caption one region now: of the newest frame of `stream`, or of `image`.

        `region` is a seed, or the id of a live region of `stream`. `image` is RGB u8 [H, W, 3], or
        the bytes of a JPEG or PNG.
        """
        args, picture = describe_args(region, stream, image, style)
        plain = msgspec.to_builtins(args)
        return typed(self.request("describe", plain, deadline_s, picture=picture), Description)
