"""Guards that every test lives under, and the few fixtures that all packages share."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import ureca  # noqa: F401  (first of all: what it sets in the environment holds for the tests, too)

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 20.0

# tqdm's first bar starts a thread that stays; which test has the first bar depends on the order.
with contextlib.suppress(ImportError):
    from tqdm import tqdm

    tqdm.monitor_interval = 0

settings.register_profile("ureca", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("ureca")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_NameFailures(config), "name-failures")


class _NameFailures:
    """Prints the name and the last line of a failure at once: a run that is cut short is silent
    otherwise about what failed in it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            reason = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            first = next(iter(reason.splitlines()), "")
            terminal.ensure_newline()
            terminal.write_line(f"{report.when} failed: {report.nodeid}: {first[:200]}")


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    """A test that leaves a thread, a ZeroMQ context or an event loop behind fails, and one after
    which this process has another priority: some encoders take a real-time one.
    """
    threads, polls, priority = set(threading.enumerate()), _open_polls(), _get_priority()
    yield
    assert _get_priority() == priority, "the test changed the priority of this process"
    left = _wait_until_gone(lambda: [t.name for t in set(threading.enumerate()) - threads])
    assert not left, f"the test left threads behind: {left}"
    if _open_polls() > polls:
        gc.collect()
        extra = _wait_until_gone(lambda: max(0, _open_polls() - polls))
        assert not extra, f"the test left {extra} ZeroMQ contexts or event loops open"


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command configures the log of the whole process; the next test must not notice."""
    logger = logging.getLogger("ureca")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def _get_priority() -> object:
    """How the kernel schedules this thread, where there is a way to ask."""
    return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None


def _open_polls() -> int:
    """Every ZeroMQ context and every asyncio loop holds epoll descriptors."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    return sum(_target(link) == "anon_inode:[eventpoll]" for link in folder.iterdir())


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed since it was listed
        return ""


def _wait_until_gone(leftover: Callable[[], object]) -> object:
    until = time.monotonic() + GRACE_S
    while (left := leftover()) and time.monotonic() < until:
        time.sleep(0.02)
    return left


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name and on nothing else."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The data folder; tests that ask for it are skipped where there is none."""
    folder = Path(os.environ.get("URECA_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set URECA_DATA")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Compare bytes with `golden/NAME.hex` beside the test, or rewrite it with --update-golden."""

    def check(name: str, data: bytes) -> None:
        path = request.path.parent / "golden" / f"{name}.hex"
        text = "\n".join(data.hex()[i : i + 96] for i in range(0, len(data) * 2, 96)) + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path.name} is missing: run pytest --update-golden and review it"
        assert bytes.fromhex(path.read_text()) == data, (
            f"{path.name}: the bytes on the wire changed"
        )

    return check
