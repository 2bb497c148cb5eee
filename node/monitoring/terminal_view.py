"""The live view of `ureca run`: regions with their captions as they are written, rates, ages and
losses.
"""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ureca.cli.watch import Board, table
from ureca.clock import Clock
from ureca.node.counters import Balance
from ureca.protocol.events import AnyEvent

_LOST_STYLE = "yellow"


class TerminalView:
    """An event sink that keeps the table; `draw` prints it. Use it as a context manager."""

    def __init__(self, clock: Clock, console: Console | None = None) -> None:
        self._clock = clock
        self._board = Board()
        self._lock = threading.Lock()
        self._live = Live(auto_refresh=False, console=console, transient=True)
        self._before: tuple[int, int] = (0, 0)
        self._fps = 0.0

    def __call__(self, event: AnyEvent) -> None:
        """Take note of one event; called on the socket thread."""
        with self._lock:
            self._board.apply(event)

    def draw(self, balance: Balance, state: str) -> None:
        """Redraw; called on the main thread a few times per second."""
        now_ns = self._clock.now_ns()
        with self._lock:
            drawn = table(self._board, now_ns)
        self._live.update(Group(drawn, self._status(balance, state, now_ns)), refresh=True)

    def _status(self, balance: Balance, state: str, now_ns: int) -> Text:
        seconds = (now_ns - self._before[1]) / 1e9
        if seconds >= 1:
            self._fps = (balance.frames_processed - self._before[0]) / seconds
            self._before = (balance.frames_processed, now_ns)
        dropped = sum(balance.frames_dropped.values())
        captions = balance.requests_ended.get("final", 0)
        return Text(
            f" {state}  {self._fps:.1f} frames/s  {balance.frames_processed} processed  "
            f"{dropped} dropped  {captions} captions  Ctrl-C ends",
            style=_LOST_STYLE if state == "draining" else "dim",
        )

    def __enter__(self) -> TerminalView:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)
