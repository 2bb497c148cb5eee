"""Bounds what libzmq holds for the peers of one TCP endpoint, and how many descriptors they take.

`MAXMSGSIZE` limits one part, the high-water marks count whole messages. Neither limits a message
whose parts never end, nor the sum over connections inside a handshake or with a part half sent. The
kernel knows how many bytes each connection has received (`TCP_INFO`, tcp(7)), the reader of a
socket knows how many it was given (`SRCFD` of a message, zmq_msg_get(3)). The difference is what
libzmq and the kernel hold for the peer. When the sum of an endpoint is too large, the connections
that hold most are shut down; the others notice nothing.

    guard = LinkGuard("requests", clock, max_held_bytes=96 << 20)
    guard.watch(socket)           # after `bind` or `connect`
    guard.delivered(frame, size)  # for each message, on the thread that reads
    guard.check()                 # several times a second, on any one thread
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import socket as sockets
import stat
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import zmq

from ureca.clock import Clock
from ureca.log import RateLimitedLog

CHECK_NS = 50_000_000
"""How often memory is compared; 1.7 GiB came over loopback in 1.3 s."""
_FULL_CHECK_NS = 1_000_000_000
_GROWN_BYTES = 8 << 20
"""Growth of the process after which connections are looked at before `_FULL_CHECK_NS`."""
MAX_GROWTH_BYTES = 128 << 20
_GROWTH_NS = 10_000_000_000
_SUSPECT_BYTES = 1 << 18
_FRAMING_BYTES = 64
"""More than ZMTP and CURVE add to a part: what was received seems delivered rather than held."""
_BYTES_RECEIVED = struct.Struct("<128xQ")
"""`tcpi_bytes_received` of `struct tcp_info` (linux/tcp.h), from Linux 4.1 on."""
_FIRST_FD = 3
_MIN_SPARE_FDS = 16
_MOST_TRIED_FDS = 1 << 16
_PORT = re.compile(r"tcp://.*:(\d+)")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_Identity = tuple[int, int]
"""Number and inode of a descriptor."""


@dataclass(slots=True)
class _Connection:
    """One connection of the endpoint. `held` bytes were received and not delivered."""

    number: int
    received: int = 0
    held: int = 0
    messages: int = 0
    is_heard: bool = False
    is_cut: bool = False


class LinkGuard:
    """Watches one endpoint. `cut` counts connections that were shut down. `is_on` is False for what
    is not TCP: then nothing need be told or checked.

    `max_held_bytes` bounds all connections together, `max_unheard_bytes` those of them that have
    not delivered a message yet, `max_messages_per_s` each one (0: no bound). Parts without content
    take 30 times their bytes on the wire: when the process has grown by `MAX_GROWTH_BYTES`, or by
    `max_held_bytes` if that is more, within seconds, who holds parts of messages gives way. With
    few descriptors left the youngest give way.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        max_held_bytes: int,
        max_unheard_bytes: int | None = None,
        max_messages_per_s: int = 0,
    ) -> None:
        self.cut = 0
        self.is_on = False
        self._name, self._clock = name, clock
        self._max_held, self._max_messages = max_held_bytes, max_messages_per_s
        self._max_unheard = max_held_bytes if max_unheard_bytes is None else max_unheard_bytes
        self._log = RateLimitedLog(getLogger(__name__), clock)
        self._lock = threading.Lock()
        self._port = 0
        self._is_urgent = False
        self._is_bound = True
        self._delivered: Counter[int] = Counter()
        self._messages: Counter[int] = Counter()
        self._connections: dict[_Identity, _Connection] = {}
        self._foreign: set[_Identity] = set()
        self._count = 0
        self._looked_ns = self._checked_ns = clock.now_ns() - _FULL_CHECK_NS
        self._resident = 0
        self._base_ns, self._base_bytes = clock.now_ns(), _resident_bytes()

    def watch(self, socket: zmq.Socket[Any], *, bound: bool = True) -> None:
        """Guard the connections of a socket's last endpoint. Only TCP is measured: an ipc socket
        belongs to one user.
        """
        found = _PORT.fullmatch(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._is_bound = bound
        self._port = int(found.group(1)) if found else 0
        self.is_on = self._port > 0
        self._connections.clear()
        self._foreign.clear()

    def delivered(self, frame: zmq.Frame, size: int, *, weight: int = 1) -> None:
        """`frame` is the last of a message of `size` bytes that the socket's reader was given and
        that are held no longer. It counts as `weight` messages.
        """
        if not self._port:
            return
        try:
            number = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # libzmq's own, for a peer that has gone
            return
        with self._lock:
            self._delivered[number] += size + _FRAMING_BYTES
            self._messages[number] += weight
            self._is_urgent |= 0 < self._max_messages < self._messages[number]

    def check(self) -> None:
        """Look at the connections, if time or memory asks for it, and shut down what is beyond the
        bounds.
        """
        now_ns = self._clock.now_ns()
        if not self._port or now_ns - self._looked_ns < CHECK_NS:
            return
        self._looked_ns = now_ns
        resident, limit = _resident_bytes(), _most_fds()
        over_fds = len(_descriptors()) - limit if self._is_bound else 0
        elapsed_ns = now_ns - self._checked_ns
        has_grown = self._is_urgent or resident - self._resident > _GROWN_BYTES
        self._resident = min(self._resident, resident)
        if elapsed_ns < _FULL_CHECK_NS and not has_grown and over_fds <= 0:
            return
        self._checked_ns, self._resident, self._is_urgent = now_ns, resident, False
        seen = self._measure()
        self._bound_held(seen, self._growth(now_ns, resident))
        self._bound_messages(seen, elapsed_ns / 1e9)
        for key in sorted(seen, key=lambda key: -seen[key].number)[: max(0, over_fds)]:
            self._cut(key, seen[key], "fds", "the process is short of file descriptors")

    def counters(self) -> dict[str, int]:
        """`cut_NAME`, for the heartbeat."""
        return {f"cut_{self._name}": self.cut} if self.cut else {}

    # --- one look --------------------------------------------------------------------------------

    def _measure(self) -> dict[_Identity, _Connection]:
        with self._lock:
            delivered, self._delivered = self._delivered, Counter()
            messages, self._messages = self._messages, Counter()
        seen: dict[_Identity, _Connection] = {}
        foreign: set[_Identity] = set()
        for identity in _sockets():
            if identity in self._foreign:
                foreign.add(identity)
                continue
            received = self._received(identity[0])
            if received is None:
                foreign.add(identity)
                continue
            one = self._connections.get(identity) or self._new()
            grown = received - one.received - delivered[identity[0]]
            one.held, one.received = max(0, one.held + grown), received
            one.messages = messages[identity[0]]
            one.is_heard |= one.messages > 0
            seen[identity] = one
        self._connections, self._foreign = seen, foreign
        return seen

    def _new(self) -> _Connection:
        self._count += 1
        return _Connection(self._count)

    def _received(self, number: int) -> int | None:
        """Bytes that a connection of this endpoint has received; None for any other descriptor."""
        with _duplicate(number) as link:
            if link is None or link.type != sockets.SOCK_STREAM:
                return None
            if link.family not in (sockets.AF_INET, sockets.AF_INET6):
                return None
            try:
                peer = link.getpeername()  # a listener has none
            except OSError:
                return None
            if (link.getsockname() if self._is_bound else peer)[1] != self._port:
                return None
            info = link.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
            if len(info) < _BYTES_RECEIVED.size:
                return 0
            return int(_BYTES_RECEIVED.unpack_from(info)[0])

    def _growth(self, now_ns: int, resident: int) -> int:
        """By how much the process has grown since up to `_GROWTH_NS` ago."""
        if now_ns - self._base_ns > _GROWTH_NS or resident < self._base_bytes:
            self._base_ns, self._base_bytes = now_ns, resident
        return resident - self._base_bytes

    def _bound_held(self, seen: dict[_Identity, _Connection], growth: int) -> None:
        most_growth = max(MAX_GROWTH_BYTES, self._max_held)
        largest = sorted(seen.items(), key=lambda entry: -entry[1].held)
        total = sum(one.held for one in seen.values())
        unheard = sum(one.held for one in seen.values() if not one.is_heard)
        for key, one in largest:
            is_tight = unheard > self._max_unheard and not one.is_heard
            is_suspect = self._is_bound and growth > most_growth and one.held > _SUSPECT_BYTES
            if total > self._max_held or is_tight or is_suspect:
                total -= one.held
                unheard -= 0 if one.is_heard else one.held
                self._cut(key, one, "memory", f"it holds {one.held >> 10} KiB in parts of messages")

    def _bound_messages(self, seen: dict[_Identity, _Connection], seconds: float) -> None:
        most = self._max_messages * max(seconds, 1.0)
        for key, one in seen.items():
            if most and one.messages > most:
                self._cut(key, one, "flood", f"it sent {one.messages} messages in {seconds:.1f} s")

    def _cut(self, key: _Identity, one: _Connection, bound: str, why: str) -> None:
        if one.is_cut:
            return
        with _duplicate(key[0]) as link:
            # The number may be another connection's by now: then its inode differs.
            if link is None or os.fstat(link.fileno()).st_ino != key[1]:
                return
            one.is_cut = True
            self.cut += 1
            with contextlib.suppress(OSError):
                link.shutdown(sockets.SHUT_RDWR)
        self._log.warning(bound, f"cut a connection to {self._name}: {why}")


@contextlib.contextmanager
def _duplicate(number: int) -> Iterator[sockets.socket | None]:
    """Another handle of a socket that libzmq may close at any time; None if it has. Without a free
    descriptor it is the socket itself.
    """
    link, is_own = None, True
    with contextlib.suppress(OSError):
        try:
            duplicate = os.dup(number)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            duplicate, is_own = number, False
        try:
            link = sockets.socket(fileno=duplicate)
        except OSError:  # no socket (any more)
            if is_own:
                os.close(duplicate)
    try:
        yield link
    finally:
        if link is not None and is_own:
            link.close()
        elif link is not None:
            link.detach()


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  (often)
    except OSError:  # none is left to list them with
        return list(range(min(_MOST_TRIED_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])))


def _sockets() -> Iterator[_Identity]:
    for number in _descriptors():
        with contextlib.suppress(OSError):
            about = os.fstat(number)
            if number >= _FIRST_FD and stat.S_ISSOCK(about.st_mode):
                yield number, about.st_ino


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  (20 times a second)
            return int(file.read().split()[1]) * _PAGE
    except OSError:  # no descriptor left, and a look is due anyway
        return 0


def _most_fds() -> int:
    """How many descriptors may be open before connections give way."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit - max(_MIN_SPARE_FDS, min(64, limit // 8))
