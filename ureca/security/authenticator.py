"""Authenticates peers of bound sockets: ZAP for one context, and counters of refused peers.

    gate = Gate(context, keys)
    gate.guard(socket, "tcp://0.0.0.0:5601", "events")  # then bind
    ...
    gate.close()  # after the sockets, before the context

One thread, started before any socket binds, answers libzmq's requests through pyzmq's
authenticator. A peer without a key, with a wrong server key, or with a key that may not use the
endpoint gets no connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import zmq
from zmq.auth.base import Authenticator
from zmq.utils.monitor import parse_monitor_message

from ureca.clock import MonotonicClock
from ureca.log import RateLimitedLog
from ureca.native_threads import NativeThread
from ureca.security.keys import Role, ServerKeys, needs_curve

Plane = Literal["events", "requests", "pictures", "frames"]
"""`pictures` is what a camera publishes, `frames` is what a node takes from cameras that connect
to it."""
PLANE_ROLES: dict[Plane, frozenset[Role]] = {
    "events": frozenset({"observe", "request", "admin"}),
    "requests": frozenset({"observe", "request", "admin"}),
    "pictures": frozenset({"observe", "request", "admin"}),
    "frames": frozenset({"camera", "admin"}),
}

_POLL_MS = 200
_WATCHED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_MONITOR_STOPPED
)


class CurveAuthenticator:
    """Admits the keys of the allow-list. `refused` counts failed handshakes by endpoint."""

    def __init__(self, context: zmq.Context[Any], keys: ServerKeys) -> None:
        self.refused: Counter[str] = Counter()
        self._context = context
        self._keys = keys
        self._log = RateLimitedLog(logging.getLogger(__name__), MonotonicClock())
        self._monitors: list[tuple[zmq.Socket[bytes], Plane]] = []
        self._stop = threading.Event()
        self._listeners = self._allowed_listeners()
        self._revoked = threading.Event()
        self._authenticator = Authenticator(context)
        for plane in PLANE_ROLES:
            self._authenticator.configure_curve_callback(plane, _Provider(self._may_enter))
        self._authenticator.start()
        self._thread = NativeThread(target=self._serve, name="ureca-gate")
        self._thread.start()

    def guard(self, socket: zmq.Socket[Any], address: str, plane: Plane) -> None:
        """Call before `bind`: only allowed keys get a connection. An ipc socket is protected by its
        file's mode.
        """
        if not needs_curve(address):
            return
        socket.curve_server = True
        socket.curve_publickey = self._keys.own.public
        socket.curve_secretkey = self._keys.own.secret
        socket.zap_domain = plane.encode("ascii")
        endpoint = f"inproc://ureca-monitor-{os.urandom(8).hex()}"
        socket.monitor(endpoint, _WATCHED)
        watcher = self._context.socket(zmq.PAIR, socket_class=zmq.Socket)
        watcher.linger = 0
        watcher.connect(endpoint)
        self._monitors.append((watcher, plane))

    def sender_of(self, message: zmq.Frame) -> bytes:
        """The public key with which a received frame's connection was opened; empty without one."""
        try:
            return str(message.get("User-Id")).encode("ascii", "replace")
        except zmq.ZMQError:
            return b""

    def admits(self, message: zmq.Frame, plane: Plane) -> bool:
        """Whether the sender of a frame may still use the endpoint; counted if not."""
        admitted = self.role_of(self.sender_of(message)) in PLANE_ROLES[plane]
        if not admitted:
            self.refused[plane] += 1
        return admitted

    def role_of(self, user: bytes) -> Role | None:
        """The role that a connected key has now; None when it was revoked since."""
        return self._keys.allow.role_of(user)

    def keys_of_role(self, role: Role) -> list[bytes]:
        """The public keys that the list gives `role` now."""
        entries = self._keys.allow.entries().items()
        return [key for key, (found, _) in entries if found == role]

    def name_of(self, public: bytes) -> str:
        """The name of a key in the list; `?` for an unknown key."""
        return self._keys.allow.name_of(public)

    def counters(self) -> dict[str, int]:
        """`refused_events` and the like, as the heartbeat carries them."""
        return {f"refused_{plane}": count for plane, count in sorted(self.refused.items())}

    def take_revoked(self) -> bool:
        """True once after a subscriber's key was revoked: its connections may still be open."""
        revoked = self._revoked.is_set()
        self._revoked.clear()
        return revoked

    def close(self) -> None:
        """Stop the thread. The guarded sockets are closed already."""
        self._stop.set()
        self._thread.join()

    # --- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        loop = asyncio.new_event_loop()  # pyzmq's authenticator is a coroutine that awaits nothing
        try:
            while not self._stop.is_set():
                try:
                    self._run_once(loop)
                except Exception as error:  # noqa: BLE001, PERF203  (else nobody gets in any more)
                    self._log.warning("turn", "a turn of the authenticator failed", error=error)
                    self._stop.wait(_POLL_MS / 1e3)
        finally:
            loop.close()
            self._authenticator.stop()
            for watcher, _ in self._monitors:
                watcher.close(0)

    def _run_once(self, loop: asyncio.AbstractEventLoop) -> None:
        zap, poller = self._authenticator.zap_socket, zmq.Poller()
        for socket in (zap, *(watcher for watcher, _ in self._monitors)):
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(_POLL_MS))
        if zap in ready:
            loop.run_until_complete(self._authenticator.handle_zap_message(zap.recv_multipart()))
        for watcher, plane in list(self._monitors):
            if watcher in ready:
                self._note(watcher, plane)
        listeners = self._allowed_listeners()
        if self._listeners - listeners:
            self._revoked.set()
        self._listeners = listeners

    def _allowed_listeners(self) -> frozenset[bytes]:
        entries = self._keys.allow.entries().items()
        return frozenset(key for key, (role, _) in entries if role in PLANE_ROLES["events"])

    def _note(self, watcher: zmq.Socket[bytes], plane: Plane) -> None:
        event = parse_monitor_message(watcher.recv_multipart())
        if event["event"] == zmq.EVENT_MONITOR_STOPPED:
            self._monitors.remove((watcher, plane))
            watcher.close(0)
            return
        self.refused[plane] += 1
        if event["event"] != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._log.warning(
                plane, f"turned away a peer of {plane}: no CURVE, or not this node's public key"
            )

    def _may_enter(self, plane: str, public: bytes) -> bool:
        role = self._keys.allow.role_of(public)
        if role in PLANE_ROLES.get(plane, ()):  # type: ignore[call-overload]
            return True
        why = "is on no line of" if role is None else f"has only the role {role!r} in"
        self._log.warning(
            f"{plane} key",
            f"turned away a peer of {plane}: its key {public.decode('ascii')} {why} "
            f"{self._keys.allow.path}; let it in with: ureca keys allow FILE.key --role ROLE",
        )
        return False


class _Provider:
    """The shape in which pyzmq wants a function."""

    def __init__(self, callback: Callable[[str, bytes], bool]) -> None:
        self.callback = callback
