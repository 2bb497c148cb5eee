"""Previews: requested once for all viewers of a stream, and only while one of them waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from ureca.protocol.preview_messages import Picture

Fetch = Callable[[str, "int | None"], Awaitable[Picture]]
"""Fetches a stream's picture whose number is not the given one."""


class PageImage(msgspec.Struct, frozen=True):
    """A picture as the page gets it: `[length of the JSON, u32 little endian][JSON][JPEG]`."""

    seq: int
    message: bytes


def to_page_image(picture: Picture) -> PageImage:
    """A picture and its regions as one binary message."""
    facts = msgspec.to_builtins(picture, builtin_types=(bytes,))
    jpeg = facts.pop("jpeg")
    head = msgspec.json.encode(facts)
    return PageImage(picture.seq, len(head).to_bytes(4, "little") + head + jpeg)


class Feed:
    """The pictures of one stream, at most `max_hz` of them per second."""

    def __init__(self, stream: str, fetch: Fetch, *, max_hz: float) -> None:
        self._stream = stream
        self._fetch = fetch
        self._interval_s = 1 / max_hz
        self._latest: PageImage | None = None
        self._fetched_s = 0.0
        self._fetching: asyncio.Task[PageImage] | None = None

    async def next(self, after: int | None) -> PageImage:
        """The newest image whose number is not `after`; concurrent callers get the same one."""
        latest = self._latest
        is_fresh = after is None or time.monotonic() - self._fetched_s < self._interval_s
        if latest is not None and latest.seq != after and is_fresh:
            return latest
        while (shot := await self._joined()).seq == after:
            pass
        return shot

    async def close(self) -> None:
        """Fetch no more."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _joined(self) -> PageImage:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._get())
            self._fetching.add_done_callback(_noted)
        return await asyncio.shield(self._fetching)

    async def _get(self) -> PageImage:
        await asyncio.sleep(max(0.0, self._fetched_s + self._interval_s - time.monotonic()))
        after = None if self._latest is None else self._latest.seq
        picture = await self._fetch(self._stream, after)
        self._fetched_s = time.monotonic()
        self._latest = to_page_image(picture)
        return self._latest


def _noted(task: asyncio.Task[PageImage]) -> None:
    """A failure is every waiter's; without one it is nobody's, and not worth a log."""
    if not task.cancelled():
        task.exception()
