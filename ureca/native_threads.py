"""Threads whose work may be inside a native call when the process wants to end.

A thread that returns from ONNX Runtime, OpenCV or a driver while the interpreter is finalised
aborts the process: Python ends such a thread by `pthread_exit`, which no C++ code survives, and the
static objects of the library are destroyed under it. So every such thread of ours is a
`NativeThread`. It is told to stop and joined for a bounded time. If it does not end in time, the
command line ends the process without finalising it (`leave`), and a program that uses the library
waits for it once more before it is finalised, at most `EXIT_WAIT_S`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import NoReturn

EXIT_WAIT_S = 30.0
"""How long the end of a program that uses the library waits for threads that were given up."""
_JOIN_S = 10.0
_log = logging.getLogger(__name__)
_threads: weakref.WeakSet[NativeThread] = weakref.WeakSet()


class NativeThread(threading.Thread):
    """A daemon thread that `leave` knows. The project has no other daemon threads."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self.is_given_up = False
        """Whether somebody has waited for its end in vain."""
        _threads.add(self)

    def end(self, timeout_s: float) -> bool:
        """Wait for its end; True when it has ended or never started. Tell it to stop first."""
        if self.ident is not None and not self.is_given_up:
            self.join(timeout_s)
        self.is_given_up = self.is_alive()
        return not self.is_given_up


def ends_the_process(error: BaseException) -> bool:
    """Whether what a callback raised is for the process: no `Exception`, on the main thread. On
    any other thread it would only end the thread, and who waits for it would wait for ever.
    """
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and not isinstance(error, Exception)


def running() -> list[str]:
    """The names of the native threads that have not ended."""
    return sorted(thread.name for thread in list(_threads) if thread.is_alive())


def leave(code: int) -> NoReturn:
    """End the process with `code`. Only a command line calls this, as its last act.

    Without a running native thread this is `sys.exit`. With one, other threads are waited for, exit
    handlers run, the standard streams are flushed, and the process ends without finalisation.
    """
    if not running():
        sys.exit(code)
    atexit.unregister(_wait_for_given_up)
    _join_others(time.monotonic() + _JOIN_S)
    atexit._run_exitfuncs()  # noqa: SLF001  (`os._exit` runs none; logging and temporary files need them)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed pipe, or none
            stream.flush()
    os._exit(code)


def _join_others(until_s: float) -> None:
    """Wait for the threads that are no daemons, as an interpreter does at its end."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, until_s - time.monotonic()))


@atexit.register
def _wait_for_given_up() -> None:
    """Before a program that uses the library is finalised; the command line leaves in `leave`."""
    until_s = time.monotonic() + EXIT_WAIT_S
    for thread in [one for one in list(_threads) if one.is_given_up]:
        thread.join(max(0.0, until_s - time.monotonic()))
        if thread.is_alive():
            _log.error("%s has not come back in %g s; the end may abort", thread.name, EXIT_WAIT_S)
