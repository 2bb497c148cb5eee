"""The client for asyncio: the same questions and events, awaited.

    async with AsyncClient.connect() as client:
        async for event in client.events(kinds={"cap.final"}):
            print(event.rid, event.text)

An async client belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from types import TracebackType
from typing import Any

import msgspec
import zmq
import zmq.asyncio

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
from ureca.datatypes import Image, RegionSeed, Style
from ureca.events import AnyEvent
from ureca.keys import ClientKeys
from ureca.packing import LIMITS, WireLimits
from ureca.requests import Description, Health, Hello, Request, decode_reply, encode_request
from ureca.sockets import connect_pair
from ureca.streams import event_kind


class AsyncClient:
    """`Client` with awaitable methods; one question at a time."""

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
        self._asking = asyncio.Lock()
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
        """Close both sockets at once; nothing is waited for."""
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
        """Events that were sent but did not arrive; after one, ask for a `snapshot`."""
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
            event = self._reader.read(await self._sub.recv_multipart())
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
        try:
            async with self._asking:
                return await asyncio.wait_for(self._exchange(request, picture), seconds)
        except asyncio.TimeoutError:
            raise no_answer(self._requests, op, seconds) from None

    async def _exchange(self, request: Request, picture: bytes | None) -> dict[str, Any]:
        await self._dealer.send_multipart(encode_request(request, picture, self._limits))
        while True:
            reply = decode_reply(await self._dealer.recv_multipart(), self._limits)
            if reply.id == request.id and reply.terminal:
                return result_of(reply)

    async def hello(self) -> Hello:
        """See `Client.hello`."""
        return typed(await self.request("hello"), Hello)

    async def health(self) -> Health:
        """See `Client.health`."""
        return typed(await self.request("health"), Health)

    async def snapshot(self) -> list[AnyEvent]:
        """See `Client.snapshot`."""
        return snapshot_events(await self.request("snapshot"))

    async def shutdown(self) -> None:
        """See `Client.shutdown`."""
        await self.request("shutdown")

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
