"""The other host of `test_two_hosts.py`: a camera or a robot in a process whose clock is another.

    python skewed_peer.py camera|robot KEY_FOLDER ...

Prints JSON; times are of this process's own monotonic clock.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2

from ureca.client.client import Client
from ureca.client.frame_publisher import FramePublisher
from ureca.invariants import imbalances
from ureca.protocol.events import CaptionFinal
from ureca.security.keys import ClientKeys, ServerKeys
from ureca.testing import SyntheticSource


def camera(keys: Path, address: str, seconds: str) -> None:
    """Publish JPEGs with masks at 10 Hz, and write down when each was captured."""
    source, until = SyntheticSource(things=3), time.monotonic() + float(seconds)
    server = ServerKeys.read(keys / "camera.key_secret", keys / "camera" / "allow.txt")

    def encoder(image):
        return bytes(cv2.imencode(".jpg", image[..., ::-1])[1])

    with (
        FramePublisher(address, encoder=encoder, keys=server) as publisher,
        (keys / "sent.txt").open("w", buffering=1) as sent,
    ):
        while time.monotonic() < until:
            seq, now_ns = publisher.next_seq, time.monotonic_ns()
            sent.write(f"{seq} {now_ns}\n")
            publisher.send(source.image(seq), now_ns, regions=source.regions(seq))
            time.sleep(0.1)


def captured_ns(keys: Path, seq: int) -> int:
    """The camera's own stamp: it is on the robot's host, with the robot's clock."""
    lines = (keys / "sent.txt").read_text().splitlines()
    return int(lines[seq].split()[1])


def robot(keys: Path, events: str, requests: str, role: str) -> None:
    """Listen for captions, compare clocks, request the counters, end the node if allowed."""
    own = ClientKeys.read(keys / f"{role}.key_secret", keys / "node.key")
    with Client.connect(events, requests, timeout_s=100, keys=own) as client:
        offset = min((client.clock_offset() for _ in range(8)), key=lambda found: found.error_ns)
        finals = []
        for event in client.events({"caption.final"}, timeout_s=100):
            assert isinstance(event, CaptionFinal)
            here_ns = time.monotonic_ns()
            finals.append(
                {
                    "clk": event.clk,
                    "text": event.text,
                    "age_at_pub_ms": event.age_at_pub_ms,
                    "age_ms": (here_ns + offset.offset_ns - event.captured_ns) / 1e6,
                    "raw_age_ms": (here_ns - event.captured_ns) / 1e6,
                    "true_age_ms": (here_ns - captured_ns(keys, event.src_seqs[-1])) / 1e6,
                }
            )
            if len(finals) == 12:
                break
        counters = client.health().counters
        if role == "admin":
            client.shutdown()
    said = {"offset_ns": offset.offset_ns, "error_ns": offset.error_ns, "clk": offset.clk}
    broken = imbalances(counters, closed=False)
    sys.stdout.write(json.dumps({**said, "finals": finals, "counters": counters, "broken": broken}))


if __name__ == "__main__":
    {"camera": camera, "robot": robot}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
