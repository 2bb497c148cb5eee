"""What somebody who looks costs the node: captions' ages with and without, turn by turn.

    python tools/viewer_cost.py --rounds 8 --seconds 20 -o viewer-cost.json

One node takes 8 moving regions at 15 frames per second (the camera of tools/soak.py). Each round
has three turns, in changing order: `nobody` looks; a `socket` looks, which asks the viewer for
pictures as the page does, 0.2 s after each, and draws nothing, as a page elsewhere would; a `page`
in Chromium takes 0.2 s for each picture. Chromium draws on the processor of the same machine: what
the page costs beyond the socket is its own work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from websockets import Origin
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from soak import Watcher, running  # noqa: E402
from soak_figures import sample_of, spread  # noqa: E402

from tests.viewer.chromium import Tab, chromium  # noqa: E402

SETTLE_S = 4.0
DRAWING_S = 0.2
SLOW_DRAWING = (
    "(() => { const plain = window.createImageBitmap; window.createImageBitmap = async (blob) =>"
    f" {{ await new Promise((done) => setTimeout(done, {1000 * DRAWING_S:.0f}));"
    " return plain(blob); }; })()"
)
SHOWN = "document.querySelector('.stage.has-picture:not(.stale)') !== null"
KINDS = ("nobody", "socket", "page")


@dataclass(frozen=True)
class MeasuredTurn:
    """One stretch of a kind of `KINDS`."""

    kind: str
    ages_ms: dict[str, float]
    processed_per_s: float
    dropped: int
    node_cores: float


@contextmanager
def viewer(events: str, requests: str) -> Iterator[str]:
    """A viewer of its own process; its address."""
    command = [sys.executable, "-m", "ureca", "view", "--port", "0"]
    child = subprocess.Popen(
        [*command, "--events", events, "--requests", requests],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        line = next(line for line in child.stdout if line.startswith("ureca view: "))
        yield line.removeprefix("ureca view: ").strip()
    finally:
        child.kill()
        child.wait()


@contextmanager
def page(url: str, tab: Tab) -> Iterator[None]:
    """A page that draws slowly."""
    tab.open(url)
    tab.js(SLOW_DRAWING)
    tab.until(SHOWN)
    try:
        yield
    finally:
        tab.open("about:blank")


@contextmanager
def socket(url: str) -> Iterator[None]:
    """What the page says and waits for, without a browser."""
    stop, shown = threading.Event(), threading.Event()
    live = f"{url.replace('http', 'ws', 1).rstrip('/')}/live"

    def look() -> None:
        with connect(live, origin=Origin(url.rstrip("/"))) as link:
            link.send(json.dumps({"t": "look", "stream": "cam0"}))
            while not stop.is_set():
                with suppress(TimeoutError):
                    if isinstance(link.recv(0.5), bytes):
                        shown.set()
                        time.sleep(DRAWING_S)
                        link.send(json.dumps({"t": "ready"}))

    thread = threading.Thread(target=look, name="socket")
    thread.start()
    try:
        assert shown.wait(30), "no picture came"
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def looking(kind: str, tab: Tab, events: str, requests: str) -> Iterator[None]:
    """Whoever looks in a turn of this kind."""
    if kind == "nobody":
        yield
        return
    with viewer(events, requests) as url, page(url, tab) if kind == "page" else socket(url):
        yield


def turn(watcher: Watcher, pid: int, seconds: float, kind: str) -> MeasuredTurn:
    """Watch for so long, after a moment to settle."""
    watcher.watch(SETTLE_S)
    watcher.ages_ms.clear()
    before, cpu_s = dict(watcher.counters), sample_of(pid, 0).cpu_s
    start = time.monotonic()
    watcher.watch(seconds)
    took_s = time.monotonic() - start
    rise = {key: value - before.get(key, 0) for key, value in watcher.counters.items()}
    return MeasuredTurn(
        kind=kind,
        ages_ms=spread(watcher.ages_ms),
        processed_per_s=round(rise.get("frames_processed", 0) / took_s, 2),
        dropped=sum(n for key, n in rise.items() if key.startswith("drop_")),
        node_cores=round((sample_of(pid, 0).cpu_s - cpu_s) / took_s, 3),
    )


def measured(options: argparse.Namespace) -> list[dict[str, MeasuredTurn]]:
    """The three turns of each round, by kind."""
    rounds = []
    with tempfile.TemporaryDirectory() as name, chromium() as new_tab:
        tab = new_tab()
        with running(options, Path(name)) as (node, events, requests):
            watcher = Watcher(events, requests)
            watcher.wait_ready()
            watcher.watch(10)
            for number in range(options.rounds):
                turns = {}
                for kind in KINDS[number % 3 :] + KINDS[: number % 3]:
                    with looking(kind, tab, events, requests):
                        turns[kind] = turn(watcher, node.pid, options.seconds, kind)
                    print(turns[kind], file=sys.stderr)
                rounds.append(turns)
    return rounds


def summary(rounds: list[dict[str, MeasuredTurn]]) -> dict[str, object]:
    """Medians over the rounds, and quartiles of the differences to `nobody` round by round."""
    return {"rounds": len(rounds)} | {kind: _figures(rounds, kind) for kind in KINDS}


def _figures(rounds: list[dict[str, MeasuredTurn]], kind: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in ("p50", "p95"):
        ages = [turns[kind].ages_ms[key] for turns in rounds]
        gaps = [turns[kind].ages_ms[key] - turns["nobody"].ages_ms[key] for turns in rounds]
        quartiles = statistics.quantiles(gaps, n=4) if len(gaps) > 1 else gaps
        found[f"age_{key}_ms"] = round(statistics.median(ages), 1)
        found[f"age_{key}_more_ms"] = [round(q, 1) for q in quartiles]
    for key in ("processed_per_s", "dropped", "node_cores"):
        found[key] = statistics.median(getattr(turns[kind], key) for turns in rounds)
    return found


def main() -> int:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(
        description="Captions' ages with and without a slow page that looks, turn by turn.",
        epilog="example: python tools/viewer_cost.py --rounds 8 --seconds 20",
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn [20]")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--regions", type=int, default=8, help="1 to 8")
    parser.add_argument("--node", nargs="*", default=[], help="more options of ureca run")
    parser.add_argument("-o", "--out", type=Path, help="write every turn as JSON")
    options = parser.parse_args()
    rounds = measured(options)
    found = summary(rounds)
    if options.out is not None:
        turns = [{kind: asdict(one) for kind, one in turns.items()} for turns in rounds]
        options.out.write_text(json.dumps({"summary": found, "rounds": turns}, indent=1))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
