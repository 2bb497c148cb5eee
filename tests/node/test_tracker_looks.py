"""What the tracker knows a region by: it takes no twin for it, and the first look stays known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tests.node.conftest import SESSION_ID, textured
from ureca.datatypes import Frame, Image, Mask, RegionSeed, Track, TrackState
from ureca.node.config import TrackerConfig
from ureca.node.masks.geometry import iou
from ureca.node.tracking.tracker import Tracker
from ureca.protocol import rle

HEIGHT, WIDTH, RADIUS = 120, 160, 14
GROUND = textured(HEIGHT, WIDTH, seed=1, low=60, high=130)
WALL = textured(HEIGHT, WIDTH, seed=3, low=0, high=60)
TEXTURE = textured(2 * RADIUS, 2 * RADIUS, seed=2, low=0, high=120)
LEFT_PX, RIGHT_PX = 40, 120


def coloured(channel: int) -> Image:
    """The same texture, mostly of one colour."""
    disc = TEXTURE.copy()
    disc[..., channel] = np.maximum(disc[..., channel], 170)
    return disc


RED, BLUE = coloured(0), coloured(2)


def place(x_px: int) -> Mask:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((ys - 60) ** 2 + (xs - x_px) ** 2 < RADIUS**2, np.bool_)


def with_disc(image: Image, disc: Image, x_px: int) -> Image:
    ys, xs = np.nonzero(place(x_px))
    image[ys, xs] = disc[ys - 60 + RADIUS, xs - x_px + RADIUS]
    return image


def followed(
    images: Callable[[int], Image], frames: int, *seeds: RegionSeed
) -> Iterator[dict[str, Track]]:
    """The tracks of every frame by id."""
    tracker = Tracker(TrackerConfig(recover_every=1), max_regions=4)
    for seq in range(frames):
        at_ns = 1_000_000_000 + seq * 40_000_000
        frame = Frame("cam0", SESSION_ID, seq, at_ns, images(seq), received_ns=at_ns)
        update = tracker.update(frame, seeds if seq == 0 else (), now_ns=at_ns)
        yield {track.rid: track for track in update.tracks.tracks}


def test_a_hidden_region_is_not_found_again_on_its_twin() -> None:
    """Two equal cups: a screen hides the left one, and the right one is all that can be seen."""
    hidden_until = 40

    def image(seq: int) -> Image:
        both = with_disc(with_disc(GROUND.copy(), RED, LEFT_PX), RED, RIGHT_PX)
        wall_px = min(4 * seq, 70) if seq < hidden_until else 0
        both[:, :wall_px] = WALL[:, :wall_px]
        return both

    seeds = [
        RegionSeed(rid="left", mask=rle.encode(place(LEFT_PX))),
        RegionSeed(rid="right", mask=rle.encode(place(RIGHT_PX))),
    ]
    tracks = list(followed(image, hidden_until + 10, *seeds))
    assert {now["left"].state for now in tracks[20:hidden_until]} == {TrackState.LOST}
    assert {now["right"].state for now in tracks[1:]} == {TrackState.ALIVE}
    assert tracks[-1]["left"].state is TrackState.ALIVE, "it is searched for, and found at home"
    for rid, x_px in (("left", LEFT_PX), ("right", RIGHT_PX)):
        assert iou(tracks[-1][rid].mask, place(x_px)) > 0.7


def test_a_region_that_slowly_turned_is_still_known_by_its_first_look() -> None:
    """A sign turns within 5 s from its red side to its blue one, and then flips back at once."""
    turned, flips = 125, 170

    def image(seq: int) -> Image:
        share = min(1.0, seq / turned) if seq < flips else 0.0
        disc = ((1 - share) * RED + share * BLUE).astype(np.uint8)
        return with_disc(GROUND.copy(), disc, LEFT_PX)

    seed = RegionSeed(rid="sign", mask=rle.encode(place(LEFT_PX)))
    tracks = list(followed(image, flips + 20, seed))
    assert {now["sign"].state for now in tracks[1:]} == {TrackState.ALIVE}
    assert iou(tracks[-1]["sign"].mask, place(LEFT_PX)) > 0.7
