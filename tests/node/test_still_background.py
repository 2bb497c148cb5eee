"""Regions before a camera that stands still, on a background of their own colours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest

from ureca.datatypes import Frame, Mask, RegionSeed, Track, TrackState
from ureca.node.config import TrackerConfig
from ureca.node.masks.geometry import iou
from ureca.node.tracking.tracker import Tracker
from ureca.protocol.rle import encode

HEIGHT, WIDTH, SIDE = 120, 200, 36


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs of the same few colours everywhere, f32 [h, w, 3]."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 1)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)[..., None]
    return 120 + 90 * smooth / smooth.std() * np.array([0.5, 0.4, 0.2], np.float32)


def frames(
    lefts: Sequence[float], *, gains: Sequence[float] = (), noise: float = 2.0
) -> tuple[list[Frame], list[Mask]]:
    """A square whose left side is at `lefts` on each frame, and its visible masks."""
    random, scene = np.random.default_rng(5), texture(HEIGHT, WIDTH, 1)
    thing, found, truths = texture(SIDE, SIDE, 2), [], []
    for number, left in enumerate(lefts):
        picture = scene.copy()
        truth = np.zeros((HEIGHT, WIDTH), np.bool_)
        x0, x1 = max(0, round(left)), min(WIDTH, round(left) + SIDE)
        if x1 > x0:
            picture[40 : 40 + SIDE, x0:x1] = thing[:, x0 - round(left) : x1 - round(left)]
            truth[40 : 40 + SIDE, x0:x1] = True
        gain = gains[number] if gains else 1.0
        picture = picture * gain + random.normal(0, noise, picture.shape)
        image = picture.clip(0, 255).astype(np.uint8)
        found.append(Frame("cam", bytes(16), number, 1 + number * 40_000_000, image))
        truths.append(truth)
    return found, truths


def follow(pictures: Sequence[Frame], first: Mask) -> list[Track]:
    under_test, tracks = Tracker(TrackerConfig(), max_regions=1, has_segmenter=False), []
    for frame in pictures:
        seeds = [RegionSeed(rid="thing", mask=encode(first))] if frame.seq == 0 else []
        tracks += under_test.update(frame, seeds, now_ns=frame.captured_ns).tracks.tracks
    return tracks


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_what_leaves_a_background_of_its_own_colours_is_lost_at_once(noise: float) -> None:
    lefts = [80 + 4.0 * n for n in range(60)]
    pictures, truths = frames(lefts, noise=noise)
    tracks = follow(pictures, truths[0])
    gone = next(n for n, left in enumerate(lefts) if left >= WIDTH)
    assert all(track.mask is not None for track in tracks[: gone - 12])
    lost = next(n for n, track in enumerate(tracks) if track.state is TrackState.LOST)
    assert gone - 12 < lost <= gone + 5
    assert all(track.mask is None for track in tracks[lost:])


def test_what_leaves_while_the_exposure_changes_is_lost_too() -> None:
    lefts = [80 + 4.0 * n for n in range(60)]
    pictures, truths = frames(lefts, gains=[1 - 0.004 * n for n in range(60)])
    tracks = follow(pictures, truths[0])
    assert tracks[-1].mask is None


def test_the_mask_stays_on_what_moves_and_not_on_what_it_uncovers() -> None:
    pictures, truths = frames([20 + 3.0 * n for n in range(40)])
    tracks = follow(pictures, truths[0])
    overlaps = [iou(track.mask, truth) for track, truth in zip(tracks, truths, strict=True)]
    assert min(overlaps) > 0.5, np.round(overlaps, 2)


def test_what_stops_and_walks_on_is_never_lost() -> None:
    lefts = [20 + 2.5 * min(n, 12) + 2.5 * max(0, n - 40) for n in range(60)]
    assert any(later == left for left, later in pairwise(lefts))
    pictures, truths = frames(lefts)
    tracks = follow(pictures, truths[0])
    assert all(track.mask is not None for track in tracks)
    assert iou(tracks[39].mask, truths[39]) > 0.4
    assert iou(tracks[-1].mask, truths[-1]) > 0.5


def test_what_moves_in_part_keeps_the_part_that_stands_still() -> None:
    pictures, truths = frames([60.0] * 40)
    swinging = []
    for frame in pictures:  # an arm's length of the square goes up and down from frame 8
        image = frame.image.copy()
        top = 40 + round(8 + 8 * np.sin(max(0, frame.seq - 8) / 2))
        image[top : top + 5, 60:96] = image[44:49, 60:96] // 2
        swinging.append(Frame("cam", bytes(16), frame.seq, frame.captured_ns, image))
    tracks = follow(swinging, truths[0])
    assert all(track.mask is not None for track in tracks)
    assert iou(tracks[-1].mask, truths[-1]) > 0.4


def test_what_comes_out_from_behind_a_pillar_is_back_under_its_id() -> None:
    lefts = [10 + 3.0 * n for n in range(55)]
    pictures, truths = frames(lefts)
    hidden = []
    for frame, truth in zip(pictures, truths, strict=True):
        image = frame.image.copy()
        image[:, 80:125] = (90, 100, 90)
        truth[:, 80:125] = False
        hidden.append(Frame("cam", bytes(16), frame.seq, frame.captured_ns, image))
    tracks = follow(hidden, truths[0])
    gone = next(n for n, truth in enumerate(truths) if not truth.any())
    assert tracks[gone + 1].mask is None
    back = next(n for n in range(gone, 55) if truths[n].sum() > SIDE * SIDE / 2)
    assert any(track.mask is not None for track in tracks[gone : back + 8])
    assert iou(tracks[-1].mask, truths[-1]) > 0.5


def test_two_alike_things_that_cross_keep_their_ids() -> None:
    ways = {"right": [10 + 3.0 * n for n in range(50)], "left": [154 - 3.0 * n for n in range(50)]}
    pictures, truths = frames(ways["right"])
    back, other = frames(ways["left"])
    both = []
    for one, two, truth in zip(pictures, back, truths, strict=True):
        image = np.where(truth[..., None], one.image, two.image)
        both.append(Frame("cam", bytes(16), one.seq, one.captured_ns, image))
    under_test = Tracker(TrackerConfig(), max_regions=2, has_segmenter=False)
    seeds = [
        RegionSeed(rid="right", mask=encode(truths[0])),
        RegionSeed(rid="left", mask=encode(other[0])),
    ]
    for frame in both:
        now = {
            track.rid: track.mask
            for track in under_test.update(
                frame, seeds if frame.seq == 0 else [], now_ns=frame.captured_ns
            ).tracks.tracks
        }
    assert now["right"] is not None
    assert now["left"] is not None
    assert iou(now["right"], truths[-1]) > 0.5
    assert iou(now["left"], other[-1]) > 0.5
