"""Runs `ureca curate` on many real images against a server that fails, throttles, hangs and is
killed.

    python tools/curation/trial.py ../shared/data -o runs/trial --limit 200

Four runs, each with real processes: `whole`, uninterrupted against a server without faults;
`troubled`, against one with faults that is killed and restarted while the client continues, with a
client that is killed, and with a server that is absent until the client gives up; `ray`, on Ray
Data against a server with faults. All must give the same files. Only answers in flight at a kill
may be paid for twice. It prints JSON; exit status 1 when a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from check import check

from ureca.models.curation import output

TOOLS = Path(__file__).resolve().parent
_PRICE = "0.15,0.6"
_AWAY_S = 3.0
_POLL_S = 0.2


class ServerProcess:
    """The scripted server as a process that can be killed and started again at its address."""

    def __init__(
        self, log: Path, *, trouble: float, delay: float, keep: Path | None = None
    ) -> None:
        self.log, self.trouble, self.delay, self.keep = log, trouble, delay, keep
        self.port, self.starts = _free_port(), 0
        self.start()

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Until it listens."""
        self.starts += 1
        words = f"--port {self.port} --trouble {self.trouble} --seed {self.starts}".split()
        words += ["--delay", str(self.delay)]
        words += ["--log", str(self.log), *(["--keep", str(self.keep)] if self.keep else [])]
        self.process = subprocess.Popen(
            [sys.executable, str(TOOLS / "server.py"), *words], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def kill(self) -> None:
        """At once, in the middle of what it does."""
        self.process.kill()
        self.process.communicate()

    def did(self) -> list[tuple[str, str]]:
        """Key and deed of every request so far; the last line may be half there."""
        found = []
        for line in self.log.read_text("utf8").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                found.append((row["key"], row["did"]))
        return found

    def answered(self) -> int:
        """How many answers went out."""
        return sum(did == "answer" for _, did in self.did())

    def counters(self) -> dict[str, Any]:
        """Requests by what was done, and how often a question was answered again."""
        paid = Counter(key for key, did in self.did() if did == "answer")
        return {
            "requests": dict(sorted(Counter(did for _, did in self.did()).items())),
            "distinct_answered": len(paid),
            "answered_again": sum(paid.values()) - len(paid),
            "starts": self.starts,
        }


class CurateProcess:
    """One `ureca curate` process after another in one folder."""

    def __init__(
        self, options: argparse.Namespace, out: Path, server: ServerProcess, *more: str
    ) -> None:
        words = ["curate", *map(str, options.data), "-o", str(out), "--limit", str(options.limit)]
        words += ["--url", server.url, "--model", "scripted", "--timeout", str(options.timeout)]
        words += ["--price", _PRICE, "--json", *options.more, *more]
        self.out, self._words = out, words
        self.sessions: list[dict[str, Any]] = []

    def start(self) -> None:
        """A new session."""
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ureca", *self._words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_DEDUP_LOGS": "0"},
        )

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> dict[str, Any]:
        """What a session printed, when it has ended."""
        printed, said = self._process.communicate()
        lines = printed.splitlines()
        report = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        session = {
            "exit": self._process.returncode,
            "seconds": round(time.monotonic() - self._began, 1),
            **{k: report[k] for k in ("pictures_failed", "questions", "cost") if k in report},
        }
        if self._process.returncode > 0:
            session["said"] = said.strip().splitlines()[-1:]
        self.sessions.append(session)
        return report

    def go(self) -> dict[str, Any]:
        """A whole session."""
        self.start()
        return self.end()

    def ledger(self) -> dict[str, int]:
        """Answers that are kept."""
        rows = [
            json.loads(line)
            for path in sorted((self.out / "answers").glob("*.jsonl"))
            for line in path.read_text("utf8").splitlines()
            if line.endswith("}")
        ]
        return {"rows": len(rows), "distinct": len({row["key"] for row in rows})}


def whole(options: argparse.Namespace) -> tuple[CurateProcess, dict[str, Any]]:
    """The run that the others are compared with."""
    with _serving(options, "whole", trouble=0.0, keep=options.keep) as server:
        client = CurateProcess(options, options.out / "whole", server, *_threads(options))
        client.go()
        return client, _told(client, server)


