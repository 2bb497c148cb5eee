"""Draws every processed frame into a video, on a thread of its own.

The queue is bounded: if drawing is slower than the node, frames are dropped and counted, and the
previous one stands longer in the video. After each frame the thread rests twice as long as it drew,
and it has a low priority, so that the node keeps its processor. Only a source without frame loss
waits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ureca.datatypes import Frame, Image, TrackSet
from ureca.extras import require
from ureca.node.annotated_video.overlay_state import News, OverlayState
from ureca.node.annotated_video.video_writer import FreeBytes, VideoWriter, free_bytes
from ureca.protocol.events import AnyEvent, CaptionFinal, CaptionSame, Panoptic, TrackEnd
from ureca.visualization.picture import annotated
from ureca.visualization.text import EXTRA

_MAX_PENDING_BYTES = 128 << 20
_MAX_HOLD_S = 2.0
"""The longest time of one image in the video, also after a long gap of the camera."""
_REST = 2.0
"""Seconds without drawing per second of drawing."""
_NICE = 5
_log = logging.getLogger(__name__)

Draw = Callable[[Frame, TrackSet, OverlayState], Image]
_Item = tuple[Frame, TrackSet, float] | News
"""A frame, its regions and its second in the video; or an event."""


def drawn(frame: Frame, tracks: TrackSet, words: OverlayState) -> Image:
    """The picture with its regions, or with its segments where the stream has any."""
    shown = words.shown(tracks)
    ids = words.ids(shown, (frame.height, frame.width))
    return annotated(frame.image, shown, title=frame.stream, memory=words.memory, ids=ids)


@dataclass
class _Film:
    """The video of one stream: its file, its words, and where it is in time."""

    file: VideoWriter
    words: OverlayState = field(default_factory=OverlayState)
    last: Image | None = None


@dataclass(slots=True)
class _Time:
    """Where a stream is in its video; frames that are lost take their time, too."""

    session_id: bytes
    captured_ns: int
    video_s: float = 0.0

    def advance(self, frame: Frame, frame_s: float) -> float:
        """The second of the next frame; a new life of the camera goes on after one picture."""
        passed_s = (frame.captured_ns - self.captured_ns) / 1e9
        same = frame.session_id == self.session_id and passed_s >= 0
        self.session_id, self.captured_ns = frame.session_id, frame.captured_ns
        self.video_s += min(passed_s, _MAX_HOLD_S) if same else frame_s
        return self.video_s


class Renderer:
    """A sink for events and frames. Construct it, call `start`, and call `close` after the node.

    The first stream goes to `path`, others to `NAME-STREAM.mp4` beside it. With `lossless` every
    frame is one image of the video and `saw` waits for a free slot; without, the video keeps the
    capture times and `saw` never waits. Raises `ConfigError` if the file cannot be created and
    `MissingExtraError` without the `render` extra.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float,
        lossless: bool = False,
        draw: Draw = drawn,
        free: FreeBytes = free_bytes,
        max_pending_bytes: int = _MAX_PENDING_BYTES,
        rest: float = _REST,
    ) -> None:
        require("PIL.ImageFont", extra=EXTRA)
        self._path, self._fps, self._lossless = path, fps, lossless
        self._draw, self._free = draw, free
        self._max_bytes = max_pending_bytes
        self._rest = 0.0 if lossless else rest
        self._rests_until_s = 0.0
        self._first = VideoWriter(path, fps=fps, free=free)
        self._films: dict[str, _Film] = {}
        self._times: dict[str, _Time] = {}
        self._changed = threading.Condition()
        self._pending: deque[_Item] = deque()
        self._pending_bytes = 0
        self._lost = 0
        self._closing = False
        self.failure: str | None = None
        """Why the video ended before the node did."""
        self._thread = threading.Thread(target=self._loop, name="ureca-render")

    def use_rate(self, fps: float) -> None:
        """The rate of the video, before the first frame: that of the clip."""
        self._fps = self._first.fps = fps

    def start(self) -> None:
        """Begin drawing."""
        self._thread.start()

    def counters(self) -> dict[str, int]:
        """Frames that the video does not have, for the heartbeat."""
        with self._changed:
            return {"render_lost_frame": self._lost} if self._lost else {}

    def __call__(self, event: AnyEvent) -> None:
        """Take note of a published event."""
        if isinstance(event, CaptionFinal | CaptionSame | Panoptic | TrackEnd):
            with self._changed:
                if not self._is_over():
                    self._pending.append(event)

    def saw(self, frame: Frame, tracks: TrackSet) -> None:
        """Take one frame with its regions; never waits, except for a lossless source."""
        at_s = self._advance(frame)
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: self._has_room(frame) or self._is_over())
            rests = time.monotonic() < self._rests_until_s
            if rests or self._is_over() or not self._has_room(frame):
                self._lost += 1
                return
            self._pending.append((frame, tracks, at_s))
            self._pending_bytes += frame.image.nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Draw what waits, finish the files, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        if not self._films:
            self._first.close()
        for stream, film in self._films.items():
            if self.failure is None and film.last is not None and not self._lossless:
                self._guard(partial(self._hold, film, self._times[stream].video_s + 1 / self._fps))
            self._guard(film.file.close)

    def text(self) -> str:
        """One line for the summary."""
        if self.failure is not None:
            return self.failure
        lost = f", {self._lost} frames lost" if self._lost else ""
        pictures = sum(film.file.pictures for film in self._films.values())
        return f"{self._path}: {pictures / self._fps:.1f} s at {self._fps:g} pictures/s{lost}"

    def _advance(self, frame: Frame) -> float:
        now = self._times.get(frame.stream)
        if now is None:
            self._times[frame.stream] = _Time(frame.session_id, frame.captured_ns)
            return 0.0
        return now.advance(frame, 1 / self._fps)

    def _has_room(self, frame: Frame) -> bool:
        return not self._pending_bytes or (
            self._pending_bytes + frame.image.nbytes <= self._max_bytes
        )

    def _is_over(self) -> bool:
        return self._closing or self.failure is not None

    # --- the thread ------------------------------------------------------------------------------

    def _loop(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # no Linux: then no nicer than others
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (item := self._take()) is not None:
            if self.failure is None:
                self._guard(lambda item=item: self._handle(item))  # type: ignore[misc]

    def _take(self) -> _Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending_bytes or self._closing)
            if not self._pending:
                return None
            item = self._pending.popleft()
            if isinstance(item, tuple):
                self._pending_bytes -= item[0].image.nbytes
                self._changed.notify_all()
            return item

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._give_up(str(error))
        except Exception as error:  # noqa: BLE001  (drawing must not end the node; it is told)
            _log.exception("a picture could not be drawn")
            self._give_up(f"a picture could not be drawn: {error}")

    def _give_up(self, why: str) -> None:
        with self._changed:
            self.failure = self.failure or f"rendering to {self._path} ended: {why}"
            waiting = sum(isinstance(item, tuple) for item in self._pending)
            self._lost += 1 + waiting
            self._pending.clear()
            self._pending_bytes = 0
            self._changed.notify_all()
        _log.error("%s; the node goes on without it", self.failure)

    def _handle(self, item: _Item) -> None:
        if isinstance(item, tuple):
            began_s = time.thread_time()
            self._rests_until_s = math.inf if self._rest else 0.0
            self._frame(*item)
            drew_s = time.thread_time() - began_s
            self._rests_until_s = time.monotonic() + self._rest * drew_s
        elif item.stream in self._films:
            self._films[item.stream].words.apply(item)

    def _frame(self, frame: Frame, tracks: TrackSet, at_s: float) -> None:
        film = self._film(frame.stream)
        image = self._draw(frame, tracks, film.words)
        if not self._lossless:
            self._hold(film, at_s)
        if self._lossless or film.file.pictures <= round(at_s * self._fps):
            film.file.write(image)
        film.last = image

    def _hold(self, film: _Film, until_s: float) -> None:
        """The last picture stands until this second of the video."""
        while film.last is not None and film.file.pictures < round(until_s * self._fps):
            film.file.write(film.last)

    def _film(self, stream: str) -> _Film:
        if stream not in self._films:
            path = self._path.with_stem(f"{self._path.stem}-{stream}")
            first = not self._films
            file = self._first if first else VideoWriter(path, fps=self._fps, free=self._free)
            self._films[stream] = _Film(file)
        return self._films[stream]
