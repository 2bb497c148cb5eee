"""The viewer's connection to the node: events to all browsers, previews on request, and the
connection status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from ureca.client.async_client import AsyncClient
from ureca.client.region_cache import RegionCache
from ureca.client.shared import snapshot_events
from ureca.errors import RequestError, UrecaError, VersionError
from ureca.node.viewer.frame_feed import Feed
from ureca.node.viewer.send_queue import SendQueue
from ureca.protocol.events import AnyEvent, Heartbeat, Panoptic, TrackUpdate
from ureca.protocol.preview_messages import Picture

SILENT_S = 2.5
"""A node that sends nothing for this long is shown as lost; it sends a heartbeat every second."""

_LOOK_S = 0.1
_TICK_S = 0.5
_ASK_S = 2.0
_RETRY_S = 0.5
_MAX_STREAMS = 16
_MAX_REGIONS = 1024
_log = logging.getLogger(__name__)


class Link:
    """One client, shared by all browsers. `run` never ends; cancel it."""

    def __init__(self, client: AsyncClient, *, max_hz: float = 12.0, width_px: int = 640) -> None:
        self.client = client
        self.send_queues: set[SendQueue] = set()
        self.lost = True
        self._regions = RegionCache(_MAX_REGIONS)
        self._heartbeat: Heartbeat | None = None
        self._hello: dict[str, Any] = {}
        self._why = "no node has answered yet"
        self._heard_s = time.monotonic()
        self._beat_s = 0.0
        self._silent_s = SILENT_S
        self._session_id = b""
        self._offset_ns = 0
        self._missed = 0
        self._feeds: dict[str, Feed] = {}
        self._max_hz = max_hz
        self._width_px = width_px
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Receive events and send them to all browsers."""
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                await self._listen()
        finally:
            tasks = [task for task in (ticking, self._asking) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for feed in self._feeds.values():
                await feed.close()

    def state(self) -> list[bytes]:
        """What a page that joins has to know."""
        beat: list[AnyEvent] = [] if self._heartbeat is None else [self._heartbeat]
        events = [msgspec.json.encode(event) for event in (*beat, *self._regions.events())]
        return [self._node_message(), told(events, reset=True)]

    def feed(self, stream: str) -> Feed:
        """The pictures of a stream; of too many, the oldest is forgotten."""
        if stream not in self._feeds:
            if len(self._feeds) >= _MAX_STREAMS:
                del self._feeds[next(iter(self._feeds))]
            self._feeds[stream] = Feed(stream, self._fetch, max_hz=self._max_hz)
        return self._feeds[stream]

    # --- the node's events -----------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            async for event in self.client.events(timeout_s=_LOOK_S):
                self._hear(event)
        except VersionError as error:
            self._lose(str(error))
            await asyncio.sleep(_RETRY_S)
        if time.monotonic() - self._heard_s > self._silent_s:
            self._lose("nothing heard from the node")

    def _hear(self, event: AnyEvent) -> None:
        self._heard_s = time.monotonic()
        if isinstance(event, Heartbeat):
            self._pace()
        if event.session_id != self._session_id:
            self._session_id = event.session_id
            self._heartbeat = None
            self._feeds.clear()
            self.lost = True
        if self.lost or self.client.missed != self._missed:
            self._missed = self.client.missed
            self._catch_up()
        self._regions.apply(event)
        if isinstance(event, Heartbeat):
            self._heartbeat = event
        if not isinstance(event, TrackUpdate | Panoptic):  # pictures say where regions are
            self._tell(told([msgspec.json.encode(event)]))

    def _pace(self) -> None:
        """A node may be configured to beat slower: its silence counts from there."""
        now_s = time.monotonic()
        if self._beat_s and not self.lost:
            self._silent_s = min(60.0, max(SILENT_S, now_s - self._beat_s + 1.5))
        self._beat_s = now_s

    def _catch_up(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._meet())

    async def _meet(self) -> None:
        """Ask who is there and what it knows; again until it answers."""
        while True:
            with contextlib.suppress(UrecaError):
                hello = await self.client.call("hello", deadline_s=_ASK_S)
                mark = self._regions.mark
                snapshot = await self.client.request("snapshot", deadline_s=_ASK_S)
                self._regions.apply_snapshot(snapshot_events(snapshot), asked_at=mark)
                self._hello = msgspec.to_builtins(hello)
                self._offset_ns = (await self.client.clock_offset()).offset_ns
                self.lost, self._why = False, ""
                for text in self.state():
                    self._tell(text)
                return
            await asyncio.sleep(_RETRY_S)

    def _lose(self, why: str) -> None:
        if not self.lost:
            _log.warning("the node is lost: %s", why)
        if not self.lost or self._why != why:
            self.lost, self._why = True, why
            self._tell(self._node_message())

    async def _tick(self) -> None:
        """The page hears of the viewer even when the node is silent."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._tell(self._node_message())

    def _node_message(self) -> bytes:
        return msgspec.json.encode(
            {
                "t": "node",
                "lost": self.lost,
                "why": self._why,
                "silent_ms": round((time.monotonic() - self._heard_s) * 1e3),
                "now_ns": time.monotonic_ns() + self._offset_ns,
                "hello": self._hello,
            }
        )

    def _tell(self, text: bytes) -> None:
        for send_queue in self.send_queues:
            send_queue.put(text)

    # --- pictures --------------------------------------------------------------------------------

    async def _fetch(self, stream: str, after: int | None) -> Picture:
        args = {"stream": stream, "after": after, "max_width_px": self._width_px}
        picture: Picture = await self.client.call("picture", deadline_s=_ASK_S, **args)
        return picture

    # --- what pages ask --------------------------------------------------------------------------

    async def ask(self, op: str, args: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """A page's question; raises `RequestError` and `WireError`."""
        if self.lost:
            raise RequestError("the node is lost; try again when it is back", code="GONE")
        return await self.client.request(op, args, deadline_s)


def told(events: Iterable[bytes], *, reset: bool = False) -> bytes:
    """Events, each as JSON, as one message to the page; `reset` means that they are all."""
    kind = b"reset" if reset else b"events"
    return b'{"t":"%s","events":[%s]}' % (kind, b",".join(events))
