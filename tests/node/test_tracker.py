from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.node.conftest import Scene
from ureca.datatypes import Frame, RegionSeed, Track, TrackState
from ureca.node.config import TrackerConfig
from ureca.node.masks.geometry import iou
from ureca.node.tracking.tracker import Tracker
from ureca.protocol import rle
from ureca.testing import SyntheticSource


def tracker(**config: float) -> Tracker:
    return Tracker(TrackerConfig(**config), max_regions=8)  # type: ignore[arg-type]


def follow(scene: Scene, frames: int, under_test: Tracker) -> list[Track]:
    found = []
    for seq in range(frames):
        seeds = [RegionSeed(rid="disc", mask=rle.encode(scene.mask(0)))] if seq == 0 else []
        update = under_test.update(scene.frame(seq), seeds, now_ns=seq * 40_000_000)
        found += [track for track in update.tracks.tracks if track.rid == "disc"]
    return found


def test_carries_a_mask_along_with_its_object() -> None:
    scene = Scene()
    tracks = follow(scene, 30, tracker())
    overlaps = [iou(track.mask, scene.mask(seq)) for seq, track in enumerate(tracks)]
    assert [track.state for track in tracks[:2]] == [TrackState.NEW, TrackState.ALIVE]
    assert all(track.state is TrackState.ALIVE for track in tracks[1:])
    assert min(overlaps) > 0.7, np.round(overlaps, 2)


def test_an_occluded_object_is_lost_and_recovered_under_its_own_id() -> None:
    scene = Scene(wall=(60, 100))
    tracks = follow(scene, 55, tracker(recover_every=1))
    states = [track.state for track in tracks]
    assert TrackState.LOST in states
    lost = states.index(TrackState.LOST)
    assert tracks[lost].reason == "occluded"
    assert tracks[lost].mask is None
    assert scene.mask(lost).sum() < 0.35 * scene.full_mask(0).sum()
    assert TrackState.RECOVERED in states[lost:]
    assert iou(tracks[-1].mask, scene.mask(54)) > 0.5


def test_an_object_that_leaves_is_lost_and_ends_after_its_time() -> None:
    scene = Scene(step_px=4.0)
    under_test = tracker(lost_ttl_s=0.4)
    tracks = follow(scene, 55, under_test)
    reasons = [track.reason for track in tracks if track.state is TrackState.LOST]
    assert reasons[0] == "left_view"
    assert tracks[-1].state is TrackState.ENDED
    assert tracks[-1].reason == "lost_ttl"


def test_ids_are_never_used_again() -> None:
    scene, under_test = Scene(), tracker()
    seed = RegionSeed(rid="disc", mask=rle.encode(scene.mask(0)))
    under_test.update(scene.frame(0), [seed], now_ns=0)
    restarted = replace(scene.frame(0), session_id=b"another-session!")
    tracks = under_test.update(restarted, [seed], now_ns=1).tracks.tracks
    assert {(t.rid, t.state, t.reason) for t in tracks} == {
        ("disc", TrackState.ENDED, "restart"),
        ("disc-2", TrackState.NEW, ""),
    }


def test_given_masks_pass_through_and_absent_ones_are_lost() -> None:
    source, under_test = SyntheticSource(frames=3), tracker()
    first = under_test.update(source.frame(0), [], now_ns=0).tracks.tracks
    assert {t.rid for t in first} == {"red", "green", "blue"}
    for track in first:
        assert np.array_equal(track.mask, source.masks(0)[track.rid])
    second = source.frame(1)
    second = replace(second, regions=tuple(s for s in second.regions or () if s.rid != "red"))
    states = {
        t.rid: (t.state, t.reason) for t in under_test.update(second, [], now_ns=1).tracks.tracks
    }
    assert states["red"] == (TrackState.LOST, "absent")
    third = {t.rid: t.state for t in under_test.update(source.frame(2), [], now_ns=2).tracks.tracks}
    assert third["red"] is TrackState.RECOVERED


def test_masks_given_once_are_carried_on() -> None:
    source, under_test = SyntheticSource(frames=8, with_regions="first"), tracker()
    for frame in source:
        tracks = under_test.update(frame, [], now_ns=frame.captured_ns).tracks.tracks
    overlaps = [iou(t.mask, source.masks(7)[t.rid]) for t in tracks if t.mask is not None]
    assert len(overlaps) == 3
    assert min(overlaps) > 0.6


