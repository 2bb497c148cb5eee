"""What cameras do to a node: frozen pictures, jumping stamps, restarts, bursts, odd regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.node.conftest import SESSION_ID, Replay, textured
from ureca.datatypes import Frame, Mask, RegionSeed
from ureca.node.config import LimitsConfig, NodeConfig, SourceConfig
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.protocol import rle
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import CaptionFinal, CaptionSame, RegionEvent
from ureca.testing import SyntheticSource

S = 1_000_000_000
FPS = 5
PICTURE = textured(96, 128, seed=5, low=60, high=200)


def still(
    first: int,
    count: int,
    *,
    frozen: bool = False,
    session_id: bytes = SESSION_ID,
    late_ns: int = 0,
) -> Iterator[Frame]:
    """A still scene with one region; a live sensor never gives the same picture twice."""
    for seq in range(first, first + count):
        noise = np.random.default_rng(0 if frozen else seq).normal(0, 3, PICTURE.shape)
        image = np.clip(PICTURE + noise, 0, 255).astype(np.uint8)
        at_ns = S + seq * S // FPS
        seeds = (seed("r", square(20, 20, 60, 60)),)
        yield Frame(
            "cam0", session_id, seq, at_ns - late_ns, image, received_ns=at_ns, regions=seeds
        )


def square(x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros(PICTURE.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def seed(rid: str, mask: Mask) -> RegionSeed:
    return RegionSeed(rid=rid, mask=rle.encode(mask))


def seconds_of(node: Replay, kind: str) -> list[float]:
    found = node.events.of(kind)
    return [(e.captured_ns - S) / S for e in found if isinstance(e, CaptionFinal | CaptionSame)]


def test_a_frozen_picture_with_new_stamps_renews_nothing_and_health_says_so() -> None:
    node = Replay()
    node.play(still(0, 40))
    assert max(seconds_of(node, "caption.same")) >= 4  # refreshed every 5 s, or a quarter sooner
    assert node.runner.reasons() == []
    node.play(still(40, 100, frozen=True))  # 8 s to 28 s
    (reason,) = node.runner.reasons()
    assert "frozen" in reason
    assert node.pipeline.streams()["cam0"]["unchanged_ms"] >= 19_000
    assert max(seconds_of(node, "caption.same")) <= 8 + 5.2  # its validity runs out
    node.play(still(140, 40))
    assert node.runner.reasons() == []
    assert max(seconds_of(node, "caption.same")) > 30
    assert len(node.events.of("caption.final")) == 1


def test_a_simulator_may_stand_still() -> None:
    node = Replay(replace(NodeConfig(), source=SourceConfig(frozen_s=0)))
    node.play(still(0, 100, frozen=True))
    assert max(seconds_of(node, "caption.same")) >= 15
    assert node.runner.reasons() == []


@pytest.mark.parametrize("late_s", [-3600, -3, 3, 3600])
def test_stamps_that_jump_are_taken_as_they_come_and_tracks_live_on(late_s: int) -> None:
    node = Replay()
    for frame in (*still(0, 40), *still(40, 40, late_ns=late_s * S), *still(80, 40)):
        node.clock.advance(ns=max(0, frame.received_ns - node.clock.now_ns()))
        node.counters.frame_in()
        node.step(frame)
    kinds = node.events.kinds()
    assert kinds.count("track.new") == 1
    assert not {"track.lost", "track.end", "caption.error", "caption.abort"} & set(kinds)
    stamps = [f.captured_ns for f in still(0, 120)]
    told = {s - late for s in stamps for late in (0, late_s * S)}
    assert all(
        e.captured_ns in told
        for e in node.events.events
        if isinstance(e, CaptionFinal | CaptionSame)
    )


def test_a_camera_that_restarts_ends_its_regions_and_begins_new_ones() -> None:
    node = Replay()
    node.play((*still(0, 10), *still(10, 10, session_id=b"another-session!")))
    story = [
        (e.rid, event_kind(e))
        for e in node.events.events
        if isinstance(e, RegionEvent)
        and event_kind(e) in ("track.new", "track.end", "caption.final")
    ]
    assert story == [
        ("r", "track.new"),
        ("r", "caption.final"),
        ("r", "track.end"),
        ("r-2", "track.new"),
        ("r-2", "caption.final"),
    ]


def test_a_burst_of_ten_times_the_rate_costs_frames_and_never_freshness() -> None:
    node = Replay()
    mailbox = Mailbox(node.counters)
    for frame in SyntheticSource(frames=300, fps=300):
        node.counters.frame_in()
        mailbox.put(frame)
        if frame.seq % 10 == 9:  # the node keeps up with a tenth
            taken = mailbox.take(0)
            assert taken is not None
            assert taken.seq == frame.seq
            node.clock.advance(ns=max(0, taken.captured_ns - node.clock.now_ns()))
            node.step(taken)
    balance = node.counters.balance()
    assert balance.frames_processed == 30
    assert balance.frames_dropped == {"superseded": 270}
    assert {e.rid for e in node.events.of("caption.final")} == {"red", "green", "blue"}  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [0, 1, 64, 65])
def test_few_and_many_regions(count: int) -> None:
    node = Replay(replace(NodeConfig(), limits=LimitsConfig(max_regions=64)))
    places = [(8 + 12 * (n % 10), 4 + 12 * (n // 10)) for n in range(count)]
    seeds = tuple(seed(f"r{n}", square(x, y, x + 9, y + 9)) for n, (x, y) in enumerate(places))
    node.play(replace(frame, regions=seeds) for frame in still(0, 12))
    captioned = {e.rid for e in node.events.of("caption.final")}  # type: ignore[union-attr]
    assert captioned == {f"r{n}" for n in range(min(count, 64))}
    assert max(node.engine.batches, default=0) <= node.config.scheduler.max_batch
    errors = node.events.of("caption.error")
    assert {e.rid for e in errors} == ({"r64"} if count > 64 else set())  # type: ignore[union-attr]
    assert node.counters.balance().regions_refused == (12 if count > 64 else 0)


def test_empty_full_and_one_pixel_masks() -> None:
    node = Replay()
    masks = {
        "none": np.zeros(PICTURE.shape[:2], np.bool_),
        "all": np.ones(PICTURE.shape[:2], np.bool_),
        "dot": square(0, 0, 1, 1),
        "corner": square(127, 95, 128, 96),
    }
    seeds = tuple(seed(rid, mask) for rid, mask in masks.items())
    node.play(replace(frame, regions=seeds) for frame in still(0, 40))
    assert {e.rid for e in node.events.of("caption.final")} == {"all", "dot", "corner"}  # type: ignore[union-attr]
    assert {e.rid for e in node.events.of("caption.same")} >= {"all"}  # type: ignore[union-attr]
    assert {e.rid for e in node.events.of("caption.error")} == {"none"}  # type: ignore[union-attr]


def test_odd_masks_are_carried_without_a_fault() -> None:
    node = Replay()
    seeds = (
        seed("all", np.ones(PICTURE.shape[:2], np.bool_)),
        seed("dot", square(64, 48, 65, 49)),
        seed("line", square(0, 50, 128, 51)),
    )
    frames = [replace(frame, regions=None) for frame in still(0, 20)]
    node.play([replace(frames[0], regions=seeds), *frames[1:]])
    assert {e.rid for e in node.events.of("caption.final")} == {"all", "dot", "line"}  # type: ignore[union-attr]
    assert node.counters.balance().frames_processed == 20
