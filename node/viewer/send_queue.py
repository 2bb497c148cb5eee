"""The queue of one browser's unsent messages. It is bounded, so a slow browser delays no other."""

from __future__ import annotations

import asyncio
from collections import deque

MAX_WAITING = 2_000
"""Messages for one browser. One that falls behind further is shown the state afresh."""


class SendQueue:
    """Texts in order, and room for one picture. One event loop uses it."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._texts: deque[bytes] = deque()
        self._picture: bytes | None = None
        self._something = asyncio.Event()
        self.overflowed = False
        """Something was left out; whoever takes should send the state and set this to False."""

    def put(self, text: bytes) -> None:
        """Queue a JSON text."""
        if len(self._texts) >= self._limit:
            self._texts.clear()
            self.overflowed = True
        self._texts.append(text)
        self._something.set()

    def show(self, picture: bytes) -> None:
        """Show this picture instead of any that waits."""
        self._picture = picture
        self._something.set()

    async def take(self) -> tuple[list[bytes], bytes | None]:
        """Wait for something; all texts, and the picture if there is one."""
        await self._something.wait()
        self._something.clear()
        texts, picture = list(self._texts), self._picture
        self._texts.clear()
        self._picture = None
        return texts, picture
