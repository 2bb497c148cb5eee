"""Run the shipped node under attack: two clients with keys and one without flood it in turns.

    python tools/attacks/soak.py --quiet 3 --attack 10 -o attacked.json

A camera sends JPEG pictures with masks as in `tools/soak.py`. An honest client listens and asks
`hello`. First nobody attacks, for the ages of captions to compare with; then every kind of flood
has its turn. Exit code 1 when the 95th percentile of ages is more than twice the quiet one, an
event or a reply is longer on its way than the targets, memory exceeds the bound, or the counters do
not balance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zmq

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from soak import running  # noqa: E402  (the other soak's camera and node)
from soak_figures import sample_of  # noqa: E402

MAX_SILENCE_S, MAX_HELLO_S, MAX_MIB = 2.0, 0.5, 300.0
FLOODS = ("subscribe", "junk", "topics", "maps", "hello", "snapshot", "large", "handshakes")
READY_S = 300.0


# --- attackers -----------------------------------------------------------------------------------


def messages(kind: str) -> Iterator[list[bytes]]:
    """What an attacker with a key of role `observe` sends, without an end."""
    deep = b"\x81\xa1x" + b"\xdc\x10\x00" + b"\x80" * 4096
    head = {"v": [2, 0], "id": b"a", "op": "hello", "deadline_ms": 1000}
    for number in itertools.count():
        if kind == "subscribe":
            yield [bytes([number % 2 == 0]) + b"ureca2/"]
        elif kind == "junk":
            yield [b"zz"]
        elif kind == "topics":
            yield [b"\x01ureca2/%d/%d" % (os.getpid(), number)]
        elif kind == "maps":
            yield [msgpack.packb(head)[:-1] + deep * (200 if number % 2 else 15)]
        elif kind == "large":
            yield [msgpack.packb(head), bytes(16 << 20)]
        else:
            yield [msgpack.packb({**head, "op": kind, "args": {}})]


def attack(kind: str, address: str, keys: Path, seconds: float) -> None:
    """One flood, from a process of its own."""
    from ureca.security.keys import ClientKeys

    if kind == "handshakes":
        open_handshakes(address, seconds)
        return
    with zmq.Context() as context:
        to_events = kind in ("subscribe", "junk", "topics")
        link = context.socket(zmq.XSUB if to_events else zmq.DEALER)
        link.linger = 0
        link.set_hwm(1000 if kind != "large" else 2)
        ClientKeys.read(keys / "evil.key_secret", keys / "node.key").encrypt(link, address)
        link.connect(address)
        until = time.monotonic() + seconds
        for parts in messages(kind):
            while not link.poll(200, zmq.POLLOUT):
                if time.monotonic() > until:
                    break
            if time.monotonic() > until:
                break
            link.send_multipart(parts)  # nothing is ever read
        link.close(0)


def open_handshakes(address: str, seconds: float) -> None:
    """Without a key: 30 commands of 60 MiB at a time that are never whole."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    begun = greeting + b"\x06" + struct.pack(">Q", 60 << 20) + b"\x05HELLO"
    port, until, piece = int(address.rpartition(":")[2]), time.monotonic() + seconds, bytes(1 << 20)
    links: list[socket.socket] = []
    while time.monotonic() < until:
        while len(links) < 30:
            link = socket.create_connection(("127.0.0.1", port), 5)
            link.settimeout(0.2)
            link.sendall(begun)
            links.append(link)
        for link in list(links):
            try:
                link.sendall(piece)
            except OSError:  # noqa: PERF203  (each link on its own)
                links.remove(link)
                link.close()
    for link in links:
        link.close()


# --- the honest client ---------------------------------------------------------------------------


