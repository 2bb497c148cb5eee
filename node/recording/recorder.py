"""Writes a recording on a thread of its own; the node never waits for it.

The queue is bounded. If the disk is too slow, images are dropped and counted. If it is full, the
recording ends with a counter and an event, and the node continues.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from ureca.client.panoptic_view import PanopticView
from ureca.client.region_numbers import RegionNumbers
from ureca.clock import Clock
from ureca.datatypes import Frame, TrackSet
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.log import RateLimitedLog
from ureca.node.captioning.batch import EngineRun
from ureca.node.pipeline.step import StepInput, StepOutput
from ureca.node.recording import schemas
from ureca.node.recording.lossless_images import to_png
from ureca.node.recording.step_log import recorded_step
from ureca.protocol.events import (
    AnyEvent,
    CaptionFinal,
    CaptionTerminal,
    EventSink,
    Panoptic,
    RecordingStopped,
    TrackEnd,
)

EXTRA = "record"
METADATA = "ureca"
FORMAT = "3"
"""Of recordings. Format 1 had the names of wire protocol 1, format 2 calls instead of steps."""
_MAX_PENDING_BYTES = 256 << 20
_MAX_PENDING = 65_536
_CHUNK_BYTES = 1 << 18
"""What a kill may lose: a picture or two. Larger chunks compress no better."""
_MAX_WORDS = 4096

Work = Callable[[], None]
OpenFile = Callable[[Path], IO[bytes]]


def _open(path: Path) -> IO[bytes]:
    return path.open("wb")


class Recorder:
    """A `StepLog`, a `CaptionLog`, and a receiver of published events. Construct it, `start` it,
    and `close` it after the node.

    `head` is the header of the file, texts by name. Raises `ConfigError` if the file cannot be
    created, `FileExistsError` as `open_file` does, and `MissingExtraError` without the `record`
    extra.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        head: dict[str, str],
        chunk_bytes: int = _CHUNK_BYTES,
        max_pending_bytes: int = _MAX_PENDING_BYTES,
        open_file: OpenFile = _open,
    ) -> None:
        self.path, self._clock = path, clock
        self._max_bytes = max_pending_bytes
        self._wall_offset_ns = time.time_ns() - clock.now_ns()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._changed = threading.Condition()
        self._pending: deque[tuple[Work, int]] = deque()
        self._pending_bytes = 0
        self._closing = False
        self._lost: Counter[str] = Counter()
        self._words: dict[str, dict[str, str]] = {}
        self._numbers: dict[str, RegionNumbers] = {}
        self._channels: dict[str, int] = {}
        self._schema_ids: dict[str, int] = {}
        self._emit: EventSink = lambda _: None
        self.failure: str | None = None
        """Why the recording ended before the node did."""
        self._writer: Any = None  # untyped, because the package is optional
        try:
            self._file = open_file(path)
            self._begin(head, chunk_bytes)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"cannot record to {path}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._loop, name="ureca-record")

    def _begin(self, head: dict[str, str], chunk_bytes: int) -> None:
        mcap = require("mcap.writer", extra=EXTRA)
        try:
            self._writer = mcap.Writer(self._file, chunk_size=chunk_bytes)
            self._writer.start(profile="", library="ureca")
            self._writer.add_metadata(METADATA, head)
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing writes what could not be written
                self._file.close()
            raise

    def start(self, emit: EventSink) -> None:
        """Begin writing; `emit` gets one event if the recording has to end."""
        self._emit = emit
        self._thread.start()

    def counters(self) -> dict[str, int]:
        """What could not be recorded, by kind, for the heartbeat."""
        with self._changed:
            return {f"record_lost_{kind}": count for kind, count in sorted(self._lost.items())}

    def close(self) -> None:
        """Write what waits, finish the file, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._guard(self._writer.finish, "end")
        with contextlib.suppress(OSError):  # a full disk: what fits is there already
            self._file.close()

    # --- what is recorded ------------------------------------------------------------------------

    def __call__(self, event: AnyEvent) -> None:
        """Record a published event."""
        self._put("event", lambda: self._event(schemas.EVENTS, event), 1024)
        if isinstance(event, Panoptic):
            self._put("segments", lambda: self._segments(event), len(event.png))

    def step(self, number: int, given: StepInput, output: StepOutput) -> None:
        """See `StepLog`. Pictures and regions are left out when the disk is too slow."""
        if (frame := given.frame) is not None:
            self._put("frame", lambda: self._picture(number, frame), frame.image.nbytes)
        if (tracks := output.tracks) is not None:
            size = sum(track.mask.nbytes for track in tracks.tracks if track.mask is not None)
            self._put("tracks", lambda: self._tracks(number, tracks), size)
        self._put("step", lambda: self._step(number, given, output), 1024)

    def engine_run(self, run: EngineRun) -> None:
        """See `CaptionLog`."""
        self._put("engine_run", lambda: self._write(schemas.ENGINE_RUNS, run), 256)

    def direct_reply(self, event: CaptionTerminal) -> None:
        """See `CaptionLog`."""
        self._put("event", lambda: self._event(schemas.REPLIES, event), 1024)

    def _put(self, kind: str, work: Work, size: int) -> None:
        with self._changed:
            heavy = kind in ("frame", "tracks") and self._pending_bytes + size > self._max_bytes
            if self.failure is not None or heavy or len(self._pending) >= _MAX_PENDING:
                self._lost[kind] += 1
                lost = self._lost[kind]
            else:
                self._pending.append((work, size))
                self._pending_bytes += size
                self._changed.notify_all()
                return
        if self.failure is None:
            self._log.warning(kind, f"the disk is too slow to record every {kind}: {lost} lost")

    # --- the thread ------------------------------------------------------------------------------

    def _loop(self) -> None:
        while (found := self._take()) is not None:
            work, size = found
            self._guard(work, "message")
            with self._changed:
                self._pending_bytes -= size

    def _take(self) -> tuple[Work, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            return self._pending.popleft() if self._pending else None

    def _guard(self, work: Work, kind: str) -> None:
        if self.failure is not None:
            with self._changed:
                self._lost[kind] += kind != "end"
            return
        try:
            work()
            self._file.flush()
        except OSError as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001  (one message; the recording goes on)
            with self._changed:
                self._lost[kind] += 1
            self._log.warning(type(error).__name__, "something could not be recorded", error=error)

    def _give_up(self, error: OSError) -> None:
        with self._changed:
            self.failure = f"recording to {self.path} ended: {error.strerror or error}"
            self._lost["message"] += 1 + len(self._pending)
            lost = self._lost["message"]
            self._pending.clear()
            self._pending_bytes = 0
        logging.getLogger(__name__).error("%s; the node goes on without it", self.failure)
        with contextlib.suppress(OSError):  # the node may be closing: then nobody is left to tell
            self._emit(RecordingStopped(reason=self.failure, lost=lost))

    def _event(self, topic: str, event: AnyEvent | CaptionTerminal) -> None:
        if isinstance(event, CaptionFinal):
            words = self._words.setdefault(event.stream, {})
            words[event.rid] = event.text
            if len(words) > _MAX_WORDS:
                words.pop(next(iter(words)))
        elif isinstance(event, TrackEnd):
            self._words.get(event.stream, {}).pop(event.rid, None)
            if event.stream in self._numbers:
                self._numbers[event.stream].forget(event.rid)
        self._write(topic, event)

    def _step(self, number: int, given: StepInput, output: StepOutput) -> None:
        self._write(schemas.STEPS, recorded_step(number, given, output), number=number)

    def _picture(self, number: int, frame: Frame) -> None:
        wall_ns = frame.captured_ns + self._wall_offset_ns
        message = schemas.image(to_png(frame.image), frame.stream, wall_ns)
        self._write(schemas.image_topic(frame.stream), message, number=number, wall_ns=wall_ns)

    def _tracks(self, number: int, tracks: TrackSet) -> None:
        wall_ns = tracks.captured_ns + self._wall_offset_ns
        words = self._words.get(tracks.stream, {})
        exact, drawn = schemas.tracks(tracks), schemas.drawn(tracks, words, wall_ns)
        self._write(f"/{tracks.stream}/tracks", exact, number=number, wall_ns=wall_ns)
        self._write(f"/{tracks.stream}/outlines", drawn, number=number, wall_ns=wall_ns)

    def _segments(self, event: Panoptic) -> None:
        """The map for people: the event has it exactly."""
        view = PanopticView.from_event(event)
        numbers = self._numbers.setdefault(event.stream, RegionNumbers())
        known = numbers.add(one.rid for one in view.segments)
        wall_ns = event.captured_ns + self._wall_offset_ns
        shown = schemas.segments(view, known, wall_ns), schemas.segment_names(view, known, wall_ns)
        for topic, message in zip(("segments", "segment_names"), shown, strict=True):
            self._write(f"/{event.stream}/{topic}", message, number=event.seq, wall_ns=wall_ns)

    def _write(self, topic: str, message: object, *, number: int = 0, wall_ns: int = 0) -> None:
        now_ns = self._clock.now_ns() + self._wall_offset_ns
        self._writer.add_message(
            channel_id=self._channel(topic),
            log_time=max(0, now_ns),
            data=msgspec.json.encode(message),
            publish_time=max(0, wall_ns or now_ns),
            sequence=number & 0xFFFFFFFF,
        )

    def _channel(self, topic: str) -> int:
        if topic not in self._channels:
            name = schemas.schema_of(topic)
            if name not in self._schema_ids:
                self._schema_ids[name] = self._writer.register_schema(
                    name=name, encoding="jsonschema", data=schemas.schema_text(name)
                )
            self._channels[topic] = self._writer.register_channel(
                topic=topic, message_encoding="json", schema_id=self._schema_ids[name]
            )
        return self._channels[topic]
