"""Kill, stop and replace a node and the processes around it at random, for as long as asked.

    python tools/chaos.py --minutes 15 --seed 7

Two cameras send four moving things each: `a` publishes, `b` sends when the node requests frames
(credits). Each start of a camera chooses JPEG or shared memory at random. A client in this process
and a follower (`AsyncClient`, the part that bridges and the viewer use) in another receive events.
After every fault both must see captions and images of both streams again. The output lists the
faults with the time to recovery. The exit code is 1 when a peer did not recover, an exception was
not handled, or the counters of an orderly end did not balance. The engine is the tests' scripted
one. A fault follows every second.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
STREAMS = {"a", "b"}
PATIENCE_S = 40.0
ORDERLY_S = 30.0
BALANCED = "every frame and caption is accounted for"
FPS = 20.0


# --- the peers -----------------------------------------------------------------------------------


def camera(kind: str, address: str, how: str) -> None:
    """Frames of stream `a` (published) or `b` (on credit) until it is killed."""
    import cv2

    from ureca.client.frame_publisher import FrameDealer, FramePublisher
    from ureca.testing import SyntheticSource

    def jpeg(image: Any) -> bytes:
        return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()

    ways: dict[str, Any] = {"jpeg": {"encoder": jpeg}, "shm": {"shm": True}}
    made: Any = FramePublisher if kind == "a" else FrameDealer
    frames = list(SyntheticSource(frames=40, things=4, width_px=320, height_px=240))
    with made(address, stream=kind, **ways[how]) as sender:
        while True:
            for frame in frames:
                time.sleep(1 / FPS)
                sender.send(frame.image, regions=frame.regions)


def follower(events: str, requests: str) -> None:
    """A line for every picture that comes, until it is killed."""
    from ureca.bridges.node_follower import NodeFollower
    from ureca.client.async_client import AsyncClient

    async def follow() -> None:
        async with AsyncClient.connect(events, requests) as client:
            await NodeFollower(client, on_sight=lambda sight: print(sight.picture.stream)).run()

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper
    asyncio.run(follow())


# --- faults --------------------------------------------------------------------------------------


class Cast:
    """Everybody who can be killed, and where they write."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self._chance = folder, chance
        self._at = {n: f"ipc://{folder}/{n}" for n in ("events", "requests", "a", "b")}
        self.live = {name: self._start(name) for name in ("node", "a", "b", "follower")}

    @property
    def addresses(self) -> tuple[str, str]:
        """The node's, for clients."""
        return self._at["events"], self._at["requests"]

    def kill(self, name: str) -> None:
        """At once; sometimes its successor takes its time."""
        self.live[name].kill()
        self.live[name].wait()
        if self._chance.random() < 0.5:
            time.sleep(3 * self._chance.random())
        self.live[name] = self._start(name)

    def stop(self, name: str) -> None:
        """Neither dead nor alive for up to six seconds."""
        self.live[name].send_signal(signal.SIGSTOP)
        time.sleep(6 * self._chance.random())
        self.live[name].send_signal(signal.SIGCONT)

    def end(self, name: str) -> None:
        """As a service manager does."""
        self.live[name].terminate()
        self.live[name].wait(ORDERLY_S)
        self.live[name] = self._start(name)

    def close(self) -> None:
        """The node in good order, the others at once."""
        self.live["node"].terminate()
        self.live["node"].wait(ORDERLY_S)
        for process in self.live.values():
            process.kill()
            process.wait()

    def deaths(self) -> str:
        """Who has ended of its own accord, and its last words."""
        ended = {n: p.returncode for n, p in self.live.items() if p.poll() is not None}
        told = [
            f"{n} ended with {code}: {self.text(f'{n}.err')[-300:]}" for n, code in ended.items()
        ]
        return "\n".join(told) or "everybody lives"

    def text(self, name: str) -> str:
        """What was written so far, by all its lives."""
        return (self.folder / name).read_text("utf8")

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (
            (self.folder / f"{name}.out").open("ab") as out,
            (self.folder / f"{name}.err").open("ab") as err,
        ):
            return subprocess.Popen(
                [sys.executable, *self._command(name)], stdout=out, stderr=err, cwd=ROOT
            )

    def _command(self, name: str) -> list[str]:
        if name == "node":
            sources = ["--source", f"zmq+{self._at['a']}", "--source", f"credit+{self._at['b']}"]
            where = ["--set", f"publish.events={self._at['events']}"]
            where += ["--set", f"publish.requests={self._at['requests']}"]
            return ["tests/system/scripted_node.py", "--quiet", *sources, *where]
        if name == "follower":
            return [__file__, "--follower", *self.addresses]
        return [__file__, "--camera", name, self._at[name], self._chance.choice(("jpeg", "shm"))]


