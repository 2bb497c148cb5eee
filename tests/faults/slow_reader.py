"""A socket that is not read until its queue is full, and then is:
`python slow_reader.py sub|dealer|router FOLDER`. Writes how much it read in each of six rounds.
Senders to `router` close before it reads.
"""

from __future__ import annotations

import sys
import time

import zmq

from ureca.client import sockets

ROUNDS, SILENT_S = 6, 1.0
SENDERS = {"sub": zmq.PUB, "dealer": zmq.ROUTER, "router": zmq.DEALER}
READERS = {"sub": zmq.SUB, "dealer": zmq.DEALER, "router": zmq.ROUTER}


def hardened(context: zmq.Context, kind: int) -> zmq.Socket:
    socket = context.socket(kind)
    sockets.harden(socket)
    sockets.keep_frames_fresh(socket)
    if kind == zmq.SUB:
        socket.subscribe(b"")
    elif kind == zmq.DEALER:
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.identity = b"dealer"
    elif kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket


def flood(sender: zmq.Socket) -> None:
    """More than any queue takes."""
    head = [b"dealer"] if sender.type == zmq.ROUTER else []
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
    address, dies = f"ipc://{folder}/slow", kind == "router"
    with zmq.Context() as context:
        reader = hardened(context, READERS[kind])

        def joined() -> zmq.Socket:
            sender = hardened(context, SENDERS[kind])
            (sender.connect if kind == "router" else sender.bind)(address)
            return sender

        if kind == "router":
            reader.bind(address)
        else:
            reader.connect(address)
        sender = joined()
        reader.poll(300)
        for _ in range(ROUNDS):
            flood(sender)
            if dies:
                sender.close()
                time.sleep(SILENT_S)
            sys.stdout.write(f"{drained(reader)}\n")
            if dies:
                sender = joined()
        sender.close()
        reader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
