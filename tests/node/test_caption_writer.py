from __future__ import annotations

import numpy as np

from ureca.clock import ManualClock
from ureca.datatypes import Frame, RegionRequest, StageTimes, Trigger
from ureca.node.captioning.batch import Job, Row
from ureca.node.captioning.captioner import CaptionWriter
from ureca.node.config import CaptionConfig
from ureca.protocol.events import CaptionFinal
from ureca.testing import ScriptedEngine


def job(request_id: int) -> Job:
    mask = np.zeros((48, 64), np.bool_)
    mask[10:30, 10:40] = True
    request = RegionRequest(
        request_id=request_id,
        stream="cam0",
        rid="r1",
        rev=1,
        frame_seq=0,
        mask=mask,
        box_xyxy_px=(10, 10, 40, 30),
        trigger=Trigger.NEW,
        deadline_ns=10**12,
    )
    frame = Frame("cam0", b"b" * 16, seq=0, captured_ns=0, image=np.zeros((48, 64, 3), np.uint8))
    return Job(frame, (Row(request),))


def test_an_abort_that_came_too_late_is_forgotten() -> None:
    """Otherwise every track that dies just after its caption would cost memory for ever."""
    writer = CaptionWriter(ScriptedEngine(), CaptionConfig(), ManualClock())
    writer.write(job(1), lambda event: None)
    writer.abort(1, "lost_track")
    writer.abort(2, "lost_track")
    writer.write(job(2), lambda event: None)
    writer.write(job(3), lambda event: None)
    assert [type(o.event).__name__ for o in writer.outcomes()] == [
        "CaptionFinal",
        "CaptionAbort",
        "CaptionFinal",
    ]
    assert not writer._aborts


class _Stopwatch(ScriptedEngine):
    """Says how often it was asked as the `region` time of that call."""

    @property
    def times(self) -> StageTimes:
        return StageTimes({**super().times.us, "region": self.calls})


def test_the_times_of_a_caption_are_those_of_its_own_batch() -> None:
    """`region` is known only when the rows have begun: read before, it was the last batch's."""
    writer = CaptionWriter(_Stopwatch(), CaptionConfig(), ManualClock())
    for number in (1, 2, 3):
        writer.write(job(number), lambda event: None)
    finals = [outcome.event for outcome in writer.outcomes()]
    assert [final.stage_us["region"] for final in finals if isinstance(final, CaptionFinal)] == [
        1,
        2,
        3,
    ]