def troubled(options: argparse.Namespace, questions: int) -> tuple[CurateProcess, dict[str, Any]]:
    """Killed server, killed client, absent server; then to the end."""
    with _serving(options, "troubled", trouble=options.trouble) as server:
        client = CurateProcess(options, options.out / "troubled", server, *_threads(options))
        client.start()
        _wait(lambda: server.answered() > 0.2 * questions or not client.runs)
        server.kill()
        time.sleep(_AWAY_S)
        server.start()
        _wait(lambda: server.answered() > 0.4 * questions or not client.runs)
        client.kill()
        client.start()
        _wait(lambda: server.answered() > 0.6 * questions or not client.runs)
        server.kill()
        client.end()  # it gives up by itself
        server.start()
        client.go()
        return client, _told(client, server)


def on_ray(options: argparse.Namespace) -> tuple[CurateProcess, dict[str, Any]]:
    """On a local Ray cluster."""
    with _serving(options, "ray", trouble=options.trouble) as server:
        client = CurateProcess(options, options.out / "ray", server, "--ray", str(options.ray))
        client.go()
        return client, _told(client, server)


def files(out: Path) -> dict[str, bytes]:
    """Everything that runs must agree in."""
    names = [out / output.ROWS, out / output.CONVERSATIONS, *sorted((out / "pictures").iterdir())]
    return {path.name: path.read_bytes() for path in names}


def faults(
    options: argparse.Namespace, runs: dict[str, tuple[CurateProcess, dict[str, Any]]]
) -> list[str]:
    """What does not hold."""
    found = []
    expected = files(runs["whole"][0].out)
    for name, (client, told) in runs.items():
        if client.sessions[-1]["exit"] != 0:
            found.append(f"{name}: the last session ended with {client.sessions[-1]}")
        if files(client.out) != expected:
            found.append(f"{name}: other files than the uninterrupted run")
        kills = told["starts"] - 1
        kills += sum(session["exit"] == -signal.SIGKILL for session in client.sessions)
        if told["answered_again"] > kills * options.threads:
            found.append(f"{name}: {told['answered_again']} answers were paid for twice")
        ledger = told["ledger"]
        if not ledger["rows"] == ledger["distinct"] == told["distinct_answered"]:
            found.append(f"{name}: the ledger has {ledger}, the server {told['distinct_answered']}")
        broken = check(options.data, client.out, options.limit)["broken"]
        found += [f"{name}: {line}" for line in broken]
    return found


def _told(client: CurateProcess, server: ServerProcess) -> dict[str, Any]:
    return {"sessions": client.sessions, **server.counters(), "ledger": client.ledger()}


def _threads(options: argparse.Namespace) -> list[str]:
    return ["--threads", str(options.threads)]


@contextlib.contextmanager
def _serving(
    options: argparse.Namespace, name: str, *, trouble: float, keep: Path | None = None
) -> Iterator[ServerProcess]:
    log = options.out / f"{name}.requests.jsonl"
    server = ServerProcess(log, trouble=trouble, delay=options.delay, keep=keep)
    try:
        yield server
    finally:
        server.kill()


def _wait(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """1 when something does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="What is not known here goes to `ureca curate`, such as --max-share 1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", nargs="+", type=Path)
    add("-o", "--out", type=Path, required=True, help="a new folder")
    add("--limit", type=int, default=200, help="pictures [%(default)s]")
    add("--threads", type=int, default=4, help="of the clients [%(default)s]")
    add("--trouble", type=float, default=0.08, help="share of requests [%(default)s]")
    add("--delay", type=float, default=0.02, help="of each answer, seconds [%(default)s]")
    add("--timeout", type=float, default=10.0, help="of the clients, seconds [%(default)s]")
    add("--ray", type=int, default=2, metavar="N", help="workers; 0 leaves Ray out [%(default)s]")
    add("--keep", type=Path, metavar="DIR", help="keep what the server was shown")
    options, options.more = parser.parse_known_args()
    options.out.mkdir(parents=True)
    runs = {"whole": whole(options)}
    runs["troubled"] = troubled(options, runs["whole"][1]["distinct_answered"])
    if options.ray:
        runs["ray"] = on_ray(options)
    found = faults(options, runs)
    told = {name: run[1] for name, run in runs.items()}
    report = json.loads((runs["whole"][0].out / output.REPORT).read_text("utf8"))
    tree = check(options.data, runs["whole"][0].out, options.limit)
    print(json.dumps({"report": report, "tree": tree, "runs": told, "faults": found}, indent=1))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
