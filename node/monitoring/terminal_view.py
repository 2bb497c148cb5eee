"""The live view of `ureca run`: regions with their captions as they are written, rates, ages and
losses.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ureca.cli.watch import MAX_ROWS, table
from ureca.client.region_cache import RegionCache
from ureca.clock import Clock
from ureca.node.counters import Balance
from ureca.node.monitoring.run_report import NO_REGIONS_AFTER_S, NO_REGIONS_HINT
from ureca.protocol.events import AnyEvent

_LOST_STYLE = "yellow"
_MAX_NOTES = 3


class TerminalView:
    """A sink that keeps the regions, drawn by whoever calls `draw`. Use as a context manager."""

    def __init__(self, clock: Clock, console: Console | None = None) -> None:
        self._clock = clock
        self._regions = RegionCache(MAX_ROWS)
        self._lock = threading.Lock()
        self._live = Live(auto_refresh=False, console=console, transient=True)
        self._before: tuple[int, int] = (0, 0)
        self._fps = 0.0
        self._since_ns = clock.now_ns()

    def __call__(self, event: AnyEvent) -> None:
        """Take note of one event; called on the socket thread."""
        with self._lock:
            self._regions.apply(event)

    def draw(self, balance: Balance, state: str, reasons: Sequence[str] = ()) -> None:
        """Redraw; called on the main thread a few times per second. `reasons`: why the node is not
        well, as `health` says it.
        """
        now_ns = self._clock.now_ns()
        with self._lock:
            drawn = table(self._regions, now_ns)
            has_regions = len(self._regions) > 0
        notes = [*reasons[:_MAX_NOTES], *self._hint(balance, now_ns, has_regions=has_regions)]
        foot = [Text(f" {note}", style=_LOST_STYLE) for note in notes]
        status = self._status(balance, state, now_ns)
        self._live.update(Group(drawn, *foot, status), refresh=True)

    def _hint(self, balance: Balance, now_ns: int, *, has_regions: bool) -> list[str]:
        """How to give regions, when frames have come for a while and there are none."""
        if has_regions or not balance.frames_processed:
            self._since_ns = now_ns
        is_late = now_ns - self._since_ns > NO_REGIONS_AFTER_S * 1e9
        return [NO_REGIONS_HINT] if is_late else []

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
