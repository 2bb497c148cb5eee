"""Receives frames from other processes over ZeroMQ SUB.

All waiting messages are read and only the newest one of each topic is decoded: a small queue
alone does not bound staleness, as measurements showed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import zmq

from ureca.client.sockets import connect, harden, is_local, keep_frames_fresh, received_frames
from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import ConfigError, SourceError
from ureca.node.access import camera_keys
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.frame_receiver import MAX_FRAME_PARTS, FrameReceiver, IdleLink
from ureca.node.sources.stream_owners import StreamOwners

SCHEME = "zmq+"
_POLL_MS = 100
_MAX_DRAIN = 256
"""Messages drained before the newest ones are decoded: a flood must not keep us from working."""


def _require_camera(endpoint: str, config: NodeConfig) -> None:
    """Frames from another host are encrypted, and from the camera that was named: `ConfigError`."""
    if not (is_local(endpoint) or config.security.camera):
        raise ConfigError(
            f"the source {endpoint} is on another host, where anybody could read its pictures or "
            "send others: name the camera's public key and the node's own keys:\n"
            "    --set security.camera=keys/camera.key --set security.key=keys/node.key_secret "
            "--set security.allow=keys/allow.txt\n"
            "docs/security.md has the commands that make them"
        )


class ZmqFrames:
    """Subscribes to one endpoint, `zmq+tcp://host:port` or `zmq+ipc:///path`, and all of its
    streams.
    """

    is_lossless = False

    def __init__(
        self,
        uri: str,
        config: NodeConfig,
        *,
        clock: Clock,
        counters: NodeCounters,
        wait: Callable[[float], bool],
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        owners: StreamOwners | None = None,
    ) -> None:
        self._endpoint = uri.removeprefix(SCHEME)
        if not self._endpoint.startswith(("tcp://", "ipc://", "inproc://")):
            raise SourceError(f"expected zmq+tcp://HOST:PORT or zmq+ipc:///PATH, got {uri!r}")
        _require_camera(self._endpoint, config)
        self._config = config
        self._wait = wait
        self._owners = owners or StreamOwners(clock, max_streams=config.limits.max_streams)
        self._context = context
        self._receiver = FrameReceiver(
            config, clock=clock, counters=counters, is_local=is_local(self._endpoint)
        )
        self._idle_link = IdleLink(self._endpoint, clock, after_s=config.source.silent_s)
        self.links = self._receiver.frame_links("pictures", takes_connections=False)

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`; ends only when told to stop."""
        with ExitStack() as stack:
            stack.callback(self._receiver.close)
            self._receiver.prepare()
            context = self._context
            if context is None:
                context = zmq.Context()
                stack.callback(context.term)
            socket = context.socket(zmq.SUB)
            stack.callback(socket.close, 0)
            harden(socket)
            keep_frames_fresh(socket)
            # All majors: an incompatible camera is to be counted and named, not silently unmatched.
            socket.setsockopt(zmq.SUBSCRIBE, b"ureca")
            self._connect(socket)
            while not self._wait(0.0):
                if socket.poll(_POLL_MS):
                    yield from self._decode_newest(self._drain(socket))

    def reasons(self) -> tuple[str, ...]:
        """See `ReconnectingSource`."""
        return self._idle_link.reasons()

    def counters(self) -> dict[str, int]:
        """See `ReconnectingSource`."""
        return {}

    def taken(self, frame: Frame) -> None:
        """See `ReconnectingSource`."""

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        if (keys := camera_keys(self._config.security)) is not None:
            keys.encrypt(socket, self._endpoint)
        try:
            connect(socket, self._endpoint)
        except zmq.ZMQError as error:
            raise SourceError(f"cannot connect to {self._endpoint}: {error}") from error
        self.links.watch(socket, bound=False)

    def _drain(self, socket: zmq.Socket[bytes]) -> deque[list[bytes]]:
        """The newest message of each topic among those that have arrived."""
        newest: dict[bytes, list[bytes]] = {}
        for _ in range(_MAX_DRAIN):
            message = received_frames(socket, MAX_FRAME_PARTS)
            if message is None:
                break
            frames, last, size = message
            self.links.delivered(last, size)
            try:
                parts = [frame.bytes for frame in frames]
            except MemoryError:
                self._receiver.lost()
                continue
            self._receiver.came(parts[0])
            if not self._owners.admits(parts[0], self._endpoint.encode()):
                self._receiver.drop(
                    "busy",
                    f"{parts[0][:80]!r} of {self._endpoint} is another source's stream, or one "
                    "beyond limits.max_streams",
                )
                continue
            if parts[0] in newest:
                self._receiver.superseded()
            newest[parts[0]] = parts
        return deque(newest.values())

    def _decode_newest(self, newest: deque[list[bytes]]) -> Iterator[Frame]:
        try:
            while newest:
                frame = self._receiver.frame(newest.popleft())
                if frame is not None:
                    self._idle_link.heard()
                    yield frame
        finally:
            self._receiver.left(len(newest))
