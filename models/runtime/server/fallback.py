"""Fast words now, better words later: a bundle's captions until those of a server come.

The bundle's engine writes first; its words go out as deltas. The server's words then replace them,
and `caption.final` has the model that wrote it. A region that the server fails keeps the fast
words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ureca.clock import MonotonicClock
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import Engine, RemoteEngine, never
from ureca.errors import EngineError
from ureca.log import RateLimitedLog

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TwofoldFrame:
    """What `FallbackEngine.encode` returns: the frame of each engine."""

    fast: Any
    remote: Any


class FallbackEngine:
    """Captions with `fast`, then with `remote`; see `Engine` and `RemoteEngine`."""

    def __init__(self, fast: Engine, remote: RemoteEngine) -> None:
        self._fast, self._remote = fast, remote
        self._kept = 0
        self._warnings = RateLimitedLog(_log, MonotonicClock())

    @property
    def info(self) -> EngineInfo:
        """That of the server; a batch is as large as both take."""
        most = min(self._fast.info.max_regions, self._remote.info.max_regions)
        return replace(self._remote.info, max_regions=most)

    @property
    def times(self) -> StageTimes:
        """Stages of both; `prep` is the sum."""
        both = (self._fast.times.us, self._remote.times.us)
        names = [name for times in both for name in times]
        return StageTimes({name: sum(times.get(name, 0) for times in both) for name in names})

    @property
    def answers_within_s(self) -> float:
        """See `RemoteEngine`."""
        return self._remote.answers_within_s

    def summarise(self) -> str:
        """The server's accounts, and how many regions kept the fast words."""
        name = self._fast.info.model
        return f"{self._remote.summarise()}; {self._kept} regions kept the words of {name}"

    def encode(self, image: Image) -> TwofoldFrame:
        """Encode for both. `image` is u8 [H, W, 3] RGB."""
        return TwofoldFrame(self._fast.encode(image), self._remote.encode(image))

    def caption(
        self,
        frame: TwofoldFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine.caption`. A `RowDelta` of the server has the offset 0: it replaces the fast
        words. A `RowDone` with fast words names their `writer`.
        """
        if len(regions) > self.info.max_regions:
            raise EngineError(
                f"expected at most {self.info.max_regions} regions, got {len(regions)}"
            )
        return self._write(frame, regions, aborted)

    def _write(
        self, frame: TwofoldFrame, regions: Sequence[RegionInput], aborted: Callable[[int], bool]
    ) -> Iterator[RowDelta | RowDone]:
        words: dict[int, RowDone] = {}
        for out in self._fast.caption(frame.fast, self._limit(regions), aborted=aborted):
            if isinstance(out, RowDone) and out.stop != "aborted":
                words[out.row] = out
            else:
                yield out
        try:
            for out in self._ask(frame, regions, sorted(words), aborted):
                if isinstance(out, RowDone):
                    del words[out.row]
                yield out
        except EngineError as error:
            self._warnings.warning("server", f"{len(words)} regions keep fast words: {error}")
        self._kept += len(words)
        for done in words.values():
            yield replace(done, writer=self._fast.info)

    def _ask(
        self,
        frame: TwofoldFrame,
        regions: Sequence[RegionInput],
        rows: Sequence[int],
        aborted: Callable[[int], bool],
    ) -> Iterator[RowDelta | RowDone]:
        """What the server says of `rows`, with the numbers that they have among `regions`."""
        if not rows:
            return
        asked = [regions[row] for row in rows]
        stops = lambda index: aborted(rows[index])  # noqa: E731
        for out in self._remote.caption(frame.remote, asked, aborted=stops):
            yield replace(out, row=rows[out.row])

    def _limit(self, regions: Sequence[RegionInput]) -> list[RegionInput]:
        most = self._fast.info.max_new_tokens
        return [replace(r, max_new_tokens=min(r.max_new_tokens, most)) for r in regions]
