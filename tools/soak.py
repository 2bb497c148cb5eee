"""Run the shipped node for long under steady load and see whether anything grows.

    python tools/soak.py --minutes 40 --warmup 10 -o soak

A camera process sends JPEG pictures at 15 frames per second with the masks of eight moving things;
a subscriber reads everything, asks now and then, and comes back every minute. Written are
`soak.json` (all samples) and `soak.png`. Exit code 1 when memory, threads or descriptors grow, an
exception was not handled, or the counters do not balance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soak_figures import ProcessSample, draw, judged, sample_of, spread

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_S, ASK_S, RETURN_S = 1.0, 5.0, 60.0
SHOTS = 120
READY_S = 900.0


# --- the peers -----------------------------------------------------------------------------------


def camera(address: str, fps: float, regions: int) -> None:
    """Moving things with their masks and noise, as JPEG, until it is killed. A stretch of pictures
    is made beforehand and sent to and fro, so that sending costs next to nothing.
    """
    import msgspec

    from ureca.client.frame_publisher import FramePublisher

    shots = prepared(regions)
    with FramePublisher(address, stream="cam0", encoder=lambda _: b"") as publisher:
        start = time.monotonic()
        for seq in itertools.count():
            time.sleep(max(0.0, start + seq / fps - time.monotonic()))
            place = seq % (2 * len(shots) - 2)
            header, jpeg = shots[min(place, 2 * len(shots) - 2 - place)]
            now = {
                "session_id": publisher.session_id,
                "seq": seq,
                "captured_ns": time.monotonic_ns(),
            }
            publisher.send_encoded(msgspec.structs.replace(header, **now), jpeg)


def prepared(regions: int) -> list[tuple[Any, bytes]]:
    """Frame headers with masks, and JPEGs with noise."""
    import cv2
    import numpy as np

    from ureca.protocol.frames import FrameHeader
    from ureca.testing import SyntheticSource

    source = SyntheticSource(frames=SHOTS, things=regions, width_px=640, height_px=480)
    noise = np.random.default_rng(0).integers(-8, 9, (481, 641, 3), np.int16)
    shots = []
    for frame in source:
        y, x = frame.seq % 2, frame.seq // 2 % 2
        noisy = frame.image + noise[y : y + 480, x : x + 640]
        bgr = np.clip(noisy, 0, 255).astype(np.uint8)[..., ::-1]
        shots.append((FrameHeader.of(frame, "jpeg"), cv2.imencode(".jpg", bgr)[1].tobytes()))
    return shots


class Watcher:
    """The subscriber: counts events, notes ages, asks, and connects anew every minute."""

    def __init__(self, events: str, requests: str) -> None:
        self._addresses = (events, requests)
        self.kinds: Counter[str] = Counter()
        self.ages_ms: list[float] = []
        self._last: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.missed = 0

    def wait_ready(self) -> None:
        """Until the first caption: loading and preparing are no part of the soak."""
        from ureca.client.client import Client

        with Client.connect(*self._addresses) as client:
            if next(client.events({"caption.final"}, timeout_s=READY_S), None) is None:
                raise SystemExit(f"no caption within {READY_S:g} s")

    def watch(self, seconds: float) -> None:
        """Until the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._visit(min(end, time.monotonic() + RETURN_S))

    def _visit(self, until: float) -> None:
        from ureca.client.client import Client

        ask_at = time.monotonic()
        with Client.connect(*self._addresses, timeout_s=20) as client:
            while (now := time.monotonic()) < until:
                for event in client.events(timeout_s=0.1):
                    self._note(event)
                    if time.monotonic() > min(until, ask_at):
                        break
                if now >= ask_at:
                    self._ask(client)
                    ask_at = now + ASK_S
            self.missed += client.missed

    def _ask(self, client: Any) -> None:
        from ureca.errors import RequestError

        try:
            client.snapshot()
            client.describe("red", stream="cam0", deadline_s=20)
            self.asked["answered"] += 1
        except RequestError as error:
            self.asked[error.code] += 1

    def _note(self, event: Any) -> None:
        from ureca.protocol.event_table import event_kind
        from ureca.protocol.events import CaptionFinal, Heartbeat

        self.kinds[event_kind(event)] += 1
        if isinstance(event, CaptionFinal):
            if self._last.get(event.rid) != event.request_id:  # else repeated for a newcomer
                self.ages_ms.append(event.age_at_pub_ms)
            self._last[event.rid] = event.request_id
        elif isinstance(event, Heartbeat):
            self.counters = event.counters


# --- the run -------------------------------------------------------------------------------------