class Ears:
    """The client that is never killed, but made anew now and then, and what the follower wrote."""

    def __init__(self, cast: Cast) -> None:
        from ureca.client.client import Client

        self._cast, self._connect = cast, Client.connect
        self._client = self._connect(*cast.addresses, timeout_s=3)

    def anew(self) -> None:
        """Leave and come back."""
        self._client.close()
        self._client = self._connect(*self._cast.addresses, timeout_s=3)

    def recovery_s(self) -> float:
        """How long it took until both had heard of both streams; `TimeoutError` if they did not."""
        begun = time.monotonic()
        written = len(self._cast.text("follower.out"))
        heard: set[str] = set()
        seen: set[str] = set()
        for event in self._client.events(timeout_s=PATIENCE_S):
            if type(event).__name__.startswith("Caption"):
                heard.add(event.stream)
            seen = set(self._cast.text("follower.out")[written:].split())
            if (took_s := time.monotonic() - begun) > PATIENCE_S:
                break
            if heard >= STREAMS and seen >= STREAMS:
                return took_s
        raise TimeoutError(
            f"after {PATIENCE_S:g} s the client has heard {sorted(heard)}, the follower "
            f"has seen {sorted(seen)}; {self._cast.deaths()}"
        )

    def ask(self) -> str:
        """One of each kind of question; the code of its refusal."""
        from ureca.errors import RequestError

        try:
            self._client.stats()
            self._client.picture("a")
        except RequestError as error:
            return error.code
        return "answered"

    def close(self) -> None:
        """Both sockets."""
        self._client.close()


# --- the run -------------------------------------------------------------------------------------


def chaos(options: argparse.Namespace, folder: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Seconds to recovery by deed, and what was wrong."""
    chance = random.Random(options.seed)  # noqa: S311  (the same deeds again, not secrets)
    cast = Cast(folder, chance)
    ears = Ears(cast)
    deeds = deeds_of(cast, ears)
    found: dict[str, list[float]] = defaultdict(list)
    wrong = []
    end, name = time.monotonic() + 60 * options.minutes, "start"
    try:
        while time.monotonic() < end:
            try:
                found[name].append(ears.recovery_s())
            except TimeoutError as error:
                wrong.append(f"{name}: {error}")
                break
            found[f"asked: {ears.ask()}"].append(0.0)
            time.sleep(chance.random())
            name = chance.choice(sorted(deeds))
            deeds[name]()
    finally:
        ears.close()
        cast.close()
    return found, wrong + faults(cast)


def deeds_of(cast: Cast, ears: Ears) -> dict[str, Callable[[], None]]:
    """What can happen."""
    deeds: dict[str, Callable[[], None]] = {"client anew": ears.anew}
    for name in cast.live:
        deeds[f"kill {name}"] = lambda name=name: cast.kill(name)  # type: ignore[misc]
        deeds[f"stop {name}"] = lambda name=name: cast.stop(name)  # type: ignore[misc]
    deeds["end node"] = lambda: cast.end("node")
    return deeds


def faults(cast: Cast) -> list[str]:
    """Exceptions in any log, and counters that do not balance."""
    logs = {name: cast.text(f"{name}.err") for name in cast.live}
    wrong = [
        f"{name}: {log[log.index('Traceback') :][:2000]}"
        for name, log in logs.items()
        if "Traceback" in log
    ]
    said = re.findall(r"^accounting +(.+)$", cast.text("node.out"), re.MULTILINE)
    wrong += [f"accounting: {one}" for one in said if one != BALANCED]
    return wrong + ["no summary of an orderly end"] * (not said)


def show(found: dict[str, list[float]]) -> None:
    """The figures for people."""
    table = Table("deed", "times", "to recovery, median s", "worst s")
    for name, took_s in sorted(found.items()):
        figures = (f"{statistics.median(took_s):.2f}", f"{max(took_s):.2f}")
        table.add_row(name, str(len(took_s)), *(("", "") if name[:5] == "asked" else figures))
    Console().print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Kill, stop and replace a node and its peers at random; see whether all heals.",
        epilog="example: python tools/chaos.py --minutes 15 --seed 7",
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the order of deeds")
    parser.add_argument("--camera", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--follower", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Do it, show; 1 when something is wrong."""
    options = parsed()
    if options.camera:
        camera(*options.camera)
    elif options.follower:
        follower(*options.follower)
    else:
        with tempfile.TemporaryDirectory() as name:
            found, wrong = chaos(options, Path(name))
        show(found)
        print(
            "\n".join(f"WRONG  {one}" for one in wrong) or "everybody recovered, counters balance"
        )
        return int(bool(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
