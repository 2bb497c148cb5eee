from __future__ import annotations

import numpy as np

from ureca.clock import ManualClock
from ureca.datatypes import Frame, RegionRequest, StageTimes, Trigger
from ureca.node.captioning.batch import CaptionBatch
from ureca.node.captioning.batch_captioner import CaptionWriter
from ureca.node.config import CaptionConfig
from ureca.protocol.events import AnyEvent, CaptionFinal
from ureca.testing import ScriptedEngine


def batch(request_id: int) -> CaptionBatch:
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
    return CaptionBatch(frame, (request,))


def test_an_abort_that_came_too_late_is_forgotten() -> None:
    """Otherwise every track that dies just after its caption would cost memory for ever."""
    writer = CaptionWriter(ScriptedEngine(), CaptionConfig(), ManualClock())
    writer.write(batch(1), lambda event: None)
    writer.abort(1, "lost_track")
    writer.abort(2, "lost_track")
    writer.write(batch(2), lambda event: None)
    writer.write(batch(3), lambda event: None)
    ends = [(one.end, one.reason) for one in writer.finished()]
    assert ends == [("final", None), ("abort", "lost_track"), ("final", None)]
    assert not writer._aborts


class _Stopwatch(ScriptedEngine):
    """Says how often it was asked as the `region` time of that call."""

    @property
    def times(self) -> StageTimes:
        return StageTimes({**super().times.us, "region": self.calls})


def test_the_times_of_a_caption_are_those_of_its_own_batch() -> None:
    """`region` is known only when the rows have begun: read before, it was the last batch's."""
    writer = CaptionWriter(_Stopwatch(), CaptionConfig(), ManualClock())
    finals: list[AnyEvent] = []
    for number in (1, 2, 3):
        writer.write(batch(number), finals.append)
    assert [final.stage_us["region"] for final in finals if isinstance(final, CaptionFinal)] == [
        1,
        2,
        3,
    ]
