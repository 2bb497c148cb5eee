"""Handles SIGINT, SIGTERM and SIGHUP in `ureca run`."""

from __future__ import annotations

import os
import signal
from typing import Any

from ureca.node.node import Node


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a command for an orderly end."""
    hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangup else ()))


class Signals:
    """Use it as a context manager around everything that has to be closed.

    The first signal drains the node, the second ends the grace of captions in flight, the third
    ends the process at once. Before there is a node, a signal ends the command. SIGHUP, the end of
    a terminal, is one of them unless it is ignored (`nohup`).
    """

    def __init__(self) -> None:
        self._count = 0
        self._node: Node | None = None
        self._before: dict[signal.Signals, Any] = {}

    def stop_on_signal(self, node: Node) -> None:
        """From now on signals are for `node`."""
        self._node = node

    def __enter__(self) -> Signals:
        for number in ending_signals():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(128 + number)
        if self._node is None:
            raise SystemExit(128 + number)
        self._node.stop()