@contextmanager
def running(
    options: argparse.Namespace, folder: Path, addresses: tuple[str, str] | None = None
) -> Iterator[tuple[Any, str, str]]:
    """The camera and the node, with its output in `out` and `err`; what is left of them is killed.
    `addresses` are those of events and requests.
    """
    frames = f"ipc://{folder}/frames"
    events, requests = addresses or (f"ipc://{folder}/ev", f"ipc://{folder}/rq")
    script = [sys.executable, str(ROOT / "tools" / "soak.py"), "--camera", frames]
    sender = subprocess.Popen(
        [*script, "--fps", str(options.fps), "--regions", str(options.regions)]
    )
    node_words = ["--source", f"zmq+{frames}", "--quiet", *options.node]
    node_words += ["--set", f"publish.events={events}", "--set", f"publish.requests={requests}"]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        node = subprocess.Popen(
            [sys.executable, str(ROOT / "run_node.py"), *node_words], stdout=out, stderr=err
        )
        try:
            yield node, events, requests
        finally:
            for process in (sender, node):
                process.kill()
                process.wait()


@contextmanager
def sampling(pid: int, samples: list[ProcessSample]) -> Iterator[None]:
    """A sample every `SAMPLE_S`, on a thread of its own: nothing that is asked may hold it up."""
    stop, start = threading.Event(), time.monotonic()

    def take() -> None:
        while not stop.wait(SAMPLE_S):
            samples.append(sample_of(pid, time.monotonic() - start))

    thread = threading.Thread(target=take, name="soak-samples")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured."""
    samples: list[ProcessSample] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(options, folder) as (node, events, requests):
            watcher = Watcher(events, requests)
            watcher.wait_ready()
            with sampling(node.pid, samples):
                watcher.watch(60 * options.minutes)
            stop_and_count(node, watcher, (events, requests))
        out, err = ((folder / name).read_text() for name in ("out", "err"))
    return {
        "options": {key: value for key, value in vars(options).items() if key != "out"},
        "exit_code": node.returncode,
        "summary": out.splitlines(),
        "log": err.splitlines()[-50:],
        "exceptions": err.count("Traceback"),
        "events": watcher.kinds,
        "missed": watcher.missed,
        "asked": watcher.asked,
        "ages_ms": spread(watcher.ages_ms),
        "counters": watcher.counters,
        "samples": [asdict(sample) for sample in samples],
        **judged(samples, options.warmup * 60),
    }


def stop_and_count(node: Any, watcher: Watcher, addresses: tuple[str, str]) -> None:
    """An orderly end; the last heartbeat has the final counters."""
    from ureca.client.client import Client

    with Client.connect(*addresses, timeout_s=20) as client:
        client.hello()
        node.send_signal(signal.SIGTERM)
        for event in client.events({"heartbeat"}, timeout_s=10):
            watcher._note(event)  # noqa: SLF001  (of this very file)
        node.wait(60)


def faults(found: dict[str, Any]) -> list[str]:
    """What is wrong; empty when nothing is."""
    from ureca.invariants import imbalances

    wrong = list(imbalances(found["counters"]))
    wrong += [f"{found['exceptions']} exceptions were not handled"] * bool(found["exceptions"])
    wrong += [f"the node ended with {found['exit_code']}"] * bool(found["exit_code"])
    for what, (first, last) in found["first_and_last_quarter_max"].items():
        wrong += [f"{what} grew from {first} to {last}"] * (last > first)
    slope_mib = found["rss_slope_mib"]
    if slope_mib is None:
        wrong.append("too few samples after the warm-up for a slope")
    elif slope_mib["grows"]:
        wrong.append("resident memory grows")
    return wrong


def show(found: dict[str, Any]) -> None:
    """The figures for people."""
    slope_mib = found["rss_slope_mib"]
    if slope_mib is not None:
        print(
            f"memory    {slope_mib['per_hour']:+.2f} MiB/h, 95 % interval +-"
            f"{slope_mib['half_width']:.2f} ({len(found['samples'])} samples)"
        )
    for what, (first, last) in found["first_and_last_quarter_max"].items():
        print(f"{what:<13} first quarter {first}, last quarter {last}")
    print(f"exceptions    {found['exceptions']}, missed events {found['missed']}")
    print(f"asked         {dict(found['asked'])}")
    print(f"age at publication, ms: {found['ages_ms']}")
    print("\n".join(found["summary"]))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run the shipped node under steady load and see whether anything grows.",
        epilog="example: python tools/soak.py --minutes 40 --warmup 10 -o soak",
    )
    parser.add_argument("--minutes", type=float, default=40.0, help="with the warm-up [40]")
    parser.add_argument("--warmup", type=float, default=10.0, help="minutes that are left out [10]")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--regions", type=int, default=8, help="1 to 8")
    parser.add_argument("--node", nargs="*", default=[], help="more options of ureca run")
    parser.add_argument("-o", "--out", type=Path, default=Path("soak"), help="PREFIX of the files")
    parser.add_argument("--camera", metavar="ADDRESS", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run, write, show; 1 when something is wrong."""
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the node and the camera end with us
    if options.camera:
        camera(options.camera, options.fps, options.regions)
        return 0
    found = soak(options)
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    draw(found, options.out.with_suffix(".png"))
    show(found)
    wrong = faults(found)
    print("\n".join(f"WRONG     {one}" for one in wrong) or "nothing grows, the counters balance")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
