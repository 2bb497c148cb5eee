"""The subscriber's side: live events, a snapshot of everything that is known, and questions.

    with Client.connect() as client:
        print(client.hello().model)
        for event in client.events(kinds={"cap.final"}):
            print(event.rid, event.text)

A client belongs to one thread. The same for asyncio is `ureca.async_client`; cameras use
`FramePublisher`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Any

import msgspec
import zmq

from ureca.asking import (
    EVENTS_ADDRESS,
    REQUESTS_ADDRESS,
    EventReader,
    check_kinds,
    describe_args,
    left_ms,
    new_request,
    no_answer,
    result_of,
    snapshot_events,
    typed,
)
from ureca.camera import FramePublisher
from ureca.datatypes import Image, RegionSeed, Style
from ureca.events import AnyEvent
from ureca.keys import ClientKeys
from ureca.packing import LIMITS, WireLimits
from ureca.requests import Description, Health, Hello, decode_reply, encode_request
from ureca.sockets import connect_pair
from ureca.streams import event_kind

__all__ = ["EVENTS_ADDRESS", "REQUESTS_ADDRESS", "Client", "FramePublisher"]


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
            event = self._reader.read(self._sub.recv_multipart())
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
        if not self._dealer.poll(left_ms(until), zmq.POLLOUT):
            raise no_answer(self._requests, op, seconds)
        self._dealer.send_multipart(encode_request(request, picture, self._limits))
        while self._dealer.poll(left_ms(until)):
            reply = decode_reply(self._dealer.recv_multipart(), self._limits)
            if reply.id != request.id:
                continue  # an answer that came after its question was given up
            if reply.terminal:
                return result_of(reply)
            if reply.st == "progress" and on_progress is not None:
                on_progress(reply.result)
        raise no_answer(self._requests, op, seconds)

    def hello(self) -> Hello:
        """Who answers, what it can do, and its limits."""
        return typed(self.request("hello"), Hello)

    def health(self) -> Health:
        """The node's state, the reasons if it is not well, and its books."""
        return typed(self.request("health"), Health)

    def snapshot(self) -> list[AnyEvent]:
        """The last word on every live region: its track event and, if it has one, its caption."""
        return snapshot_events(self.request("snapshot"))

    def shutdown(self) -> None:
        """Ask the node to finish what it accepted and to exit."""
        self.request("shutdown")

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