def test_nameless_masks_keep_their_identity_by_overlap() -> None:
    source, under_test = SyntheticSource(frames=2), tracker()
    rids = []
    for frame in source:
        seeds = tuple(replace(seed, rid=None) for seed in frame.regions or ())
        update = under_test.update(replace(frame, regions=seeds), [], now_ns=0)
        rids.append([t.rid for t in update.tracks.tracks])
    assert rids == [["r1", "r2", "r3"]] * 2


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (RegionSeed(mask=rle.encode(np.zeros((120, 160), np.bool_))), "empty"),
        (RegionSeed(mask=rle.encode(np.ones((4, 4), np.bool_))), "size"),
        (RegionSeed(box_xyxy_px=(500, 500, 600, 600)), "outside"),
        (RegionSeed(point_xy_px=(-3, 5)), "outside"),
        (RegionSeed(rid="Not An Id", box_xyxy_px=(5, 5, 60, 60)), "must match"),
    ],
)
def test_a_bad_seed_is_refused_by_name_and_stops_no_other(seed: RegionSeed, words: str) -> None:
    good = RegionSeed(rid="good", box_xyxy_px=(20, 40, 60, 80))
    update = tracker().update(Scene().frame(0), [seed, good], now_ns=0)
    assert [t.rid for t in update.tracks.tracks] == ["good"]
    assert len(update.refused) == 1
    assert words in update.refused[0].reason


def test_boxes_and_points_become_masks_of_their_object() -> None:
    source = SyntheticSource(frames=1, things=2, seed=4)
    frame = replace(source.frame(0), regions=None)
    box = source.boxes_xyxy_px(0)["green"]
    wide = (box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4)
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    seeds = [RegionSeed(rid="b", box_xyxy_px=wide), RegionSeed(rid="p", point_xy_px=centre)]
    tracks = tracker().update(frame, seeds, now_ns=0).tracks.tracks
    assert [t.rid for t in tracks] == ["b", "p"]
    for track in tracks:
        assert iou(track.mask, source.masks(0)["green"]) > 0.7, track.rid


def test_the_number_of_regions_is_bounded() -> None:
    seeds = [RegionSeed(box_xyxy_px=(x, 10, x + 20, 30)) for x in range(0, 120, 10)]
    update = tracker().update(Scene().frame(0), seeds, now_ns=0)
    assert len(update.tracks.tracks) == 8
    assert len(update.refused) == 4


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ((240, 320), slice(None)),  # twice as large
        ((60, 80), slice(None)),  # half
        ((1080, 1440), slice(None)),
        ((90, 160), slice(15, 105)),  # 4:3 to 16:9: what is above and below is cut
        ((360, 640), slice(15, 105)),
    ],
)
def test_a_picture_of_another_size_keeps_its_regions(size: tuple[int, int], rows: slice) -> None:
    scene, under_test = Scene(), tracker()
    follow(scene, 10, under_test)
    tracks = []
    for seq in range(10, 30):
        frame = scene.frame(seq)
        frame = replace(frame, image=resized(frame.image[rows], size))
        now_ns = seq * 40_000_000
        tracks += under_test.update(frame, [], now_ns=now_ns).tracks.tracks
    assert {track.rid for track in tracks} == {"disc"}
    truth = resized(scene.mask(29)[rows].astype(np.uint8), size) > 0
    assert tracks[-1].mask.shape == size
    assert iou(tracks[-1].mask, truth) > 0.6


def test_a_lost_region_is_found_again_in_pictures_of_another_size() -> None:
    scene, under_test = Scene(wall=(60, 100)), tracker(recover_every=1)
    hidden = 26
    assert follow(scene, hidden, under_test)[-1].state is TrackState.LOST
    for seq in range(hidden, 55):
        frame = scene.frame(seq)
        frame = replace(frame, image=resized(frame.image, (240, 320)))
        (track,) = under_test.update(frame, [], now_ns=seq * 40_000_000).tracks.tracks
    assert track.state is TrackState.ALIVE
    assert iou(track.mask, resized(scene.mask(54).astype(np.uint8), (240, 320)) > 0) > 0.5


def test_given_masks_without_ids_keep_theirs_in_pictures_of_another_size() -> None:
    source, under_test = SyntheticSource(frames=3), tracker()
    states = []
    for seq, scale in enumerate((1, 2, 2)):
        frame, masks = source.frame(seq), source.masks(seq).values()
        size = frame.height * scale, frame.width * scale
        seeds = tuple(
            RegionSeed(mask=rle.encode(resized(mask.astype(np.uint8), size) > 0)) for mask in masks
        )
        frame = replace(frame, image=resized(frame.image, size), regions=seeds)
        found = under_test.update(frame, [], now_ns=seq).tracks.tracks
        states.append({track.rid: track.state for track in found})
    assert set(states[0]) == set(states[1]) == set(states[2])
    assert set(states[2].values()) == {TrackState.ALIVE}


def test_an_upright_picture_after_a_lying_one_restarts_the_stream() -> None:
    under_test = tracker()
    box = RegionSeed(rid="a", box_xyxy_px=(20, 40, 60, 80))
    under_test.update(Scene().frame(0), [box], now_ns=0)
    upright = Frame("cam0", bytes(range(16)), 1, 2, np.zeros((160, 120, 3), np.uint8))
    tracks = under_test.update(upright, [], now_ns=1).tracks.tracks
    assert [(t.rid, t.reason) for t in tracks] == [("a", "restart")]
