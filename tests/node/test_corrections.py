"""What a segmenter's masks may do to regions: through the tracker, with cuts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.node.conftest import Scene
from ureca.datatypes import RegionSeed, Track, TrackState
from ureca.node.config import TrackerConfig
from ureca.node.masks.geometry import iou
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult, RegionMask
from ureca.node.tracking.tracker import Tracker
from ureca.protocol import rle


class Film:
    """A scene's disc, followed from a mask that is too small by some pixels."""

    def __init__(self, scene: Scene | None = None, *, shift_px: int = 0, **config: float) -> None:
        self.scene = scene or Scene()
        self.tracker = Tracker(TrackerConfig(**config), max_regions=4)  # type: ignore[arg-type]
        first = np.roll(self.scene.mask(0), shift_px, axis=1)
        self.seeds = [RegionSeed(rid="disc", mask=rle.encode(first))]
        self.seq = -1

    def next(self, count: int = 1) -> Track:
        for _ in range(count):
            self.seq += 1
            self.frame = self.scene.frame(self.seq)
            seeds = self.seeds if self.seq == 0 else []
            update = self.tracker.update(self.frame, seeds, now_ns=self.seq * 40_000_000)
            self.tracks = update.tracks.tracks
        return next(t for t in self.tracks if t.rid == "disc")

    def overlap(self, track: Track) -> float:
        assert track.mask is not None
        return iou(track.mask, self.scene.mask(self.seq))


def keyframe_result(
    mask: np.ndarray, seq: int, *, presence: float = 0.9, **more: float
) -> KeyframeResult:
    region_mask = RegionMask(rle.encode(mask), presence, rid="disc", **more)  # type: ignore[arg-type]
    return KeyframeResult("cam0", seq, (region_mask,))


@pytest.mark.parametrize("late", [0, 1, 6])
def test_a_late_mask_is_led_on_to_the_newest_picture(late: int) -> None:
    film = Film(shift_px=-9)
    track = film.next(3)
    before = film.overlap(track)
    assert film.tracker.keyframe(film.frame) is not None
    right = film.scene.mask(film.seq)
    key = film.seq
    if late:
        film.next(late)
    film.tracker.corrections.offer(keyframe_result(right, key))
    track = film.next()
    assert before < 0.65
    assert film.overlap(track) > 0.8
    assert film.tracker.corrections.counts["taken"] == 1


def test_the_wish_tells_what_was_believed_and_what_was_drawn() -> None:
    film = Film()
    film.next()
    keyframe_request = film.tracker.keyframe(film.frame)
    assert keyframe_request is not None
    assert keyframe_request.regions["disc"].is_drawn
    assert keyframe_request.taken == frozenset()
    film.tracker.corrections.offer(keyframe_result(film.scene.mask(0), 0))
    film.next()
    keyframe_request = film.tracker.keyframe(film.frame)
    assert keyframe_request is not None
    assert not keyframe_request.regions["disc"].is_drawn
    assert keyframe_request.taken == {"disc"}


FULL = np.ones((120, 160), np.bool_)


def _far(film: Film) -> np.ndarray:
    return np.roll(film.scene.mask(film.seq), 70, axis=1)


@pytest.mark.parametrize(
    ("gate", "mask_of", "presence"),
    [
        ("full_frame", lambda _: FULL, 0.99),
        ("presence", lambda film: film.scene.mask(film.seq), 0.2),
        ("disagreement", _far, 0.99),
    ],
)
def test_each_gate_refuses_and_the_mask_stays_as_it_was(gate, mask_of, presence) -> None:
    film, untouched = Film(), Film()
    film.next(4), untouched.next(4)
    film.tracker.keyframe(film.frame)
    film.tracker.corrections.offer(keyframe_result(mask_of(film), film.seq, presence=presence))
    track, same = film.next(), untouched.next()
    assert film.tracker.corrections.counts == {gate: 1}
    assert film.tracker.corrections.counts["taken"] == 0
    assert np.array_equal(track.mask, same.mask)