@dataclass
class Figures:
    """What the honest client saw in one stretch of time."""

    ages_ms: list[float] = field(default_factory=list)
    silence_s: float = 0.0
    hello_s: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    events: int = 0

    def summary(self) -> dict[str, float]:
        """The figures that are judged."""
        ages = sorted(self.ages_ms) or [0.0]
        hellos = sorted(self.hello_s) or [0.0]
        return {
            "captions": len(self.ages_ms),
            "age_p50_ms": round(ages[len(ages) // 2], 1),
            "age_p95_ms": round(ages[int(0.95 * (len(ages) - 1))], 1),
            "silence_s": round(self.silence_s, 2),
            "hellos": len(self.hello_s),
            "hello_p95_ms": round(hellos[int(0.95 * (len(hellos) - 1))] * 1e3, 1),
            "hello_max_ms": round(hellos[-1] * 1e3, 1),
            "mib_first": round(self.mib[0], 1) if self.mib else 0.0,
            "mib_max": round(max(self.mib, default=0.0), 1),
            "mib_last": round(self.mib[-1], 1) if self.mib else 0.0,
            "events": self.events,
        }


class Honest:
    """Listens and asks; both sockets stay open through all attacks."""

    def __init__(self, events: str, requests: str, keys: Path) -> None:
        from ureca.client.sockets import connect_pair
        from ureca.protocol.messagepack import LIMITS
        from ureca.security.keys import ClientKeys

        self._context: zmq.Context[Any] = zmq.Context()
        mine = ClientKeys.read(keys / "eye.key_secret", keys / "node.key")
        self._sub, self._dealer = connect_pair(self._context, events, requests, LIMITS, mine)
        self.counters: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def watch(self, pid: int, seconds: float) -> Figures:
        """Note everything for so long."""
        from ureca.client.sockets import send_now

        found, asked_s = Figures(), None
        heard_s = sampled_s = time.monotonic()
        until = heard_s + seconds
        while (now_s := time.monotonic()) < until:
            if now_s - sampled_s > 0.25:
                sampled_s = now_s
                found.mib.append(sample_of(pid, now_s).rss_mib)
                if asked_s is None:
                    ask = {"v": [2, 0], "id": b"q", "op": "hello", "deadline_ms": 60000, "args": {}}
                    if send_now(self._dealer, [msgpack.packb(ask)]):
                        asked_s = now_s
            if asked_s is not None and self._dealer.poll(0):
                self._dealer.recv_multipart()
                found.hello_s.append(time.monotonic() - asked_s)
                asked_s = None
            if self._sub.poll(5):
                heard_s = time.monotonic()
                found.events += 1
                self._note(self._sub.recv_multipart(), found)
            found.silence_s = max(found.silence_s, time.monotonic() - heard_s)
        if asked_s is not None:
            found.hello_s.append(time.monotonic() - asked_s)
        return found

    def _note(self, parts: list[bytes], found: Figures) -> None:
        from ureca.protocol.events import CaptionFinal, Heartbeat
        from ureca.protocol.wire import decode_event

        event = decode_event(parts)
        if isinstance(event, CaptionFinal) and self._last.get(event.rid) != event.request_id:
            self._last[event.rid] = event.request_id  # else repeated for a newcomer
            arrived_ms = (time.monotonic_ns() - event.pub_ns) / 1e6
            found.ages_ms.append(event.age_at_pub_ms + arrived_ms)
        elif isinstance(event, Heartbeat):
            self.counters = event.counters

    def close(self) -> None:
        """Close both sockets."""
        self._context.destroy(linger=0)


# --- the run -------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def make_keys(folder: Path) -> list[str]:
    """Keys of node, attacker and honest client; returns the node's options for them."""
    from ureca.cli import keys as keys_command

    for name, *more in (("node",), ("evil", "--role", "observe"), ("eye", "--role", "admin")):
        keys_command.main(["new", name, *more, "-o", str(folder)])
    files = {"security.key": "node.key_secret", "security.allow": "allow.txt"}
    return [word for key, name in files.items() for word in ("--set", f"{key}={folder / name}")]


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.node = make_keys(folder)
        first, second = free_ports(2)
        addresses = (f"tcp://127.0.0.1:{first}", f"tcp://127.0.0.1:{second}")
        with running(options, folder, addresses) as (node, events, requests):
            honest = Honest(events, requests, folder)
            until = time.monotonic() + READY_S
            while not honest.watch(node.pid, 1.0).ages_ms and time.monotonic() < until:
                pass
            honest.watch(node.pid, 20.0)  # its first captions, and the memory of its first minute
            found["quiet"] = honest.watch(node.pid, 60 * options.quiet).summary()
            end, floods = time.monotonic() + 60 * options.attack, itertools.cycle(FLOODS)
            while time.monotonic() < end:
                kind = next(floods)
                rows = found.setdefault(kind, [])
                rows.append(_turn(kind, honest, node.pid, (events, requests), folder))
                print(kind, rows[-1], flush=True)
            node.send_signal(signal.SIGTERM)
            honest.watch(node.pid, 5.0)
            found["exit_code"] = node.wait(60)
            found["counters"] = honest.counters
            honest.close()
        found["log"] = (folder / "err").read_text().splitlines()[-40:]
    return found


def _turn(
    kind: str, honest: Honest, pid: int, addresses: tuple[str, str], folder: Path
) -> dict[str, float]:
    """One kind of flood by two processes, and the figures meanwhile."""
    address = addresses[0] if kind in ("subscribe", "junk", "topics") else addresses[1]
    script = [sys.executable, __file__, "--flood", kind, address, str(folder), "15"]
    floods = [subprocess.Popen(script) for _ in range(2)]
    try:
        return honest.watch(pid, 18.0).summary()
    finally:
        for flood in floods:
            flood.kill()
            flood.wait()


def faults(found: dict[str, Any]) -> list[str]:
    """What is wrong; empty when nothing is."""
    from ureca.invariants import imbalances

    wrong = list(imbalances(found["counters"]))
    wrong += [f"the node ended with {found['exit_code']}"] * bool(found["exit_code"])
    bounds = {
        "age_p95_ms": 2 * found["quiet"]["age_p95_ms"],
        "silence_s": MAX_SILENCE_S,
        "hello_max_ms": MAX_HELLO_S * 1e3,
        "mib_max": found["quiet"]["mib_max"] + MAX_MIB,
    }
    for kind in FLOODS:
        for what, most in bounds.items():
            worst = max((row[what] for row in found.get(kind, ())), default=0.0)
            wrong += [f"{kind}: {what} {worst}, more than {most}"] * (worst > most)
    return wrong


def main() -> int:
    """Run, write, show; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Run the shipped node under attack.")
    parser.add_argument("--quiet", type=float, default=3.0, help="minutes without attacks")
    parser.add_argument("--attack", type=float, default=10.0, help="minutes of attacks")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("-o", "--out", type=Path, default=Path("attacked.json"))
    parser.add_argument("--flood", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        kind, address, keys, seconds = options.flood
        attack(kind, address, Path(keys), float(seconds))
        return 0
    found = soak(options)
    options.out.write_text(json.dumps(found, indent=1))
    print("quiet", found["quiet"])
    print(found["counters"])
    wrong = faults(found)
    print(
        "\n".join(f"WRONG     {one}" for one in wrong) or "within all bounds; the counters balance"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
