"""Follows a node for a bridge: every frame that it shows, with the captions that belong to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ureca.client.async_client import AsyncClient
from ureca.client.region_cache import CaptionRecord, RegionCache
from ureca.clock import MonotonicClock
from ureca.errors import RequestError
from ureca.log import RateLimitedLog
from ureca.protocol.events import AnyEvent, Heartbeat
from ureca.protocol.preview_messages import Picture, PictureRegion

_ASK_S = 2.0
_RETRY_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FollowedFrame:
    """One frame with its regions and their last captions.

    `shift_ns` converts stamps of `clk` `mono` to Unix time; it is measured once per run of the
    node.
    """

    picture: Picture
    regions: tuple[tuple[PictureRegion, CaptionRecord | None], ...]
    shift_ns: int = 0

    @property
    def unix_ns(self) -> int:
        """When the frame was captured, in Unix time if its clock was `mono`, else unchanged."""
        return self.picture.captured_ns + (self.shift_ns if self.picture.clk == "mono" else 0)

    def holds(self, caption: CaptionRecord | None) -> bool:
        """Whether one could act on a caption when this frame was captured."""
        return caption is not None and caption.holds(self.picture.captured_ns)


class NodeFollower:
    """Requests the next image of each stream in turn, and receives events.

    `streams` None means all, also later ones. It waits for a node that has ended; a restarted node
    begins with an empty cache. `on_event` gets the events and `shift_ns`
    of `FollowedFrame`.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        on_sight: Callable[[FollowedFrame], None],
        on_event: Callable[[AnyEvent, int], None] = lambda *_: None,
        streams: Collection[str] | None = None,
        max_width_px: int = 640,
    ) -> None:
        self._client, self._wanted = client, streams
        self._on_sight, self._on_event = on_sight, on_event
        self._width_px = max_width_px
        self._captions = RegionCache()
        self._session_id = b""
        self._missed = 0
        self._shift_ns = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._warn = RateLimitedLog(_log, MonotonicClock())

    async def run(self) -> None:
        """Follow until cancelled; what a callback raises ends it, too."""
        listening = asyncio.create_task(self._listen())
        try:
            for stream in self._wanted or ():
                self._start(stream)
            while True:
                tasks = {listening, *self._tasks.values()}
                done, _ = await asyncio.wait(
                    tasks, timeout=_RETRY_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            everything = [listening, *self._tasks.values()]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    def _start(self, stream: str) -> None:
        if stream not in self._tasks:
            self._tasks[stream] = asyncio.create_task(self._watch(stream))

    async def _listen(self) -> None:
        await self._catch_up()
        async for event in self._client.events():
            if event.session_id != self._session_id or self._client.missed > self._missed:
                await self._catch_up()
            self._captions.apply(event)
            if isinstance(event, Heartbeat) and self._wanted is None:
                for stream in event.streams:
                    self._start(stream)
            self._on_event(event, self._shift_ns)

    async def _catch_up(self) -> None:
        """Know everything anew: at the start, after missed events, when the node is another one."""
        self._missed = self._client.missed
        with contextlib.suppress(RequestError):  # no node yet: its first event brings us back
            hello = await self._client.hello()
            if hello.session_id != self._session_id:
                self._captions.clear()
                offset = await self._client.clock_offset()
                self._shift_ns = time.time_ns() - time.monotonic_ns() - offset.offset_ns
            self._session_id = hello.session_id
            mark = self._captions.mark
            self._captions.apply_snapshot(await self._client.snapshot(), asked_at=mark)
            for stream in hello.streams if self._wanted is None else ():
                self._start(stream)

    async def _watch(self, stream: str) -> None:
        after: int | None = None
        while True:
            try:
                picture = await self._picture(stream, after)
            except RequestError as error:
                if error.code != "DEADLINE":
                    self._warn.warning(
                        f"{stream} {error.code}", f"no pictures of {stream}: {error}"
                    )
                    await asyncio.sleep(_RETRY_S)
                after = None  # another life of the camera may begin at any number
                continue
            if picture.seq != after and self._session_id:
                after = picture.seq
                self._on_sight(self._sight(picture))

    async def _picture(self, stream: str, after: int | None) -> Picture:
        args = {"stream": stream, "after": after, "max_width_px": self._width_px}
        picture: Picture = await self._client.call("picture", deadline_s=_ASK_S, **args)
        return picture

    def _sight(self, picture: Picture) -> FollowedFrame:
        regions = tuple((r, self._captions.get(picture.stream, r.rid)) for r in picture.regions)
        return FollowedFrame(picture, regions, self._shift_ns)
