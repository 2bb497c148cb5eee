"""Recordings that clients start and stop while the node runs (`record.start`, `record.stop`).

The node logs everything all the time, and discards it while no recording runs. A recording that
begins in the middle has images, masks, events and requests for people and for Foxglove. Its
decisions depend on earlier ones, so it cannot be replayed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from ureca.clock import Clock
from ureca.datatypes import JsonObject
from ureca.errors import RequestError
from ureca.node.captioning.batch import EngineRun
from ureca.node.pipeline.step import StepInput, StepOutput
from ureca.node.recording.header import MID_RUN
from ureca.node.recording.recorder import Recorder
from ureca.protocol.events import AnyEvent, CaptionTerminal, EventSink


def _create(path: Path) -> IO[bytes]:
    """Also no link that leads elsewhere, and no file that another node began just now."""
    return path.open("xb")


class RecordSwitch:
    """A `StepLog`, a `CaptionLog` and a sink that lead to the recording under way, if there is one.

    `first` is a recording from the start on, which can be replayed. Files go to `folder` and are
    never overwritten. `begin` and `end` are called by one thread.
    """

    def __init__(
        self, folder: Path, *, clock: Clock, head: Mapping[str, str], first: Recorder | None = None
    ) -> None:
        self._folder, self._clock, self._head = folder, clock, dict(head)
        self._now: Recorder | None = first
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._endings: list[threading.Thread] = []
        self._emit: EventSink = lambda _: None

    @property
    def failure(self) -> str | None:
        """Why the recording under way has ended."""
        now = self._now
        return None if now is None else now.failure

    def start(self, emit: EventSink) -> None:
        """See `Recorder.start`."""
        self._emit = emit
        if self._now is not None:
            self._now.start(emit)

    def counters(self) -> dict[str, int]:
        """See `Recorder.counters`; of all recordings together."""
        with self._lock:
            now = self._now
            lost = Counter(self._lost)
        return dict(lost + Counter(now.counters() if now is not None else {}))

    def begin(self, name: str) -> JsonObject:
        """Begin `NAME.mcap`; the result of `record.start`."""
        if self._now is not None:
            raise RequestError("a recording is under way; stop it first", code="BUSY")
        path = self._folder / f"{name}.mcap"
        try:
            head = {**self._head, MID_RUN: "1"}
            recorder = Recorder(path, clock=self._clock, head=head, open_file=_create)
        except FileExistsError as error:
            text = f"{path} exists; choose another name"
            raise RequestError(text, code="BAD_SCHEMA") from error
        recorder.start(self._emit)
        self._now = recorder
        return {"file": str(path)}

    def end(self, reply: Callable[[JsonObject], None]) -> None:
        """End the recording under way and answer when its file is whole; does not wait for it."""
        with self._lock:
            recorder, self._now = self._now, None
        if recorder is None:
            raise RequestError("no recording is under way", code="NOT_FOUND")
        self._endings = [thread for thread in self._endings if thread.is_alive()]
        ending = threading.Thread(
            target=self._finish, args=(recorder, reply), name="ureca-record-end"
        )
        self._endings.append(ending)
        ending.start()

    def _finish(self, recorder: Recorder, reply: Callable[[JsonObject], None]) -> None:
        recorder.close()
        lost = recorder.counters()
        with self._lock:
            self._lost.update(lost)
        reply({"file": str(recorder.path), "failure": recorder.failure, "lost": lost})

    def close(self) -> None:
        """Finish every recording."""
        for ending in self._endings:
            ending.join()
        if self._now is not None:
            self._now.close()

    # --- what is recorded ------------------------------------------------------------------------

    def __call__(self, event: AnyEvent) -> None:
        """See `Recorder`."""
        if (now := self._now) is not None:
            now(event)

    def step(self, number: int, given: StepInput, output: StepOutput) -> None:
        """See `StepLog`."""
        if (now := self._now) is not None:
            now.step(number, given, output)

    def engine_run(self, run: EngineRun) -> None:
        """See `CaptionLog`."""
        if (now := self._now) is not None:
            now.engine_run(run)

    def direct_reply(self, event: CaptionTerminal) -> None:
        """See `CaptionLog`."""
        if (now := self._now) is not None:
            now.direct_reply(event)
