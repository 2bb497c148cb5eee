"""One browser: its allowed requests, and the messages sent to it at its own rate."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from ureca.errors import RequestError, UrecaError
from ureca.node.viewer.frame_feed import PageImage
from ureca.node.viewer.node_connection import Link
from ureca.node.viewer.send_queue import SendQueue
from ureca.protocol.operations import OPERATIONS

ASKABLE = {name: op.page_s for name, op in OPERATIONS.items() if op.page_s is not None}
"""The operations that a page may request from the node, and their time limits in seconds."""

MAX_OPEN = 8
"""Questions of one page that wait for an answer."""

_BATCH_S = 0.03
_RETRY_S = 0.5


class Socket(Protocol):
    """What a session needs of a WebSocket."""

    async def send(self, message: bytes, *, text: bool) -> None:
        """Send; waits while the browser takes nothing."""

    async def recv(self) -> str | bytes:
        """The next message."""


class ShowStream(Struct, frozen=True, tag="look", tag_field="t"):
    """Show this stream from now on; None for no pictures."""

    stream: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$")] | None


class Ready(Struct, frozen=True, tag="ready", tag_field="t"):
    """The last image was drawn; send the next one."""


class NodeRequest(Struct, frozen=True, tag="ask", tag_field="t"):
    """A question to the node; the answer carries its `id`."""

    id: Annotated[int, Meta(ge=0)]
    op: Annotated[str, Meta(max_length=32)]
    args: dict[str, Any] = {}


_said = msgspec.json.Decoder(ShowStream | Ready | NodeRequest)


class Session:
    """Runs until the browser goes. `run` raises what the socket raises."""

    def __init__(self, socket: Socket, link: Link) -> None:
        self._socket = socket
        self._link = link
        self._send_queue = SendQueue()
        self._stream: str | None = None
        self._seen: int | None = None
        self._coming: asyncio.Task[PageImage] | None = None
        self._ready = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send and receive until either fails."""
        for text in self._link.state():
            self._send_queue.put(text)
        self._link.send_queues.add(self._send_queue)
        work = (self._receive(), self._send(), self._picture())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._link.send_queues.discard(self._send_queue)
            coming = [] if self._coming is None else [self._coming]
            everything: list[asyncio.Task[Any]] = [*tasks, *self._open, *coming]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            try:
                said = _said.decode(await self._socket.recv())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._say({"t": "refused", "why": "not a message of this page"})
                continue
            if isinstance(said, ShowStream):
                self._look(said.stream)
            elif isinstance(said, Ready):
                self._ready.set()
            else:
                self._start(said)

    async def _send(self) -> None:
        while True:
            texts, picture = await self._send_queue.take()
            if self._send_queue.overflowed:
                self._send_queue.overflowed = False
                texts = self._link.state()
            for text in texts:
                await self._socket.send(text, text=True)
            if picture is not None:
                await self._socket.send(picture, text=False)
            await asyncio.sleep(_BATCH_S if picture is None else 0)

    async def _picture(self) -> None:
        """One picture for each time that the page is ready: what it misses is never queued."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._stream is None:
                continue
            feed = self._link.feed(self._stream)
            coming = self._coming = asyncio.create_task(feed.next(self._seen))
            await asyncio.wait({coming})
            if coming.cancelled():
                continue
            try:
                shot = coming.result()
            except UrecaError:
                await asyncio.sleep(_RETRY_S)
                self._ready.set()
            else:
                self._seen = shot.seq
                self._send_queue.show(shot.message)

    def _look(self, stream: str | None) -> None:
        """Turn to another stream; the picture that is on its way is of no interest any more."""
        self._stream, self._seen = stream, None
        if self._coming is not None:
            self._coming.cancel()
        self._ready.set()

    # --- questions -------------------------------------------------------------------------------

    def _start(self, ask: NodeRequest) -> None:
        if ask.op not in ASKABLE:
            self._answer(ask, error=RequestError("not for pages", code="FORBIDDEN"))
        elif len(self._open) >= MAX_OPEN:
            self._answer(ask, error=RequestError("too many questions at once", code="BUSY"))
        else:
            task = asyncio.create_task(self._carry(ask))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _carry(self, ask: NodeRequest) -> None:
        try:
            result = await self._link.ask(ask.op, ask.args, ASKABLE[ask.op])
        except UrecaError as error:
            self._answer(ask, error=error)
        else:
            self._answer(ask, result=result)

    def _answer(
        self,
        ask: NodeRequest,
        *,
        result: dict[str, Any] | None = None,
        error: Exception | None = None,
    ) -> None:
        body = {"result": result} if error is None else {"error": str(error)}
        self._say({"t": "answer", "id": ask.id, **body})

    def _say(self, message: dict[str, Any]) -> None:
        self._send_queue.put(msgspec.json.encode(message))
