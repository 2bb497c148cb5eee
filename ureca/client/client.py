"""The client: live events, a snapshot of all regions, and requests.

    with Client.connect() as client:
        print(client.hello().model)
        for event in client.events(kinds={"cap.final"}):
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
    """Subscribes and sends requests; use `connect` and close it, or use it as a context manager."""

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
        """Connect to a node, which may start later; `timeout_s` limits every request.

        A node on the network needs `keys`: `ClientKeys.read("me.key_secret", "node.key")`.
        """
        return cls(events, requests, timeout_s, limits, keys)

    def close(self) -> None:
        """Close both sockets at once, without waiting."""
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
        """The number of lost events; after a loss, request a `snapshot`."""
        return self._reader.missed

    @property
    def unreadable(self) -> int:
        """The number of messages that are not events of this protocol."""
        return self._reader.unreadable

    def events(
        self, kinds: Collection[str] | None = None, timeout_s: float | None = None
    ) -> Iterator[AnyEvent]:
        """Yield events of these kinds (all, if None) as they arrive.

        Ends if none of them arrives for `timeout_s` seconds (never, if None). Raises `VersionError`
        if the node uses another major version.
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
        """Send a request and wait for the terminal reply.

        Raises `RequestError` with the node's code, or `DEADLINE` if no node answers in time.
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
            if reply.st == "progress" and on_progress is not None:
                on_progress(reply.result)
        raise no_answer(self._requests, op, seconds)

    def _ask(self, question: Question[_Answer]) -> _Answer:
        return question.read(self.request(question.op, question.args))

    def hello(self) -> Hello:
        """The node's name, version, operations and limits."""
        return self._ask(operations.hello())

    def health(self) -> Health:
        """The node's state, its health issues, and its counters."""
        return self._ask(operations.health())

    def stats(self) -> Stats:
        """The counters, and the latest rejected captions."""
        return self._ask(operations.stats())

    def config(self) -> dict[str, Any]:
        """The node's whole configuration, in the form of its YAML file."""
        return self._ask(operations.config())

    def clock_offset(self) -> ClockOffset:
        """The offset of the node's clock from `time.monotonic_ns` here, and its error bound. Stamps
        of `clk` `mono` minus `offset_ns` are on this host's clock.
        """
        sent_ns = time.monotonic_ns()
        answer = self.request("time")
        return ClockOffset.of(sent_ns, answer, time.monotonic_ns())

    def snapshot(self) -> list[AnyEvent]:
        """The last values of every live region: its track event and, if it has one, its caption."""
        return self._ask(operations.snapshot())

    def picture(self, stream: str, *, after: int | None = None, max_width_px: int = 640) -> Picture:
        """A preview of a stream: a JPEG of limited width, with the masks of the regions.

        Waits for a frame whose number is not `after`; raises `RequestError` (DEADLINE) if none
        comes.
        """
        return self._ask(operations.picture(stream, after, max_width_px))

    def find(self, text: str, *, stream: str | None = None, limit: int = 16) -> list[Found]:
        """The regions whose captions contain words of `text`, most words first."""
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
        """Set where a region is on the newest frame; returns that frame's `seq`."""
        return self._ask(operations.update_region(stream, rid, region))

    def remove_region(self, stream: str, rid: str) -> None:
        """Stop following a region."""
        self._ask(operations.remove_region(stream, rid))

    def set_policy(self, stream: str, rid: str | None = None, **changes: Any) -> dict[str, Any]:
        """Change when a region (or every one of the stream) is captioned, e.g. `ttl_ms=700`.

        Omitted keys stay, None resets a value to its default; returns the new policy.
        """
        return self._ask(operations.set_policy(stream, rid, changes))

    def set_prompt(self, stream: str, prompt: Style, rid: str | None = None) -> None:
        """Set the style of the next captions, `short` or `long`."""
        self._ask(operations.set_prompt(stream, rid, prompt))

    def pause(self) -> Halted:
        """Start only requested captions; regions are still followed."""
        return self._ask(operations.halt("pause"))

    def drain(self) -> Halted:
        """Start no captions at all; repeat the call until `requests_in_flight` is 0."""
        return self._ask(operations.halt("drain"))

    def resume(self) -> Halted:
        """Caption again after `pause` or `drain`."""
        return self._ask(operations.halt("resume"))

    def start_recording(self, name: str) -> str:
        """Start recording `NAME.mcap` in the node's folder for recordings; returns its path."""
        return self._ask(operations.start_recording(name))

    def stop_recording(self) -> dict[str, Any]:
        """Finish the recording; returns its path and the number of lost entries."""
        return self._ask(operations.stop_recording())

    def shutdown(self) -> None:
        """Request the node to finish accepted work and to exit."""
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
