"""ZeroMQ socket options that every peer of the protocol uses, in one place."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

import zmq

from ureca.errors import ConfigError, RequestError, WireError
from ureca.protocol.messagepack import LIMITS, WireLimits
from ureca.security.keys import ClientKeys, ServerKeys

PEER_TIMEOUT_MS = 5_000
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TIMES = 2, 1, 3
EVENT_HWM = 10_000
FRAME_HWM = 2
FRAME_BUFFER_BYTES = 1 << 18
_REOPEN_TRIES, _REOPEN_S = 200, 0.01
_LOCAL = re.compile(r"(tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:.*)?|(ipc|inproc)://.+)")
_TO_CAMERA = """    ureca keys new camera -o keys
    ureca keys allow NODE.key --role observe -o keys
    FramePublisher(..., keys=ServerKeys.read("keys/camera.key_secret", "keys/allow.txt"))"""


def is_local(address: str) -> bool:
    """Whether only this host can reach an address to which a socket is bound."""
    return _LOCAL.fullmatch(address) is not None


def require_keys(address: str, keys: ServerKeys | None) -> None:
    """Refuse to bind a camera's socket on the network without CURVE and an allow-list:
    `ConfigError`.
    """
    if not is_local(address) and (keys is None or not address.startswith("tcp://")):
        raise ConfigError(no_keys_message("the camera's address", address, _TO_CAMERA))


def no_keys_message(what: str, address: str, remedy: str) -> str:
    """Why a socket on the network is not bound without keys, and the commands that make them."""
    return (
        f"{what} = {address!r} can be reached from the network: only tcp:// with CURVE keys and an "
        "allow-list may be. Use a loopback address, tcp://127.0.0.1:PORT or ipc:///PATH, or make "
        f"keys:\n{remedy}"
    )


def harden(socket: zmq.Socket[Any], limits: WireLimits = LIMITS) -> None:
    """Bound what a peer can do: sizes, silence, half-open connections, waiting at close.

    A peer that has gone without a word is noticed by TCP's probes. Never by ZeroMQ's heartbeats:
    libzmq (to 4.3.5, zeromq/libzmq#3937) aborts the process when one is due, runs out or is read on
    a socket whose queue is full, as after a stop, a suspension or a long while without a reader.
    Never `CONFLATE`: on multipart messages it delivers only the last part or aborts the process.
    """
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, limits.max_message_bytes)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_TIMES)
    socket.setsockopt(zmq.TCP_MAXRT, PEER_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)


def connect_pair(
    context: zmq.Context[Any],
    events: str,
    requests: str,
    limits: WireLimits,
    keys: ClientKeys | None = None,
) -> tuple[Any, Any]:  # zmq.Socket or zmq.asyncio.Socket, as the context makes them
    """A client's subscriber (to everything) and dealer; the node may start later.

    Destroys `context` and raises `RequestError` (NOT_FOUND) for an address that cannot be one.
    """
    try:
        sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        for socket, address in ((sub, events), (dealer, requests)):
            harden(socket, limits)
            if keys is not None:
                keys.encrypt(socket, address)
        sub.set_hwm(EVENT_HWM)
        # All majors: an incompatible node is to be named, not silently unmatched.
        sub.subscribe(b"ureca")
        sub.connect(events)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.connect(requests)
    except zmq.ZMQError as error:
        context.destroy(linger=0)
        raise RequestError(
            f"cannot connect to {events} and {requests}: {error}", code="NOT_FOUND"
        ) from error
    return sub, dealer


def received(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The next message, None when there is none.

    Also after `poll` has announced one: a peer that dies takes along what nobody has read yet, and
    a `recv` that waits would wait for ever.
    """
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def send_now(socket: zmq.Socket[bytes], parts: list[bytes]) -> bool:
    """Send unless nobody is connected or the link is full; whether it was sent."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def open_again(opened: Callable[[], zmq.Socket[Any]]) -> zmq.Socket[Any]:
    """What `opened` binds to an address that a socket has just been closed on: libzmq lets go of it
    a little later, so `WireError` is not believed at once.
    """
    for _ in range(_REOPEN_TRIES):
        with contextlib.suppress(WireError):
            return opened()
        time.sleep(_REOPEN_S)
    return opened()


def keep_frames_fresh(socket: zmq.Socket[bytes]) -> None:
    """Small queues and kernel buffers on a frame link; its reader drains to the newest frame."""
    socket.set_hwm(FRAME_HWM)
    socket.setsockopt(zmq.SNDBUF, FRAME_BUFFER_BYTES)
    socket.setsockopt(zmq.RCVBUF, FRAME_BUFFER_BYTES)
