"""A peer that connects, does not read until its queue is full and heartbeats have run out, and then
reads: `python slow_reader.py sub|dealer FOLDER`. Writes how much it read in each of six rounds.
"""

from __future__ import annotations

import sys
import time

import zmq

from ureca import sockets

sockets.HEARTBEAT_MS, sockets.HEARTBEAT_TIMEOUT_MS = 100, 300
SILENT_S = 1.0


def hardened(context: zmq.Context, kind: int) -> zmq.Socket:
    socket = context.socket(kind)
    sockets.harden(socket)
    sockets.keep_frames_fresh(socket)
    return socket


def flood(sender: zmq.Socket, head: list[bytes]) -> None:
    """More than any queue takes, for as long as nobody reads."""
    end = time.monotonic() + SILENT_S
    while time.monotonic() < end:
        sockets.send_now(sender, [*head, bytes(20_000)])
        time.sleep(0.001)


def drained(reader: zmq.Socket) -> int:
    count = 0
    while reader.poll(300) and sockets.received(reader):
        count += 1
    return count


def main(kind: str, folder: str) -> None:
    with zmq.Context() as context:
        sender = hardened(context, zmq.PUB if kind == "sub" else zmq.ROUTER)
        reader = hardened(context, zmq.SUB if kind == "sub" else zmq.DEALER)
        if kind == "sub":
            reader.subscribe(b"")
        else:
            reader.identity = b"reader"
            sender.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sender.bind(f"ipc://{folder}/slow")
        reader.connect(f"ipc://{folder}/slow")
        reader.poll(300)
        for _ in range(6):
            flood(sender, [] if kind == "sub" else [b"reader"])
            sys.stdout.write(f"{drained(reader)}\n")
        sender.close()
        reader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
