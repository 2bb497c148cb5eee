"""Small numbers for regions, for pictures whose pixels name them."""

from __future__ import annotations

from collections.abc import Iterable


class RegionNumbers:
    """Numbers from 1 to `largest`, each kept for as long as its region is there."""

    def __init__(self, largest: int = 65_535) -> None:
        self._largest = largest
        self._numbers: dict[str, int] = {}

    def assign(self, rids: Iterable[str]) -> dict[str, int]:
        """The number of each region that is there now, the lowest free one for a new region; those
        beyond the largest have none. The numbers of all others become free.
        """
        there = list(dict.fromkeys(rids))
        self._numbers = {rid: n for rid in there if (n := self._numbers.get(rid)) is not None}
        taken = set(self._numbers.values())
        free = (n for n in range(1, self._largest + 1) if n not in taken)
        for rid in there:
            if rid not in self._numbers and (number := next(free, None)) is not None:
                self._numbers[rid] = number
        return dict(self._numbers)
