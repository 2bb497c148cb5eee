"""The results of checks, and their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "bad", "absent"]
"""`bad` stops the node, `warn` costs speed or honesty, `absent` is an option that is not there."""

_MARKS: dict[State, str] = {"ok": "ok", "warn": "WARN", "bad": "BAD", "absent": "-"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy` is a command or a sentence, empty where nothing is to do."""

    name: str
    state: State
    said: str
    remedy: str = ""

    def text(self, width: int) -> str:
        """For a terminal."""
        line = f"{_MARKS[self.state]:<5} {self.name:<{width}}  {self.said}"
        return f"{line}\n{'':<6}{'':<{width}}  -> {self.remedy}" if self.remedy else line


Check = Callable[[], Finding | Iterable[Finding]]


def examine(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Yields findings one by one. A check that raises is a finding, too."""
    for name, check in checks:
        yield from _tried(name, check)


def _tried(name: str, check: Check) -> Iterator[Finding]:
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except Exception as error:  # noqa: BLE001  (a doctor does not die of the patient's illness)
        yield Finding(name, "bad", f"{type(error).__name__}: {error}")


def plain(findings: Iterable[Finding]) -> dict[str, Any]:
    """The report for machines."""
    listed = [asdict(finding) for finding in findings]
    return {"ready": all(each["state"] != "bad" for each in listed), "findings": listed}
