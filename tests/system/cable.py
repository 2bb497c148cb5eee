"""Ends of a cable that is pulled: `python cable.py publish|subscribe ADDRESS`. The subscriber
writes what happens to it: `heard`, `lost`, `heard`.
"""

from __future__ import annotations

import sys
import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from ureca.client.sockets import harden


def publish(socket: zmq.Socket, address: str) -> None:
    socket.bind(address)
    while True:
        socket.send(b"frame")
        time.sleep(0.05)


def subscribe(socket: zmq.Socket, address: str) -> None:
    watcher = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    socket.subscribe(b"")
    socket.connect(address)
    said = ""
    while True:
        now = said
        if socket.poll(100) and socket.recv():
            now = "heard"
        if watcher.poll(0) and parse_monitor_message(watcher.recv_multipart()):
            now = "lost"
        if now != said:
            sys.stdout.write(f"{now}\n")
            sys.stdout.flush()
        said = now


def main(what: str, address: str) -> None:
    with zmq.Context() as context:
        socket = context.socket(zmq.PUB if what == "publish" else zmq.SUB)
        harden(socket)
        (publish if what == "publish" else subscribe)(socket, address)


if __name__ == "__main__":
    main(*sys.argv[1:])
