from __future__ import annotations

import pytest

from ureca.protocol import events as ev

SESSION_ID = bytes(range(16))
MASK = ev.WireRle(size=(4, 6), counts="5220007")

ID_MAP = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000010800000000d14920560000000b"
    "4944415408d7636464040000090004b6bc8d610000000049454e44ae426082"
)
"""Two pixels, 1 and 2, in 8-bit grey."""
SEGMENTS = (
    ev.NamedSegment(
        n=1, rid="r1", kind="thing", share=0.25, score=0.5, label="cup", caption="a red cup"
    ),
    ev.NamedSegment(n=2, rid="r2", kind="stuff", share=0.75),
)
WHOLE = {"segments": SEGMENTS, "png": ID_MAP, "stage_us": {"look": 39_000}}


def every_event() -> list[ev.AnyEvent]:
    """One event of each kind, all fields set."""
    common = {"session_id": SESSION_ID, "pub_ns": 5_000_000, "stream": "cam1"}
    region = {**common, "rid": "r1", "rev": 2, "parent": "r0"}
    track = {**region, "seq": 9, "captured_ns": 4_000_000, "box": (1, 2, 30, 40), "label": "cup"}
    caption = {**region, "request_id": 7}
    frame = {"seq": 9, "captured_ns": 4_000_000, "width": 640, "height": 480}
    return [
        ev.TrackNew(event_seq=1, mask=MASK, **track),
        ev.TrackUpdate(event_seq=2, age_frames=12, **track),
        ev.TrackLost(event_seq=3, reason="drift", **track),
        ev.TrackRecovered(event_seq=4, **track),
        ev.TrackEnd(event_seq=5, reason="shutdown", **track),
        ev.CaptionStart(event_seq=6, trigger="new", seq=9, captured_ns=4_000_000, **caption),
        ev.CaptionDelta(event_seq=7, offset=5, text=" cup", **caption),
        ev.CaptionFinal(
            event_seq=8,
            text="a red cup",
            status="ok",
            n_tok=4,
            stop="eos",
            score=0.5,
            score_kind="token_geomean",
            src_seqs=(9,),
            captured_ns=4_000_000,
            box=(1, 2, 30, 40),
            mask=MASK,
            mask_seq=9,
            trigger="new",
            model="ureca-nano",
            bundle_sha="ab" * 32,
            precision="int8",
            ttl_ms=3000,
            age_at_pub_ms=1.5,
            stage_us={"vit": 12},
            batch={"n": 4, "pos": 1},
            drop={"superseded": 2},
            label="cup",
            **caption,
        ),
        ev.CaptionSame(event_seq=9, same_rev=1, captured_ns=4_000_000, ttl_ms=3000, **caption),
        ev.CaptionAbort(event_seq=10, reason="lost_track", **caption),
        ev.CaptionError(event_seq=11, code="BAD_OUTPUT", msg="repetition", **caption),
        ev.Heartbeat(
            session_id=SESSION_ID,
            event_seq=12,
            uptime_ms=1000,
            state="running",
            counters={"frames_in": 30},
            streams={"cam1": {"fps": 29.5, "regions": 3}},
            model="ureca-nano",
        ),
        ev.RecordingStopped(
            session_id=SESSION_ID,
            event_seq=13,
            reason="recording to a.mcap ended: disk full",
            lost=4,
        ),
        ev.TextFound(
            event_seq=14,
            text="the red cup",
            none=0.0625,
            seq=9,
            captured_ns=4_000_000,
            regions=(
                ev.TextRegion(rid="r1", box=(1, 2, 30, 40), probability=0.9375, level="thing"),
            ),
            **common,
        ),
        ev.TextAbsent(
            event_seq=15, text="a mug", none=0.875, seq=9, captured_ns=4_000_000, **common
        ),
        ev.Panoptic(event_seq=16, **WHOLE, **frame, **common),
    ]


@pytest.fixture(name="every_event")
def _every_event() -> list[ev.AnyEvent]:
    return every_event()
