"""Peers of a node as processes of their own, to be stopped and killed.

python robots.py camera ADDRESS FPS THINGS
python robots.py subscribe EVENTS REQUESTS FILE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ureca.client.client import Client
from ureca.client.frame_publisher import FramePublisher
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import CaptionFinal
from ureca.testing import SyntheticSource


def camera(address: str, fps: float, things: int) -> None:
    """Moving things with their masks, until it is killed."""
    source = SyntheticSource(frames=10**9, things=things)
    with FramePublisher(address, stream="cam0") as publisher:
        start = time.monotonic()
        for frame in source:
            time.sleep(max(0.0, start + frame.seq / fps - time.monotonic()))
            publisher.send(frame.image, regions=frame.regions)


def subscribe(events: str, requests: str, path: str) -> None:
    """Write one line per event; after a gap ask for everything and write how much that was."""
    missed = 0
    with Client.connect(events, requests, timeout_s=30) as client, Path(path).open("w") as file:
        for event in client.events():
            fields = {
                "ev": event_kind(event),
                "session_id": event.session_id.hex(),
                "event_seq": event.event_seq,
            }
            fields |= {"at_ns": time.monotonic_ns(), "pub_ns": event.pub_ns}
            fields["rid"] = getattr(event, "rid", "")
            if client.missed > missed:
                known = [e for e in client.snapshot() if isinstance(e, CaptionFinal)]
                fields |= {"missed": client.missed - missed, "captions": len(known)}
                missed = client.missed
            file.write(json.dumps(fields) + "\n")
            file.flush()


if __name__ == "__main__":
    if sys.argv[1] == "camera":
        camera(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    else:
        subscribe(*sys.argv[2:5])
