"""Frames from cameras that connect and send on request (ROUTER, `credit+tcp://…`).

Each camera may have `source.credits` frames in flight. A credit returns when the scheduler takes a
frame of that stream, or when a frame was dropped here, so a camera on a thin link encodes and sends
only frames that will be processed. Grants are absolute numbers (`ureca.protocol.flow_control`); no
credit is lost when a camera disappears.
"""

from __future__ import annotations

import contextlib
import socket as sockets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import zmq

from ureca.client.sockets import (
    bind,
    harden,
    is_local,
    keep_frames_fresh,
    no_keys_message,
    received_frames,
)
from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import ConfigError, SourceError, WireError
from ureca.node.access import open_gate
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.frame_receiver import MAX_FRAME_PARTS, FrameReceiver, IdleLink
from ureca.node.sources.stream_owners import StreamOwners
from ureca.protocol.flow_control import CreditGrant, decode_ask, encode_credit
from ureca.security.authenticator import CurveAuthenticator

SCHEME = "credit+"
_POLL_MS = 100
_MAX_DRAIN = 256
_MAX_PEERS = 64
_FORGET_NS = 10_000_000_000
"""An idle camera sends a request every second: one that is silent for this long is gone."""
_STALE_NS = 1_000_000_000
"""A frame that was not taken within this time (one stream too many, a fault) returns its credit."""
_TO_NODE = """    ureca keys new node -o keys
    ureca keys new camera --role camera -o keys
    ureca run ... --set security.key=keys/node.key_secret --set security.allow=keys/allow.txt"""


_Key = tuple[str, bytes, int]
"""Stream, session and number of a frame."""


@dataclass(slots=True)
class _Peer:
    """One connected camera. `received` counts as it does; `waiting` are frames that nobody has
    taken yet and that still occupy their credits.
    """

    heard_ns: int
    session_id: bytes = b""
    received: int = 0
    granted_upto: int = -1
    waiting: deque[_Key] = field(default_factory=deque)
    waiting_ns: int = 0


