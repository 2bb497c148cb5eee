"""The camera side of the protocol: send frames, with masks if the camera process has them.

with FramePublisher("tcp://127.0.0.1:5600", stream="cam0") as camera:
camera.send(image)

`FramePublisher` (PUB) sends every frame to all subscribers. `FrameDealer` sends a frame when the
node has requested one. Both may pass raw pixels in shared memory (`shm`) to a node on this host.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
import zmq

from ureca.client.ownership import Ownership
from ureca.client.sockets import (
    Reopening,
    bind,
    connect,
    harden,
    keep_frames_fresh,
    received,
    require_keys,
    send_now,
    take_at_most,
    take_subscriptions_only,
)
from ureca.clock import MonotonicClock, clock_domain
from ureca.datatypes import CaptureSource, Frame, Image, RegionSeed, TextPrompt
from ureca.errors import WireError
from ureca.protocol.flow_control import (
    ASK_EVERY_S,
    MAX_CREDITS,
    CreditAsk,
    decode_grant,
    encode_credit,
)
from ureca.protocol.frames import Encoding, FrameHeader, encode_frame
from ureca.protocol.messagepack import LIMITS, WireLimits
from ureca.protocol.shared_memory import RingWriter
from ureca.region_inputs import seed_of, seeds_of
from ureca.security.authenticator import CurveAuthenticator
from ureca.security.keys import ClientKeys, ServerKeys

_Sender = TypeVar("_Sender", bound="FrameSender")


class FrameSender(ABC):
    """The common part of both senders: numbering, encoding, shared memory, a socket of their own.

    `encoder` turns RGB u8 [H, W, 3] into `enc`; without one, images are sent raw as `rgb8`; with
    `shm` they stay in shared memory.
    """

    def __init__(
        self,
        *,
        stream: str = "cam0",
        node: str = "camera",
        encoder: Callable[[Image], bytes] | None = None,
        enc: Encoding = "jpeg",
        shm: bool = False,
        limits: WireLimits = LIMITS,
    ) -> None:
        if shm and encoder is not None:
            raise WireError("shared memory is for raw pixels: give either an encoder or shm")
        self.stream, self.session_id, self.next_seq = stream, os.urandom(16), 0
        self.sent = 0
        """Frames that were handed to the socket."""
        self._node, self._encoder, self._limits = node, encoder, limits
        self._enc: Encoding = enc if encoder else "rgb8"
        self._own = Ownership("sender of frames")
        self._ring = RingWriter() if shm else None
        self._context = zmq.Context()

    @abstractmethod
    def _room(self) -> bool:
        """Whether a frame may be sent now."""

    @abstractmethod
    def _send(self, parts: list[bytes]) -> bool:
        """Hand a message to the socket without waiting; whether it was taken."""

    def send(
        self,
        image: Image,
        captured_ns: int | None = None,
        *,
        regions: Any = None,
        prompts: Sequence[Any] = (),
        capture_source: CaptureSource = "driver",
        bgr: bool = False,
    ) -> int:
        """Send one image, RGB u8 [H, W, 3] (`bgr`: BGR, as OpenCV has it), and return its `seq`.
        Never blocks. A call that raises uses up no number.

        `captured_ns` is on the monotonic clock (now, if None). `regions` None means that the sender
        makes no masks; an empty sequence means that it found nothing. They are `RegionSeed`s or
        what `region_inputs.seeds_of` takes: arrays of masks or boxes, COCO annotations,
        `supervision.Detections`. `prompts` are points, boxes and `TextPrompt`s to start regions at
        on this very image. Raises `SourceError` and `RegionError` for what is none of these.
        """
        self._own.check()
        if bgr and getattr(image, "ndim", 0) == 3:
            image = np.ascontiguousarray(image[:, :, ::-1])
        height, width = (*np.shape(image)[:2], 0, 0)[:2]
        seeds = [one if isinstance(one, TextPrompt) else seed_of(one) for one in prompts]
        frame = Frame(
            stream=self.stream,
            session_id=self.session_id,
            seq=self.next_seq,
            captured_ns=time.monotonic_ns() if captured_ns is None else captured_ns,
            image=image,
            capture_source=capture_source,
            regions=None if regions is None else seeds_of(regions, width, height),
            prompts=tuple(one for one in seeds if isinstance(one, RegionSeed)),
            texts=tuple(one for one in seeds if isinstance(one, TextPrompt)),
        )
        self.send_frame(frame)
        return frame.seq

    def send_frame(self, frame: Frame) -> bool:
        """Send a frame with its own stream, session, number and stamp; False if the queue was full
        and the frame was dropped. It is encoded only if it can be sent. Never blocks.
        """
        self._own.check()
        if not self._room():
            self.next_seq = frame.seq + 1
            return False
        domain = clock_domain() if frame.clock == "mono" else None
        header = FrameHeader.of(frame, self._enc, clk_id=domain)
        if self._ring is not None:
            shared = self._ring.write(np.ascontiguousarray(frame.image))
            return self.send_encoded(msgspec.structs.replace(header, shm=shared), b"")
        pixels = self._encoder(frame.image) if self._encoder else frame.image.tobytes()
        return self.send_encoded(header, pixels)

    def send_encoded(self, header: FrameHeader, pixels: bytes) -> bool:
        """Send pixels that are already encoded; the header's `seq` should rise by one."""
        self._own.check()
        parts = encode_frame(header, pixels, self._node, self._limits)
        self.next_seq = header.seq + 1
        taken = self._send(parts)
        self.sent += taken
        return taken

    def close(self) -> None:
        """Stop; frames that wait are dropped, shared memory is given back. In a forked child they
        are the parent's.
        """
        if not self._own.close():
            return
        self._context.destroy(linger=0)
        if self._ring is not None:
            self._ring.close()

    def __enter__(self: _Sender) -> _Sender:  # noqa: PYI019  (`typing.Self` is Python 3.11's)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FramePublisher(FrameSender):
    """Binds, and publishes frames to all subscribers.

    `keys` are its own pair and its allow-list; an address on the network needs them
    (`ConfigError`). Raises `WireError` when the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        stream: str = "cam0",
        node: str = "camera",
        encoder: Callable[[Image], bytes] | None = None,
        enc: Encoding = "jpeg",
        shm: bool = False,
        limits: WireLimits = LIMITS,
        keys: ServerKeys | None = None,
    ) -> None:
        require_keys(address, keys)
        super().__init__(stream=stream, node=node, encoder=encoder, enc=enc, shm=shm, limits=limits)
        self._gate = CurveAuthenticator(self._context, keys) if keys is not None else None
        try:
            self._socket = self._open(address)
        except WireError:
            self._close_gate()
            super().close()
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._reopening = Reopening(lambda: self._open(self.address), MonotonicClock())

    def _open(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUB)
        harden(socket, self._limits)
        keep_frames_fresh(socket)
        take_subscriptions_only(socket)
        if self._gate is not None:
            self._gate.guard(socket, address, "pictures")
        try:
            bind(socket, address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise WireError(
                f"cannot publish frames on {address}: {error}", code="INTERNAL"
            ) from error
        return socket

    def close(self) -> None:
        """See `FrameSender`."""
        if self._own.is_here:
            self._socket.close(0)
            self._close_gate()
        super().close()

    def _close_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()

    def _room(self) -> bool:
        return True

    def _send(self, parts: list[bytes]) -> bool:
        if self._gate is not None and self._gate.take_revoked():
            self._socket.close(0)  # the others connect again by themselves
            self._reopening.begin()
        if self._socket.closed:
            reopened = self._reopening.attempt()
            if reopened is None:
                return False
            self._socket = reopened
        self._socket.send_multipart(parts)  # PUB never blocks: it drops for slow subscribers
        return True


class FrameDealer(FrameSender):
    """Connects to a node (`credit+tcp://…` there) and sends a frame when the node requests one.

    Frames without a credit are dropped before they are encoded; the node sees gaps in the numbers.
    `keys` are its own pair and the node's public key. `credits` is the number of frames that may be
    sent now. Raises `WireError` for an invalid address.
    """

    def __init__(
        self,
        address: str,
        *,
        stream: str = "cam0",
        node: str = "camera",
        encoder: Callable[[Image], bytes] | None = None,
        enc: Encoding = "jpeg",
        shm: bool = False,
        limits: WireLimits = LIMITS,
        keys: ClientKeys | None = None,
    ) -> None:
        super().__init__(stream=stream, node=node, encoder=encoder, enc=enc, shm=shm, limits=limits)
        self.address = address
        self._upto = 0
        self._asked_s = -ASK_EVERY_S
        self._socket = self._context.socket(zmq.DEALER)
        harden(self._socket, limits)
        keep_frames_fresh(self._socket)
        take_at_most(self._socket, 0)  # grants are short
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        if keys is not None:
            keys.encrypt(self._socket, address)
        try:
            connect(self._socket, address)
        except zmq.ZMQError as error:
            self.close()
            raise WireError(f"cannot connect to {address}: {error}", code="INTERNAL") from error

    @property
    def credits(self) -> int:
        """The number of frames that the node accepts now."""
        self._hear()
        return min(max(0, self._upto - self.sent), MAX_CREDITS)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a credit and request one at intervals; False after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while not self._room():
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            self._socket.poll(int(min(left_s, ASK_EVERY_S / 4) * 1e3) + 1)
        return True

    def _room(self) -> bool:
        if self.credits:
            return True
        now_s = time.monotonic()
        if now_s - self._asked_s >= ASK_EVERY_S:
            ask = CreditAsk(src=self.stream, session_id=self.session_id, sent=self.sent)
            if send_now(self._socket, encode_credit(ask)):
                self._asked_s = now_s
        return False

    def _hear(self) -> None:
        while (parts := received(self._socket)) is not None:
            with contextlib.suppress(WireError):  # no grant of ours: then we have none
                grant = decode_grant(parts)
                if grant.session_id == self.session_id:
                    self._upto = grant.upto

    def _send(self, parts: list[bytes]) -> bool:
        self._asked_s = time.monotonic()
        return send_now(self._socket, parts)
