"""A camera or network stream as a source: a thread of its own reads it, keeps the newest image, and
reconnects after a failure.

An outage does not end the node: regions stay, captions expire, `health` names the source and the
reason. `session_id` and numbers continue, because this process numbers the images.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ureca.clock import Clock
from ureca.datatypes import Frame, Image
from ureca.errors import SourceError, WireError
from ureca.log import RateLimitedLog
from ureca.native_threads import NativeThread
from ureca.node.config import NodeConfig
from ureca.node.counters import DropReason, NodeCounters
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.decoding.image_decoder import decode_picture, rgb_of
from ureca.node.sources.camera_capture import (
    Capture,
    OpenCapture,
    RawImage,
    check_uri,
)
from ureca.node.sources.camera_status import ConnectionStatus
from ureca.node.sources.frame_gaps import StampGaps
from ureca.node.sources.network_capture import StreamCapture, open_capture
from ureca.node.sources.source_uri import NETWORK, Address, hide_secrets, split
from ureca.node.sources.video_player import ClipPlayer
from ureca.node.sources.video_readers import ClipReader
from ureca.protocol.image_header import measure_head

_POLL_S = 0.1
_JOIN_S = 2.0
"""How long the end waits for a driver that does not return; then it is left to the process."""


@dataclass(frozen=True, slots=True)
class _Numbered:
    seq: int
    shot: RawImage


class LiveSource:
    """One camera or stream; see `FrameSource` and `ReconnectingSource`. A stream that has an end is
    played by its own stamps and ends.
    """

    def __init__(
        self,
        address: Address,
        config: NodeConfig,
        *,
        clock: Clock,
        counters: NodeCounters,
        wait: Callable[[float], bool],
        open_capture: OpenCapture = open_capture,
    ) -> None:
        check_uri(address.uri)
        self._address = address
        self._config = config
        self._clock = clock
        self._counters = counters
        self._wait = wait
        self._open = open_capture
        self._session_id = uuid.uuid4().bytes
        self._next_seq = 0
        self._newest = _Newest()
        self._apart = Decoder(config) if split(address.uri).scheme in NETWORK else None
        self._decode = decode_picture if self._apart is None else self._apart
        self._stopping = threading.Event()
        self._capture: Capture | None = None
        self._clip: ClipReader | None = None
        self._player: ClipPlayer | None = None
        name = f"{address.stream}: {hide_secrets(address.uri)}"
        self._line = ConnectionStatus(name, config.source, clock)
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)

    @property
    def is_lossless(self) -> bool:
        """See `FrameSource`."""
        return self._player is not None and self._player.is_lossless

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`; a stream without an end ends only when told to stop."""
        name = f"ureca-read-{self._address.stream}"
        reader = NativeThread(target=self._read_on, name=name)
        reader.start()
        try:
            while not self._wait(0.0):
                if self._clip is not None:
                    yield from self._play(self._clip)
                    return
                numbered = self._newest.take(_POLL_S)
                frame = None if numbered is None else self._frame(numbered)
                if frame is not None:
                    yield frame
        finally:
            self._stopping.set()
            if isinstance(self._capture, StreamCapture):
                self._capture.close()  # its reader waits for the process, which ends now
            if not reader.end(_JOIN_S):
                self._log.warning("end", f"{name} did not come back; it is left behind")
            if self._apart is not None:
                self._apart.close()
            if self._newest.take(0) is not None:
                self._counters.frame_dropped("shutdown")

    def reasons(self) -> tuple[str, ...]:
        """See `ReconnectingSource`."""
        return self._line.reasons() if self._player is None else self._player.reasons()

    def counters(self) -> dict[str, int]:
        """See `ReconnectingSource`."""
        return {"source_outages": self._line.outages, "sources_down": len(self.reasons())}

    def taken(self, frame: Frame) -> None:
        """See `ReconnectingSource`."""

    # --- the reading thread ----------------------------------------------------------------------

    def _read_on(self) -> None:
        source = self._config.source
        delay_s = source.retry_s
        while not self._stopping.is_set() and self._clip is None:
            before = self._next_seq
            try:
                self._session()
            except SourceError as error:
                self._down(str(error))
            except Exception as error:  # noqa: BLE001  (a driver may fail in any way)
                # Its text may hold the address, and the address a password.
                self._down(f"{hide_secrets(self._address.uri)} failed: {type(error).__name__}")
            delay_s = source.retry_s if self._next_seq > before else delay_s
            self._stopping.wait(delay_s)
            delay_s = min(2 * delay_s, source.retry_max_s)

    def _down(self, why: str) -> None:
        if not self._stopping.is_set():  # else it was ended from here: no outage
            self._line.down(why)

    def _session(self) -> None:
        """Open, and read to the end."""
        self._line.busy(is_open=False)
        capture = self._capture = self._open(self._address.uri, self._config, self._clock)
        if isinstance(capture, StreamCapture):
            if self._stopping.is_set():
                capture.close()  # the end may have come before it was known to it
                return
            capture.open()
            if capture.clip is not None:
                self._clip = capture.clip
                return
        with contextlib.closing(capture):
            gaps = StampGaps()
            self._line.busy(is_open=True)
            while (shot := capture.read()) is not None and not self._stopping.is_set():
                if self._line.is_late():
                    # FFmpeg had held it back until the read timed out: nobody knows its age.
                    self._counters.frame_in()
                    self._drop("expired", "a picture came as the read timed out")
                    break
                self._line.came()
                self._count(shot, gaps)
                self._line.busy(is_open=True)
            if not self._stopping.is_set():
                self._line.ended()  # before it is closed: a half-open peer makes that slow as well

    def _count(self, shot: RawImage, gaps: StampGaps) -> None:
        missing = 0 if shot.stamp_ns is None else gaps.missing(shot.stamp_ns)
        if missing:
            self._counters.frame_in(missing)
            self._counters.frame_dropped("link_gap", missing)
        seq = self._next_seq + missing
        self._next_seq = seq + 1
        self._counters.frame_in()
        if self._newest.put(_Numbered(seq, shot)):
            self._counters.frame_dropped("superseded")

    # --- the source's thread ---------------------------------------------------------------------

    def _play(self, clip: ClipReader) -> Iterator[Frame]:
        """A stream that has an end."""
        source = replace(self._config.source, stream=self._address.stream)
        config = replace(self._config, source=source)
        self._player = ClipPlayer(
            clip, config, clock=self._clock, counters=self._counters, wait=self._wait
        )
        self._line.up()
        yield from self._player.frames()

    def _frame(self, numbered: _Numbered) -> Frame | None:
        shot = numbered.shot
        captured_ns = shot.read_ns if shot.stamp_ns is None else shot.stamp_ns
        age_ns = self._clock.now_ns() - captured_ns
        if age_ns > self._config.source.max_age_ms * 1_000_000:
            self._drop("expired", f"a picture is {age_ns // 1_000_000} ms old")
            return None
        image = self._image(shot)
        if image is None:
            return None
        self._line.up()
        return Frame(
            stream=self._address.stream,
            session_id=self._session_id,
            seq=numbered.seq,
            captured_ns=captured_ns,
            image=image,
            clock=self._clock.name,
            capture_source="receive" if shot.stamp_ns is None else "driver",
            received_ns=shot.read_ns,
        )

    def _image(self, shot: RawImage) -> Image | None:
        picture = shot.picture
        if isinstance(picture, SourceError):
            self._bad(str(picture))
            return None
        if not isinstance(picture, bytes):
            return picture if shot.is_rgb else rgb_of(picture)
        max_px = self._config.limits.max_image_px
        try:
            facts = measure_head(picture)  # before anything is decoded
            if facts.width * facts.height <= max_px:
                return self._decode(picture, max_px=max_px)
            size = f"{facts.width}x{facts.height}"
            self._drop("too_large", f"{size} exceeds limits.max_image_px = {max_px}")
        except (SourceError, WireError) as error:
            self._bad(str(error))
        return None

    def _bad(self, why: str) -> None:
        self._line.bad(why)
        self._drop("decode_error", why)

    def _drop(self, reason: DropReason, message: str) -> None:
        self._counters.frame_dropped(reason)
        text = f"{self._address.stream}: dropped a frame ({reason}): {message}"
        self._log.warning(reason, text)


class _Newest:
    """Room for one picture, where the newest wins. Only the very first gives way to none: regions
    of a prompt file begin on it.
    """

    def __init__(self) -> None:
        self._held: _Numbered | None = None
        self._changed = threading.Condition()

    def put(self, numbered: _Numbered) -> bool:
        """Leave a picture; True when there is one less, because nobody had taken the last."""
        with self._changed:
            is_full = self._held is not None
            if self._held is None or self._held.seq > 0:
                self._held = numbered
            self._changed.notify()
            return is_full

    def take(self, timeout_s: float) -> _Numbered | None:
        """The picture; None when there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None, timeout_s)
            held, self._held = self._held, None
            return held
