"""Several sources as one: a thread of its own reads each, and frames are passed on as they arrive.

The end or failure of one does not end the others; the stream ends with the last one.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ureca.datatypes import Frame
from ureca.errors import UrecaError
from ureca.native_threads import NativeThread
from ureca.node.counters import Books
from ureca.node.sources.base import FrameSource, Wait, Watched

_POLL_S = 0.1
_JOIN_S = 8.0
"""For all of them; shorter than the wait for the thread that runs `frames`."""
_log = logging.getLogger(__name__)


class Several:
    """See `FrameSource` and `Watched`. It waits for its taker (`is_lossless`) if one of them
    does.
    """

    def __init__(
        self, open_all: Callable[[Wait], Sequence[FrameSource]], *, books: Books, wait: Wait
    ) -> None:
        self._books = books
        self._wait = wait
        self._waiting: queue.Queue[Frame] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self._failures: list[UrecaError] = []
        self._sources = open_all(lambda seconds: self._stopping.is_set() or wait(seconds))

    @property
    def is_lossless(self) -> bool:
        """See `FrameSource`."""
        return any(source.is_lossless for source in self._sources)

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`. Raises what ended the first source that failed, after all have
        ended.
        """
        threads = [
            NativeThread(target=partial(self._read, source), name=f"ureca-source-{place}")
            for place, source in enumerate(self._sources)
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._wait(0.0):
                with contextlib.suppress(queue.Empty):
                    yield self._waiting.get(timeout=_POLL_S)
                    continue
                if not any(thread.is_alive() for thread in threads) and self._waiting.empty():
                    break
        finally:
            self._stopping.set()
            until_s = time.monotonic() + _JOIN_S
            for thread in threads:
                if not thread.end(max(0.0, until_s - time.monotonic())):
                    _log.error("%s did not return from its frame; it is left behind", thread.name)
            self._drop_waiting()
        if self._failures and not self._wait(0.0):
            raise self._failures[0]

    def reasons(self) -> tuple[str, ...]:
        """See `Watched`."""
        failed = tuple(f"source: {error}" for error in self._failures)
        return failed + tuple(why for source in self._watched() for why in source.reasons())

    def counters(self) -> dict[str, int]:
        """See `Watched`."""
        total: Counter[str] = Counter()
        for source in self._watched():
            total.update(source.counters())
        return dict(total)

    def taken(self, frame: Frame) -> None:
        """See `Watched`."""
        for source in self._watched():
            source.taken(frame)

    def _watched(self) -> list[Watched]:
        return [source for source in self._sources if isinstance(source, Watched)]

    def _read(self, source: FrameSource) -> None:
        try:
            for frame in source.frames():
                if not self._hand_on(frame):
                    return
        except UrecaError as error:
            _log.error("a source failed: %s", error)
            self._failures.append(error)
        except Exception as error:  # noqa: BLE001  (a source may fail in any way; it is reported)
            _log.exception("a source failed")
            self._failures.append(UrecaError(f"a source failed: {type(error).__name__}: {error}"))

    def _hand_on(self, frame: Frame) -> bool:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(frame, timeout=_POLL_S)
                return True
        self._books.frame_dropped("shutdown")
        return False

    def _drop_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
                self._books.frame_dropped("shutdown")
