"""The camera's side of the protocol: publish pictures, with masks if the camera's process has them.

with FramePublisher("tcp://127.0.0.1:5600", stream="cam0") as camera:
camera.send(image)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import zmq

from ureca.datatypes import CaptureSource, Frame, Image, RegionSeed
from ureca.errors import WireError
from ureca.frames import Encoding, FrameHeader, encode_frame
from ureca.packing import LIMITS, WireLimits
from ureca.sockets import harden, keep_frames_fresh


class FramePublisher:
    """The camera's side: binds, and publishes frames to whoever subscribes; never blocks.

    `encoder` turns RGB u8 [H, W, 3] into `enc`; without one, pictures travel raw as `rgb8`.
    """

    def __init__(
        self,
        address: str,
        *,
        stream: str = "cam0",
        node: str = "camera",
        encoder: Callable[[Image], bytes] | None = None,
        enc: Encoding = "jpeg",
        limits: WireLimits = LIMITS,
    ) -> None:
        self.stream, self.boot, self.next_seq = stream, os.urandom(16), 0
        self._node, self._encoder, self._limits = node, encoder, limits
        self._enc: Encoding = enc if encoder else "rgb8"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        harden(self._socket, limits)
        keep_frames_fresh(self._socket)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise WireError(
                f"cannot publish frames on {address}: {error}", code="INTERNAL"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(
        self,
        image: Image,
        captured_ns: int | None = None,
        *,
        regions: Sequence[RegionSeed] | None = None,
        cap_src: CaptureSource = "driver",
    ) -> int:
        """Publish one picture, RGB u8 [H, W, 3]; returns its `seq`.

        `captured_ns` is on the monotonic clock (now, if None). `regions` None means "I have no
        masks", an empty sequence "I see nothing".
        """
        stamp_ns = time.monotonic_ns() if captured_ns is None else captured_ns
        frame = Frame(
            stream=self.stream,
            boot=self.boot,
            seq=self.next_seq,
            captured_ns=stamp_ns,
            image=image,
            cap_src=cap_src,
            regions=None if regions is None else tuple(regions),
        )
        pixels = self._encoder(image) if self._encoder else image.tobytes()
        self.send_encoded(FrameHeader.of(frame, self._enc), pixels)
        return frame.seq

    def send_encoded(self, header: FrameHeader, pixels: bytes) -> None:
        """Publish pixels that are already encoded; the header's `seq` should rise by one."""
        self.next_seq = header.seq + 1
        self._socket.send_multipart(encode_frame(header, pixels, self._node, self._limits))

    def close(self) -> None:
        """Stop publishing; frames that wait are dropped."""
        self._context.destroy(linger=0)

    def __enter__(self) -> FramePublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
