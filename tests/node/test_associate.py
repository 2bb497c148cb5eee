from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ureca.datatypes import Frame, RegionSeed, TrackState
from ureca.node.config import TrackerConfig
from ureca.node.tracking.association import match
from ureca.node.tracking.linear_assignment import assign
from ureca.node.tracking.tracker import Tracker
from ureca.protocol import rle

_SIZE = 120, 160


def test_assignments_cost_what_scipys_cost() -> None:
    optimize = pytest.importorskip(
        "scipy.optimize", reason="not proven: equality with scipy's linear_sum_assignment"
    )
    draw = np.random.default_rng(0)
    for number in range(300):
        shape = draw.integers(1, 16, 2)
        ties = draw.integers(0, 4, shape).astype(np.float64)
        cost = draw.normal(size=shape) if number % 2 else ties
        pairs = assign(cost)
        rows, columns = optimize.linear_sum_assignment(cost)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == min(shape)
        assert sum(cost[pair] for pair in pairs) == pytest.approx(cost[rows, columns].sum())


def test_pairs_are_decided_together_and_bad_ones_left_out() -> None:
    table = np.array([[0.9, 0.8], [0.85, 0.1], [0.3, 0.3]])
    assert match(table, least=0.45) == [(0, 1), (1, 0)]
    assert match(np.zeros((0, 3)), least=0.1) == []


class Discs:
    """Discs of given colours and centres on grey, as nameless masks."""

    def __init__(self) -> None:
        self.tracker = Tracker(TrackerConfig(), max_regions=8)
        self.seq = 0

    def step(self, *discs: tuple[tuple[int, int, int], tuple[int, int]]) -> dict[str, str]:
        """Show the discs; the id at each disc's place, by its colour and place."""
        image = np.full((*_SIZE, 3), 100, np.uint8)
        masks = [_disc(centre) for _, centre in discs]
        for (colour, _), mask in zip(discs, masks, strict=True):
            image[mask] = colour
        seeds = tuple(RegionSeed(mask=rle.encode(mask)) for mask in masks)
        at_ns = 1 + self.seq * 40_000_000
        frame = Frame("cam0", bytes(16), self.seq, at_ns, image, regions=seeds)
        self.seq += 1
        self.tracks = self.tracker.update(frame, [], now_ns=at_ns).tracks.tracks
        return {
            f"{n}": t.rid
            for n, mask in enumerate(masks)
            for t in self.tracks
            if t.mask is not None and np.array_equal(t.mask, mask)
        }


def _disc(centre: tuple[int, int]) -> np.ndarray:
    ys, xs = np.mgrid[: _SIZE[0], : _SIZE[1]]
    return np.asarray((ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 < 12**2, np.bool_)


RED, BLUE, GREEN = (200, 30, 30), (30, 60, 200), (30, 160, 40)


def test_things_that_cross_keep_their_ids_by_colour_and_motion() -> None:
    discs = Discs()
    names = [discs.step((RED, (60, 40 + 8 * k)), (BLUE, (62, 120 - 8 * k))) for k in range(11)]
    assert all(name == {"0": "r1", "1": "r2"} for name in names), names


def test_twins_that_cross_keep_their_ids_by_motion() -> None:
    discs = Discs()
    names = [discs.step((RED, (60, 30 + 9 * k)), (RED, (60, 129 - 9 * k))) for k in range(12)]
    assert all(name == {"0": "r1", "1": "r2"} for name in names), names


def test_a_thing_is_known_again_near_where_it_was_lost_and_another_is_not() -> None:
    discs = Discs()
    discs.step((RED, (60, 40)), (BLUE, (60, 120)))
    discs.step((BLUE, (60, 120)))
    assert {t.rid: (t.state, t.reason) for t in discs.tracks}["r1"] == (TrackState.LOST, "absent")
    assert discs.step((GREEN, (60, 44)), (BLUE, (60, 120))) == {"0": "r3", "1": "r2"}
    assert discs.step((RED, (60, 70)), (BLUE, (60, 120)))["0"] == "r1"
    assert {t.rid: t.state for t in discs.tracks}["r1"] is TrackState.RECOVERED


def test_named_and_nameless_regions_live_side_by_side() -> None:
    discs = Discs()
    discs.step((RED, (60, 40)))
    image = np.full((*_SIZE, 3), 100, np.uint8)
    seeds = (
        RegionSeed(rid="mine", mask=rle.encode(_disc((60, 40)))),
        RegionSeed(mask=rle.encode(_disc((60, 42)))),
    )
    frame = Frame("cam0", bytes(16), 9, 900_000_000, image, regions=seeds)
    tracks = discs.tracker.update(frame, [], now_ns=1).tracks.tracks
    assert {t.rid: t.state for t in tracks} == {"r1": TrackState.ALIVE, "mine": TrackState.NEW}
    again = replace(frame, seq=10, regions=(seeds[0], seeds[0]))
    refused = discs.tracker.update(again, [], now_ns=2).refused
    assert [refusal.rid for refusal in refused] == ["mine"]
