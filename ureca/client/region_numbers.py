"""Small numbers for regions, for pictures whose pixels name them."""

from __future__ import annotations

from collections.abc import Iterable


class RegionNumbers:
    """Numbers from 1 to `largest`, each kept by its region until that is let go."""

    def __init__(self, largest: int = 65_535) -> None:
        self._largest = largest
        self._numbers: dict[str, int] = {}

    def add(self, rids: Iterable[str]) -> dict[str, int]:
        """The numbers of these regions, the lowest free one for each new one; when none is free it
        has none.
        """
        wanted = list(dict.fromkeys(rids))
        taken = set(self._numbers.values())
        free = (n for n in range(1, self._largest + 1) if n not in taken)
        for rid in wanted:
            if rid not in self._numbers and (number := next(free, None)) is not None:
                self._numbers[rid] = number
        return {rid: self._numbers[rid] for rid in wanted if rid in self._numbers}

    def keep(self, rids: Iterable[str]) -> None:
        """Let all regions but these go; their numbers become free."""
        there = set(rids)
        self._numbers = {rid: number for rid, number in self._numbers.items() if rid in there}

    def forget(self, rid: str) -> None:
        """Let one region go."""
        self._numbers.pop(rid, None)
