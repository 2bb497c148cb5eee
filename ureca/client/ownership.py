"""Who may use a client or a sender: the process that made it, one thread at a time, until `close`.

ZeroMQ's threads do not survive `fork`, and its sockets are not for two threads at once: without a
check a child waits for ever, and threads take each other's answers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from ureca.errors import RequestError


class Ownership:
    """`what` names the thing in messages. All errors are `RequestError` with the code `GONE`
    (closed, or of another process) or `BUSY` (another thread).
    """

    def __init__(self, what: str) -> None:
        self._what, self._pid = what, os.getpid()
        self._is_closed = False
        self._users: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    @property
    def is_here(self) -> bool:
        """Whether this is the process that made it."""
        return os.getpid() == self._pid

    def close(self) -> bool:
        """Refuse every later use; True where there is something to close: once, in its process."""
        was_open, self._is_closed = not self._is_closed, True
        return was_open and self.is_here

    def check(self) -> None:
        """Raise `RequestError` when it is closed, or when this is a forked child."""
        if self._is_closed:
            raise RequestError(f"the {self._what} is closed: make another one", code="GONE")
        if not self.is_here:
            raise RequestError(
                f"this {self._what} belongs to process {self._pid}, and this is its child "
                f"{os.getpid()}: make one in the child, after the fork",
                code="GONE",
            )

    @contextlib.contextmanager
    def use(self, part: str) -> Iterator[None]:
        """Use one of its sockets in this thread; raises as `check`, and when another thread does so
        at this moment.
        """
        self.check()
        me = threading.current_thread()
        with self._lock:
            other = self._users.setdefault(part, me)
        if other is not me:
            raise RequestError(
                f"the {self._what} is in use by the thread {other.name!r}: make one for each thread"
                f" (this one is {me.name!r})",
                code="BUSY",
            )
        try:
            yield
        finally:
            self._users.pop(part, None)
