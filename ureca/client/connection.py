"""The sockets of `Client`, read in the caller's thread, one request at a time. The same for asyncio
is `ureca.client.async_connection`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import zmq

from ureca.client.ownership import Ownership
from ureca.client.shared import EventReader, left_ms, new_request, no_answer, result_of
from ureca.client.sockets import connect_pair, received, send_now
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent
from ureca.protocol.messagepack import WireLimits
from ureca.protocol.request_codec import decode_reply, encode_request
from ureca.protocol.requests import Request
from ureca.security.keys import ClientKeys


class Connection:
    """A subscriber and a dealer of one node."""

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
        self._own = Ownership("client")
        self._context = zmq.Context()
        self._sub, self._dealer = connect_pair(self._context, events, requests, limits, keys)

    def close(self) -> None:
        """Close both sockets at once, without waiting. In a forked child they are the parent's."""
        if self._own.close():
            self._context.destroy(linger=0)

    def _next_event(self, kinds: Collection[str], timeout_s: float | None) -> AnyEvent | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._own.use("events"):
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

        Raises `RequestError` with the node's code, `DEADLINE` if no node answers in time, `GONE`
        after `close` and in a forked child, `BUSY` while another thread waits for an answer.
        """
        seconds = self._timeout_s if deadline_s is None else deadline_s
        request = new_request(op, args, seconds)
        with self._own.use("requests"):
            return self._exchange(request, picture, seconds, on_progress)

    def _exchange(
        self,
        request: Request,
        picture: bytes | None,
        seconds: float,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
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
        raise no_answer(self._requests, request.op, seconds)
