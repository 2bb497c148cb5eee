"""What a page that looks costs the node: captions' ages with and without it, turn by turn.

    python tools/viewer_cost.py --rounds 8 --seconds 20 -o viewer-cost.json

One node takes 8 moving regions at 15 frames per second (the camera of tools/soak.py). In each round
it is watched for a while without and with a page in Chromium that takes 0.2 s for every picture, in
alternating order. Chromium draws on the processor of the same machine, so where it has no core of
its own the difference holds its work as well as the node's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from soak import Watcher, running  # noqa: E402
from soak_figures import sample_of, spread  # noqa: E402

from tests.viewer.chromium import Tab, chromium  # noqa: E402

SETTLE_S = 4.0
SLOW_DRAWING = (
    "(() => { const plain = window.createImageBitmap; window.createImageBitmap = async (blob) =>"
    " { await new Promise((done) => setTimeout(done, 200)); return plain(blob); }; })()"
)
SHOWN = "document.querySelector('.stage.has-picture:not(.stale)') !== null"


@dataclass(frozen=True)
class Turn:
    """One stretch with or without a page."""

    page: bool
    ages_ms: dict[str, float]
    processed_per_s: float
    dropped: int
    node_cores: float


@contextmanager
def looking(tab: Tab, events: str, requests: str) -> Iterator[None]:
    """A viewer of its own process, and the page that draws slowly."""
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
        url = next(line for line in child.stdout if line.startswith("ureca view: "))
        tab.open(url.removeprefix("ureca view: ").strip())
        tab.js(SLOW_DRAWING)
        tab.until(SHOWN)
        yield
    finally:
        tab.open("about:blank")
        child.kill()
        child.wait()


def turn(watcher: Watcher, pid: int, seconds: float, *, page: bool) -> Turn:
    """Watch for so long, after a moment to settle."""
    watcher.watch(SETTLE_S)
    watcher.ages_ms.clear()
    before, cpu = dict(watcher.counters), sample_of(pid, 0).cpu_s
    start = time.monotonic()
    watcher.watch(seconds)
    took_s = time.monotonic() - start
    rise = {key: value - before.get(key, 0) for key, value in watcher.counters.items()}
    return Turn(
        page=page,
        ages_ms=spread(watcher.ages_ms),
        processed_per_s=round(rise.get("frames_processed", 0) / took_s, 2),
        dropped=sum(n for key, n in rise.items() if key.startswith("drop_")),
        node_cores=round((sample_of(pid, 0).cpu_s - cpu) / took_s, 3),
    )


def measured(options: argparse.Namespace) -> list[list[Turn]]:
    """For each round the turn without a page, then the one with it."""
    rounds = []
    with tempfile.TemporaryDirectory() as name, chromium() as new_tab:
        tab = new_tab()
        with running(options, Path(name)) as (node, events, requests):
            watcher = Watcher(events, requests)
            watcher.wait_ready()
            watcher.watch(10)
            for k in range(options.rounds):
                pair = {}
                for page in (False, True) if k % 2 else (True, False):
                    if page:
                        with looking(tab, events, requests):
                            pair[page] = turn(watcher, node.pid, options.seconds, page=True)
                    else:
                        pair[page] = turn(watcher, node.pid, options.seconds, page=False)
                    print(pair[page], flush=True)
                rounds.append([pair[False], pair[True]])
    return rounds


def summary(rounds: list[list[Turn]]) -> dict[str, object]:
    """Medians over the rounds, and the differences round by round."""
    found: dict[str, object] = {"rounds": len(rounds)}
    for key in ("p50", "p95"):
        without, there = ([pair[k].ages_ms[key] for pair in rounds] for k in (0, 1))
        gaps = [b - a for a, b in zip(without, there, strict=True)]
        quartiles = statistics.quantiles(gaps, n=4) if len(gaps) > 1 else gaps
        found[f"age_{key}_ms"] = {
            "without": round(statistics.median(without), 1),
            "with": round(statistics.median(there), 1),
            "difference_quartiles": [round(q, 1) for q in quartiles],
        }
    for key in ("processed_per_s", "dropped", "node_cores"):
        found[key] = [statistics.median(getattr(pair[k], key) for pair in rounds) for k in (0, 1)]
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
        turns = [[asdict(one) for one in pair] for pair in rounds]
        options.out.write_text(json.dumps({"summary": found, "turns": turns}, indent=1))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
