"""The sockets of `AsyncClient`: several requests may be open at once, and the one that waits first
reads for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from typing import Any

import zmq
import zmq.asyncio

from ureca.client.ownership import Ownership
from ureca.client.shared import EventReader, left_ms, new_request, no_answer, result_of
from ureca.client.sockets import connect_pair
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent
from ureca.protocol.messagepack import WireLimits
from ureca.protocol.request_codec import decode_reply, encode_request
from ureca.protocol.requests import Reply, Request
from ureca.security.keys import ClientKeys


async def _received(socket: zmq.asyncio.Socket) -> list[bytes] | None:
    """See `ureca.client.sockets.received`."""
    try:
        return await socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


class AsyncConnection:
    """`Connection` with awaitable methods; it belongs to one event loop."""

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
        self._reading = asyncio.Lock()
        self._open: dict[bytes, asyncio.Future[Reply]] = {}
        self._own = Ownership("client")
        self._context = zmq.asyncio.Context()
        self._sub, self._dealer = connect_pair(self._context, events, requests, limits, keys)

    def close(self) -> None:
        """Close both sockets at once, without waiting. In a forked child they are the parent's."""
        if self._own.close():
            self._context.destroy(linger=0)

    async def _next_event(self, kinds: Collection[str], timeout_s: float | None) -> AnyEvent | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._own.check()
        while await self._sub.poll(None if until is None else left_ms(until)):
            parts = await _received(self._sub)
            event = None if parts is None else self._reader.read(parts)
            if event is not None and event_kind(event) in kinds:
                return event
        return None

    async def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        *,
        picture: bytes | None = None,
    ) -> dict[str, Any]:
        """See `Connection.request`. Cancelling the task of a `describe` cancels it at the node,
        too.
        """
        seconds = self._timeout_s if deadline_s is None else deadline_s
        request = new_request(op, args, seconds)
        self._own.check()
        # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes with the
        # reply, and its caller goes on for ever.
        exchange = asyncio.create_task(self._exchange(request, picture))
        try:
            await asyncio.wait({exchange}, timeout=seconds)
            if not exchange.done():
                raise no_answer(self._requests, op, seconds)
            return exchange.result()
        finally:
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)

    async def _exchange(self, request: Request, picture: bytes | None) -> dict[str, Any]:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[request.id] = answer
        try:
            await self._dealer.send_multipart(encode_request(request, picture, self._limits))
            while not answer.done():
                await self._read_for_all(answer)
            return result_of(answer.result())
        finally:
            self._open.pop(request.id, None)
            if not answer.done() and request.op == "describe":
                await self._give_up(request)

    async def _read_for_all(self, answer: asyncio.Future[Reply]) -> None:
        """Whoever waits first reads, and hands on what others wait for."""
        async with self._reading:
            if answer.done():
                return
            # Not a `recv` that waits: when it is cancelled as its message comes, that is lost.
            await self._dealer.poll()
            message = await _received(self._dealer)
            if message is None:
                return
            reply = decode_reply(message, self._limits)
            waiting = self._open.get(reply.id)
            if reply.terminal and waiting is not None and not waiting.done():
                waiting.set_result(reply)

    async def _give_up(self, request: Request) -> None:
        """Tell the node; nobody reads its answer."""
        cancel = new_request("cancel", {"id": request.id}, self._timeout_s)
        message = encode_request(cancel)
        with contextlib.suppress(zmq.Again):
            await self._dealer.send_multipart(message, zmq.NOBLOCK)
