"""The client for asyncio: the same requests and events, awaited.

    async with AsyncClient.connect() as client:
        async for event in client.events(kinds={"cap.final"}):
            print(event.rid, event.text)

An async client belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import zmq
import zmq.asyncio

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
from ureca.client.sockets import connect_pair
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
from ureca.protocol.requests import (
    Description,
    Health,
    Hello,
    Reply,
    Request,
    decode_reply,
    encode_request,
)
from ureca.security.keys import ClientKeys

_Answer = TypeVar("_Answer")


async def _received(socket: zmq.asyncio.Socket) -> list[bytes] | None:
    """See `ureca.client.sockets.received`."""
    try:
        return await socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


class AsyncClient:
    """`Client` with awaitable methods; several requests may be open at once. Cancelling the task
    of a `describe` cancels it at the node, too.
    """

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
        self._context = zmq.asyncio.Context()
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
    ) -> AsyncClient:
        """See `Client.connect`."""
        return cls(events, requests, timeout_s, limits, keys)

    def close(self) -> None:
        """Close both sockets at once, without waiting."""
        self._context.destroy(linger=0)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
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

    async def events(
        self, kinds: Collection[str] | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[AnyEvent]:
        """See `Client.events`."""
        wanted = check_kinds(kinds)
        while (event := await self._next_event(wanted, timeout_s)) is not None:
            yield event

    async def _next_event(self, kinds: Collection[str], timeout_s: float | None) -> AnyEvent | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
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
        """See `Client.request`."""
        seconds = self._timeout_s if deadline_s is None else deadline_s
        request = new_request(op, args, seconds)
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
        cancel = operations.cancel(request.id)
        message = encode_request(new_request(cancel.op, cancel.args, self._timeout_s))
        with contextlib.suppress(zmq.Again):
            await self._dealer.send_multipart(message, zmq.NOBLOCK)

    async def _ask(self, question: Question[_Answer]) -> _Answer:
        return question.read(await self.request(question.op, question.args))

    async def hello(self) -> Hello:
        """See `Client`."""
        return await self._ask(operations.hello())

    async def health(self) -> Health:
        """See `Client`."""
        return await self._ask(operations.health())

    async def stats(self) -> Stats:
        """See `Client`."""
        return await self._ask(operations.stats())

    async def config(self) -> dict[str, Any]:
        """See `Client`."""
        return await self._ask(operations.config())

    async def clock_offset(self) -> ClockOffset:
        """See `Client`."""
        sent_ns = time.monotonic_ns()
        answer = await self.request("time")
        return ClockOffset.of(sent_ns, answer, time.monotonic_ns())

    async def snapshot(self) -> list[AnyEvent]:
        """See `Client`."""
        return await self._ask(operations.snapshot())

    async def picture(
        self, stream: str, *, after: int | None = None, max_width_px: int = 640
    ) -> Picture:
        """See `Client.picture`."""
        return await self._ask(operations.picture(stream, after, max_width_px))

    async def find(self, text: str, *, stream: str | None = None, limit: int = 16) -> list[Found]:
        """See `Client`."""
        return await self._ask(operations.find(text, stream, limit))

    async def regions(self, stream: str) -> list[Followed]:
        """See `Client`."""
        return await self._ask(operations.regions(stream))

    async def add_region(
        self, stream: str, region: RegionSeed, policy: dict[str, Any] | None = None
    ) -> Added:
        """See `Client`."""
        return await self._ask(operations.add_region(stream, region, policy))

    async def update_region(self, stream: str, rid: str, region: RegionSeed) -> int:
        """See `Client`."""
        return await self._ask(operations.update_region(stream, rid, region))

    async def remove_region(self, stream: str, rid: str) -> None:
        """See `Client`."""
        await self._ask(operations.remove_region(stream, rid))

    async def set_policy(
        self, stream: str, rid: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """See `Client`."""
        return await self._ask(operations.set_policy(stream, rid, changes))

    async def set_prompt(self, stream: str, prompt: Style, rid: str | None = None) -> None:
        """See `Client`."""
        await self._ask(operations.set_prompt(stream, rid, prompt))

    async def pause(self) -> Halted:
        """See `Client`."""
        return await self._ask(operations.halt("pause"))

    async def drain(self) -> Halted:
        """See `Client`."""
        return await self._ask(operations.halt("drain"))

    async def resume(self) -> Halted:
        """See `Client`."""
        return await self._ask(operations.halt("resume"))

    async def start_recording(self, name: str) -> str:
        """See `Client`."""
        return await self._ask(operations.start_recording(name))

    async def stop_recording(self) -> dict[str, Any]:
        """See `Client`."""
        return await self._ask(operations.stop_recording())

    async def shutdown(self) -> None:
        """See `Client`."""
        await self._ask(operations.shutdown())

    async def describe(
        self,
        region: RegionSeed | str,
        *,
        stream: str | None = None,
        image: Image | bytes | None = None,
        style: Style = "short",
        deadline_s: float | None = None,
    ) -> Description:
        """See `Client.describe`."""
        args, picture = describe_args(region, stream, image, style)
        plain = msgspec.to_builtins(args)
        result = await self.request("describe", plain, deadline_s, picture=picture)
        return typed(result, Description)
