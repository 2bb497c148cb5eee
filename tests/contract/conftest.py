from __future__ import annotations

import pytest

from ureca.protocol import events as ev

BOOT = bytes(range(16))
MASK = ev.WireRle(size=(4, 6), counts="5220007")


def every_event() -> list[ev.AnyEvent]:
    """One event of each kind, all fields set."""
    common = {"boot": BOOT, "pub_ns": 5_000_000, "stream": "cam1"}
    region = {**common, "rid": "r1", "rev": 2, "parent": "r0"}
    track = {**region, "seq": 9, "cap_ns": 4_000_000, "box": (1, 2, 30, 40), "label": "cup"}
    caption = {**region, "request_id": 7}
    return [
        ev.TrackNew(eseq=1, mask=MASK, **track),
        ev.TrackUpdate(eseq=2, age_frames=12, **track),
        ev.TrackLost(eseq=3, reason="drift", **track),
        ev.TrackRecovered(eseq=4, **track),
        ev.TrackEnd(eseq=5, reason="shutdown", **track),
        ev.CaptionStart(eseq=6, trigger="new", seq=9, cap_ns=4_000_000, **caption),
        ev.CaptionDelta(eseq=7, offset=5, text=" cup", **caption),
        ev.CaptionFinal(
            eseq=8,
            text="a red cup",
            status="ok",
            n_tok=4,
            stop="eos",
            score=0.5,
            score_kind="token_geomean",
            src_seqs=(9,),
            cap_ns_first=4_000_000,
            cap_ns_last=4_000_000,
            box=(1, 2, 30, 40),
            mask=MASK,
            mask_seq=9,
            trigger="new",
            model="ureca-nano",
            bundle_sha="ab" * 32,
            precision="int8",
            ttl_ms=3000,
            age_at_pub_ms=1.5,
            t={"vit": 12},
            batch={"n": 4, "pos": 1},
            drop={"superseded": 2},
            label="cup",
            **caption,
        ),
        ev.CaptionSame(eseq=9, same_rev=1, cap_ns_last=4_000_000, ttl_ms=3000, **caption),
        ev.CaptionAbort(eseq=10, reason="lost_track", **caption),
        ev.CaptionError(eseq=11, code="BAD_OUTPUT", msg="repetition", **caption),
        ev.Heartbeat(
            boot=BOOT,
            eseq=12,
            uptime_ms=1000,
            state="running",
            counters={"frames_in": 30},
            streams={"cam1": {"fps": 29.5, "regions": 3}},
            model="ureca-nano",
        ),
        ev.Metrics(boot=BOOT, eseq=13, values={"captions_per_s": 4.5}),
    ]


@pytest.fixture(name="every_event")
def _every_event() -> list[ev.AnyEvent]:
    return every_event()