def test_what_the_memory_vouches_for_may_shrink_but_not_swell() -> None:
    half = Scene().mask(3) & (np.arange(160) < 32)
    big = np.zeros((120, 160), np.bool_)
    big[10:110, 20:150] = True
    for mask, agreement, outcome in (
        (half, 0.9, "taken"),
        (half, 0.1, "area_jump"),
        (big, 0.9, "area_jump"),
    ):
        film = Film(max_area_jump=1.3, max_area_growth=2.0, min_agreement=0.05)
        film.next(4)
        film.tracker.keyframe(film.frame)
        film.tracker.corrections.offer(keyframe_result(mask, film.seq, agreement=agreement))
        film.next()
        assert film.tracker.corrections.counts == {outcome: 1}


def test_what_the_segmenter_does_not_see_twice_is_lost() -> None:
    film = Film(recover_every=10_000)
    film.next(2)
    states = []
    for _ in range(2):
        film.tracker.keyframe(film.frame)
        film.tracker.corrections.offer(
            keyframe_result(film.scene.mask(film.seq), film.seq, presence=0.1)
        )
        track = film.next()
        states.append((track.state, track.reason))
    assert states == [(TrackState.ALIVE, ""), (TrackState.LOST, "drift")]
    assert track.mask is None


def test_an_answer_about_another_keyframe_or_a_moved_region_is_forgotten() -> None:
    film = Film()
    film.next(2)
    film.tracker.keyframe(film.frame)
    film.tracker.corrections.offer(keyframe_result(film.scene.mask(0), film.seq - 1))
    film.next()
    assert film.tracker.corrections.counts["taken"] == 0
    film.tracker.move("disc", film.frame, RegionSeed(mask=rle.encode(film.scene.mask(film.seq))))
    film.tracker.corrections.offer(keyframe_result(film.scene.mask(1), 1))
    film.next()
    assert film.tracker.corrections.counts == {"outdated": 1}


def test_a_lost_region_is_recovered_by_what_the_segmenter_finds() -> None:
    scene = Scene(wall=(60, 100))
    film = Film(scene, recover_every=10_000)
    while film.next().state is not TrackState.LOST:
        assert film.seq < 50
    while scene.mask(film.seq).sum() < 0.8 * scene.full_mask(0).sum():
        track = film.next()
    assert track.state is TrackState.LOST
    keyframe_request = film.tracker.keyframe(film.frame)
    assert keyframe_request is not None
    assert keyframe_request.regions["disc"].soft is None
    film.tracker.corrections.offer(keyframe_result(scene.mask(film.seq), film.seq, agreement=0.9))
    track = film.next()
    assert track.state is TrackState.RECOVERED
    assert film.overlap(track) > 0.7


def test_a_lost_region_is_not_recovered_on_a_thing_of_other_colours() -> None:
    scene = Scene(wall=(60, 100))
    film = Film(scene, recover_every=10_000)
    while film.next().state is not TrackState.LOST:
        assert film.seq < 50
    film.tracker.keyframe(film.frame)
    wall = np.zeros((120, 160), np.bool_)
    wall[45:75, 65:95] = True
    film.tracker.corrections.offer(keyframe_result(wall, film.seq, agreement=0.9))
    assert film.next().state is TrackState.LOST
    assert film.tracker.corrections.counts == {"appearance": 1}


def test_things_nobody_pointed_at_become_regions_within_the_budget_once() -> None:
    film = Film()
    film.next()
    keyframe_request = film.tracker.keyframe(film.frame, things=16)
    assert keyframe_request is not None
    assert keyframe_request.free_slots == 3
    spots = []
    for left in (10, 60, 100, 120):
        spot = np.zeros((120, 160), np.bool_)
        spot[90:110, left : left + 16] = True
        spots.append(RegionMask(rle.encode(spot), 0.9))
    known = RegionMask(rle.encode(film.scene.mask(0)), 0.9)
    film.tracker.corrections.offer(KeyframeResult("cam0", 0, (known, *spots)))
    film.next()
    assert [t.rid for t in film.tracks] == ["disc", "r1", "r2", "r3"]
