"""ZeroMQ socket options that every peer of the protocol uses, in one place."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any

import zmq

from ureca.clock import Clock
from ureca.errors import ConfigError, RequestError, WireError
from ureca.protocol.messagepack import LIMITS, WireLimits
from ureca.security.keys import ClientKeys, ServerKeys

PEER_TIMEOUT_MS = 5_000
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TIMES = 2, 1, 3
EVENT_HWM = 10_000
FRAME_HWM = 2
FRAME_BUFFER_BYTES = 1 << 18
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 1.0
_MAX_SUBSCRIPTION_BYTES = 1 << 10
"""A topic has at most 285 bytes, and a command of a CURVE handshake about 400."""
_SUBSCRIPTION_HWM = 16
_SUBSCRIPTION_BUFFER_BYTES = 1 << 14
_OVERHEAD_BYTES = 1 << 10
"""More than CURVE adds to a message."""
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
    if wrong := _without_scheme(address):
        return f"{what}: {wrong}"
    return (
        f"{what} = {address!r} can be reached from the network: only tcp:// with CURVE keys and an "
        "allow-list may be. Use a loopback address, tcp://127.0.0.1:PORT or ipc:///PATH, or make "
        f"keys:\n{remedy}"
    )


def _without_scheme(address: str) -> str | None:
    """What to say of `localhost:5601`."""
    if "://" in address:
        return None
    return (
        f"expected tcp://HOST:PORT or ipc:///PATH, got {address!r}: did you mean tcp://{address}?"
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
    if wrong := _without_scheme(events) or _without_scheme(requests):
        context.destroy(linger=0)
        raise RequestError(wrong, code="NOT_FOUND")
    try:
        sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        for socket, address in ((sub, events), (dealer, requests)):
            harden(socket, limits)
            if keys is not None:
                keys.encrypt(socket, address)
        sub.set_hwm(EVENT_HWM)
        # What a node sends: events are headers, answers may be longer.
        take_at_most(sub, limits.max_header_bytes)
        take_at_most(dealer, limits.max_reply_bytes)
        # All majors: an incompatible node is to be named, not silently unmatched.
        sub.subscribe(b"ureca")
        connect(sub, events)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        connect(dealer, requests)
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


def received_frames(
    socket: zmq.Socket[bytes], most: int
) -> tuple[list[zmq.Frame], zmq.Frame, int] | None:
    """The next message where libzmq has put it: its first `most` parts, its last part and the
    bytes of all parts. None when there is none.
    """
    kept: list[zmq.Frame] = []
    size = 0
    while True:
        try:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        size += len(frame)
        if len(kept) < most:
            kept.append(frame)
        if not frame.more:
            return kept, frame, size


def send_now(socket: zmq.Socket[bytes], parts: list[bytes]) -> bool:
    """Send unless nobody is connected or the link is full; whether it was sent."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


class Reopening:
    """Binds a socket again after `begin`, with a pause between attempts that doubles from 10 ms to
    1 s: libzmq lets go of an address a little later, and another process may have taken it.

    `opened` raises `WireError` or `zmq.ZMQError` when it cannot. `failure` says so after a second
    of attempts. One thread calls all methods.
    """

    def __init__(self, opened: Callable[[], zmq.Socket[Any]], clock: Clock) -> None:
        self.failure: str | None = None
        self._opened, self._clock = opened, clock
        self._pause_s = 0.0
        self._begun_ns = self._next_ns = 0
        self._log = logging.getLogger(__name__)

    def begin(self) -> None:
        """The socket has been closed."""
        self._begun_ns = self._next_ns = self._clock.now_ns()
        self._pause_s = _FIRST_PAUSE_S

    def attempt(self) -> zmq.Socket[Any] | None:
        """The socket if it could be bound again; None if not, or if it is too early to try."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_ns:
            return None
        try:
            socket = self._opened()
        except (WireError, zmq.ZMQError) as error:
            self._next_ns = now_ns + int(self._pause_s * 1e9)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            if self.failure is None and now_ns - self._begun_ns > _LONGEST_PAUSE_S * 1e9:
                self.failure = f"a socket cannot be bound again: {error}"
                self._log.error("%s; it is tried every second", self.failure)
            return None
        if self.failure is not None:
            self._log.warning("the socket is bound again")
        self.failure = None
        return socket


def take_subscriptions_only(socket: zmq.Socket[Any]) -> None:
    """What a publishing socket may receive: short messages, few at a time. Before `bind`.

    libzmq makes a node of a tree of each byte of a subscription (24 MiB took 1.2 GiB).
    """
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)
    socket.setsockopt(zmq.RCVHWM, _SUBSCRIPTION_HWM)
    socket.setsockopt(zmq.RCVBUF, _SUBSCRIPTION_BUFFER_BYTES)


def take_at_most(socket: zmq.Socket[Any], part_bytes: int) -> None:
    """Cut connections that send a part of more than `part_bytes`. Before `bind` or `connect`."""
    socket.setsockopt(zmq.MAXMSGSIZE, part_bytes + _OVERHEAD_BYTES)


def bind(socket: zmq.Socket[Any], address: str) -> None:
    """Bind; an ipc socket is for its user alone (mode 600), whatever the umask. Raises
    `zmq.ZMQError`.
    """
    _allow_ipv6(socket, address)
    if not address.startswith("ipc://"):
        socket.bind(address)
        return
    before = os.umask(0o177)
    try:
        socket.bind(address)
    finally:
        os.umask(before)


def connect(socket: zmq.Socket[Any], address: str) -> None:
    """Connect, also to an IPv6 address. Raises `zmq.ZMQError`."""
    _allow_ipv6(socket, address)
    socket.connect(address)


def _allow_ipv6(socket: zmq.Socket[Any], address: str) -> None:
    """`tcp://[::1]:5601` needs it; with it, names are looked up differently."""
    if "[" in address:
        socket.setsockopt(zmq.IPV6, 1)


def keep_frames_fresh(socket: zmq.Socket[bytes]) -> None:
    """Small queues and kernel buffers on a frame link; its reader drains to the newest frame."""
    socket.set_hwm(FRAME_HWM)
    socket.setsockopt(zmq.SNDBUF, FRAME_BUFFER_BYTES)
    socket.setsockopt(zmq.RCVBUF, FRAME_BUFFER_BYTES)