class CreditFrames:
    """Binds one endpoint for any number of cameras; see `FrameSource` and `ReconnectingSource`."""

    is_lossless = False

    def __init__(
        self,
        uri: str,
        config: NodeConfig,
        *,
        clock: Clock,
        counters: NodeCounters,
        wait: Callable[[float], bool],
        owners: StreamOwners | None = None,
    ) -> None:
        self._endpoint = uri.removeprefix(SCHEME)
        if not self._endpoint.startswith(("tcp://", "ipc://")):
            raise SourceError(f"expected credit+tcp://HOST:PORT or credit+ipc:///PATH, got {uri!r}")
        if not is_local(self._endpoint) and not config.security.key:
            raise ConfigError(no_keys_message("the source", uri, _TO_NODE))
        self._config = config
        self._clock = clock
        self._wait = wait
        self._receiver = FrameReceiver(
            config, clock=clock, counters=counters, is_local=is_local(self._endpoint)
        )
        self._idle_link = IdleLink(self._endpoint, clock, after_s=config.source.silent_s)
        self.links = self._receiver.frame_links("frames", takes_connections=True)
        self._owners = owners or StreamOwners(clock, max_streams=config.limits.max_streams)
        self._peers: dict[bytes, _Peer] = {}
        self._taken: deque[_Key] = deque(maxlen=_MAX_PEERS)
        self._wakers: list[sockets.socket] = []
        self._gate: CurveAuthenticator | None = None

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`; ends only when told to stop."""
        with ExitStack() as stack:
            stack.callback(self._receiver.close)
            self._receiver.prepare()
            router = self._bind(stack)
            woken = self._wakeable(stack)
            poller = zmq.Poller()
            poller.register(router, zmq.POLLIN)
            poller.register(woken.fileno(), zmq.POLLIN)
            while not self._wait(0.0):
                yield from self._decode_newest(self._drain(router))
                self._settle(router)
                poller.poll(_POLL_MS)
                _empty(woken)

    def reasons(self) -> tuple[str, ...]:
        """See `ReconnectingSource`."""
        return self._idle_link.reasons()

    def counters(self) -> dict[str, int]:
        """See `ReconnectingSource`."""
        refused = self._gate.counters() if self._gate is not None else {}
        return {"cameras": len(self._peers), **refused}

    def taken(self, frame: Frame) -> None:
        """See `ReconnectingSource`."""
        self._taken.append((frame.stream, frame.session_id, frame.seq))
        for waker in self._wakers:
            with contextlib.suppress(OSError):  # full of wake-ups, or closed
                waker.send(b"\0")

    # --- the socket ------------------------------------------------------------------------------

    def _bind(self, stack: ExitStack) -> zmq.Socket[bytes]:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.destroy, linger=0)
        self._gate = gate = open_gate(context, self._config.security)
        if gate is not None:
            stack.callback(gate.close)
        router = context.socket(zmq.ROUTER)
        stack.callback(router.close, 0)
        harden(router)
        keep_frames_fresh(router)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if gate is not None:
            gate.guard(router, self._endpoint, "frames")
        try:
            bind(router, self._endpoint)
        except zmq.ZMQError as error:
            raise SourceError(f"cannot take frames on {self._endpoint}: {error}") from error
        self.links.watch(router)
        return router

    def _wakeable(self, stack: ExitStack) -> sockets.socket:
        woken, waker = sockets.socketpair()
        for end in (woken, waker):
            end.settimeout(0)
            stack.callback(end.close)
        self._wakers.append(waker)
        return woken

    def _is_revoked(self, router: zmq.Socket[bytes], frame: zmq.Frame) -> bool:
        """Whether a camera lost its place on the allow-list after it connected."""
        if self._gate is None or router.mechanism != zmq.CURVE:
            return False
        return not self._gate.admits(frame, "frames")

    def _may_send(self, router: zmq.Socket[bytes], last: zmq.Frame, topic: bytes) -> bool:
        """Whether the stream is the sender's, or free; a frame of another one is dropped."""
        name = self._endpoint
        if self._gate is None or router.mechanism != zmq.CURVE:
            is_admitted = self._owners.admits(topic, name.encode())
        else:
            sender = self._gate.sender_of(last)
            name = self._gate.name_of(sender)
            is_admitted = self._owners.admits(topic, sender, self._gate.keys_of_role("camera"))
            self._gate.refused["frames"] += not is_admitted
        if not is_admitted:
            text = f"{topic[:80]!r} of {name} is another's stream, or its place is kept for one"
            self._receiver.drop("busy", text)
        return is_admitted

    def _drain(self, router: zmq.Socket[bytes]) -> deque[tuple[_Peer, list[bytes]]]:
        """The newest frame of each stream among those that have come."""
        newest: dict[bytes, tuple[_Peer, list[bytes]]] = {}
        for _ in range(_MAX_DRAIN):
            message = received_frames(router, 1 + MAX_FRAME_PARTS)
            if message is None:
                break
            frames, last, size = message
            self.links.delivered(last, size)
            if self._is_revoked(router, last):
                continue
            try:
                identity, *parts = (frame.bytes for frame in frames)
            except MemoryError:
                self._receiver.lost()
                continue
            peer = self._peer(identity)
            if len(parts) <= 1:
                self._hear(peer, parts)
                continue
            peer.received += 1
            self._receiver.came(parts[0])
            if not self._may_send(router, last, parts[0]):
                continue
            if parts[0] in newest:
                self._receiver.superseded()
            newest[parts[0]] = (peer, parts)
        return deque(newest.values())

    def _decode_newest(self, newest: deque[tuple[_Peer, list[bytes]]]) -> Iterator[Frame]:
        try:
            while newest:
                peer, parts = newest.popleft()
                frame = self._receiver.frame(parts)
                if frame is None:
                    continue
                peer.waiting.append((frame.stream, frame.session_id, frame.seq))
                peer.waiting_ns = peer.heard_ns
                self._idle_link.heard()
                yield frame
        finally:
            self._receiver.left(len(newest))

    # --- credits ---------------------------------------------------------------------------------

    def _peer(self, identity: bytes) -> _Peer:
        now_ns = self._clock.now_ns()
        if identity not in self._peers and len(self._peers) >= _MAX_PEERS:
            del self._peers[min(self._peers, key=lambda name: self._peers[name].heard_ns)]
        peer = self._peers.setdefault(identity, _Peer(heard_ns=now_ns))
        peer.heard_ns = now_ns
        return peer

    def _hear(self, peer: _Peer, parts: list[bytes]) -> None:
        """The camera says what it has sent; what did not arrive was lost with a connection."""
        try:
            ask = decode_ask(parts)
        except WireError as error:
            self._receiver.warn("ask", f"not understood what a camera asks: {error}")
            return
        peer.session_id, peer.received, peer.granted_upto = ask.session_id, ask.sent, -1

    def _settle(self, router: zmq.Socket[bytes]) -> None:
        """Give credits back for frames that were taken or forgotten; forget cameras that went."""
        while self._taken:
            key = self._taken.popleft()
            for peer in self._peers.values():
                _take(peer, key)
        now_ns = self._clock.now_ns()
        for identity, peer in list(self._peers.items()):
            if now_ns - peer.waiting_ns > _STALE_NS:
                peer.waiting.clear()
            if now_ns - peer.heard_ns > _FORGET_NS:
                del self._peers[identity]
            else:
                self._grant(router, identity, peer)

    def _grant(self, router: zmq.Socket[bytes], identity: bytes, peer: _Peer) -> None:
        upto = peer.received + max(0, self._config.source.credits - len(peer.waiting))
        if not peer.session_id or upto <= peer.granted_upto:
            return
        grant = encode_credit(CreditGrant(session_id=peer.session_id, upto=upto))
        try:
            router.send_multipart([identity, *grant], zmq.NOBLOCK)
            peer.granted_upto = upto
        except zmq.ZMQError:  # it has gone, or does not read: it will ask again
            del self._peers[identity]


def _take(peer: _Peer, key: _Key) -> None:
    """Frames of a stream are taken in order: this one, and those that it superseded."""
    if key in peer.waiting:
        while peer.waiting.popleft() != key:
            pass


def _empty(woken: sockets.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while woken.recv(4096):
            pass
