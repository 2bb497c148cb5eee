"""Captions that still hold are renewed without decoding; what changed is captioned anew in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.node.conftest import SESSION_ID, Replay, textured
from ureca.datatypes import Frame, Mask, RegionSeed
from ureca.node.config import NodeConfig, SchedulerConfig
from ureca.node.masks.geometry import box_of
from ureca.node.scheduling.change_detection import measure_change, take_snapshot
from ureca.protocol import rle
from ureca.protocol.events import CaptionFinal, CaptionSame

Box = tuple[int, int, int, int]
Picture = np.ndarray
S = 1_000_000_000
HEIGHT, WIDTH, FPS = 120, 160, 2
CHANGE_S = 21.3
BOXES: dict[str, Box] = {
    "mug": (10, 10, 40, 50),
    "bowl": (60, 60, 110, 100),
    "cube": (120, 15, 136, 31),
    "drawer": (10, 80, 45, 100),
}
COLOURS = {
    "mug": (200, 30, 30),
    "bowl": (30, 60, 200),
    "cube": (220, 200, 30),
    "drawer": (130, 40, 160),
}
GROUND = textured(HEIGHT, WIDTH, seed=1, low=80, high=120)


def swapped(boxes: dict[str, Box], colours: dict[str, tuple[int, int, int]]) -> None:
    """Another thing stands where the mug stood."""
    colours["mug"] = (30, 160, 40)


def moved_into_bowl(boxes: dict[str, Box], colours: dict[str, tuple[int, int, int]]) -> None:
    boxes["cube"] = (78, 72, 94, 88)


def opened(boxes: dict[str, Box], colours: dict[str, tuple[int, int, int]]) -> None:
    """The front comes nearer and lower; inside it is dark."""
    boxes["drawer"] = (8, 86, 48, 112)


CHANGES = {"mug": swapped, "cube": moved_into_bowl, "bowl": moved_into_bowl, "drawer": opened}


def scene(seconds: float, what: Callable[..., None] | None = None) -> Iterator[Frame]:
    """A still table with sensor noise and flicker; `what` happens at `CHANGE_S`."""
    draw = np.random.default_rng(0)
    for seq in range(round(seconds * FPS)):
        boxes, colours = dict(BOXES), dict(COLOURS)
        if what is not None and seq / FPS >= CHANGE_S:
            what(boxes, colours)
        image = GROUND.astype(np.float32)
        for rid, (x0, y0, x1, y1) in boxes.items():
            image[y0:y1, x0:x1] = colours[rid]
        if what is opened and seq / FPS >= CHANGE_S:
            image[80:86, 10:45] = 20
        image = image * (1 + 0.03 * np.sin(seq)) + draw.normal(0, 4, image.shape)
        at_ns = S + seq * S // FPS
        seeds = tuple(RegionSeed(rid=r, mask=rle.encode(_mask(r, boxes))) for r in boxes)
        picture = image.clip(0, 255).astype(np.uint8)
        yield Frame("cam0", SESSION_ID, seq, at_ns, picture, received_ns=at_ns, regions=seeds)


def _mask(rid: str, boxes: dict[str, Box]) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    x0, y0, x1, y1 = boxes[rid]
    mask[y0:y1, x0:x1] = True
    return mask


def played(frames: Iterator[Frame], **plan: object) -> Replay:
    node = Replay(replace(NodeConfig(), scheduler=SchedulerConfig(**plan)))  # type: ignore[arg-type]
    node.play(frames)
    return node


def finals(node: Replay) -> list[CaptionFinal]:
    return [e for e in node.events.of("caption.final") if isinstance(e, CaptionFinal)]


def test_a_static_scene_is_renewed_with_nine_tenths_fewer_tokens() -> None:
    always, node = played(scene(120), recheck=False), played(scene(120))
    tokens = [sum(final.n_tok for final in finals(run)) for run in (always, node)]
    assert tokens[1] <= 0.1 * tokens[0], tokens
    last_ns = dict.fromkeys(BOXES, S)
    for event in node.events.of("caption.final", "caption.same"):
        assert isinstance(event, CaptionFinal | CaptionSame)
        assert event.captured_ns - last_ns[event.rid] <= 6 * S  # never out of date: ttl is 10 s
        last_ns[event.rid] = event.captured_ns
    assert all(last > 114 * S for last in last_ns.values())


def test_a_renewal_names_its_caption_and_counts_as_a_request() -> None:
    node = played(scene(12))
    revs = {final.rid: final.rev for final in finals(node)}
    sames = [e for e in node.events.of("caption.same") if isinstance(e, CaptionSame)]
    assert sames
    assert all(e.same_rev == revs[e.rid] and e.rev > e.same_rev for e in sames)
    assert {e.ttl_ms for e in sames} == {node.config.caption.ttl_ms}
    assert all(kinds == ["caption.same"] for i, kinds in node.events.terminals().items() if i > 4)
    assert node.counters.balance().requests_ended["same"] == len(sames)
    node.close()
    assert node.counters.balance().closed


@pytest.mark.parametrize("rid", CHANGES)
def test_every_scripted_change_is_captioned_within_one_interval(rid: str) -> None:
    node = played(scene(40, CHANGES[rid]))
    begin_ns = S + round(CHANGE_S * S)
    after = [f for f in finals(node) if f.captured_ns >= begin_ns]
    assert rid in {f.rid for f in after}
    first = next(f for f in after if f.rid == rid)
    assert first.trigger == "change"
    assert first.captured_ns - begin_ns <= (2 * SchedulerConfig().min_interval_s + 1 / FPS) * S
    expected = set(BOXES) - ({"cube", "bowl"} if CHANGES[rid] is moved_into_bowl else {rid})
    assert not {f.rid for f in after} & expected  # what did not change is not said again


def test_what_keeps_changing_is_captioned_once_per_interval_and_once_more_at_rest() -> None:
    """From 20 s to 32 s the drawer turns from purple to green."""
    mask, fps = _mask("drawer", BOXES), 2

    def turning() -> Iterator[Frame]:
        for frame in scene(40):
            share = min(1.0, max(0.0, (frame.seq / fps - 20) / 12))
            image = frame.image.copy()
            image[mask] = (
                np.asarray((130, 40, 160)) * (1 - share) + np.asarray((30, 160, 40)) * share
            )
            seeds = (RegionSeed(rid="drawer", mask=rle.encode(mask)),)
            yield replace(frame, image=image, regions=seeds)

    at_s = [(f.captured_ns - S) / S for f in finals(played(turning()))]
    first, *while_turning, at_rest = at_s
    assert first == 0
    assert 32 <= at_rest <= 34.5
    assert 2 <= len(while_turning) <= 3, at_s
    assert all(later - earlier >= 4.5 for earlier, later in pairwise(while_turning))


def test_a_caption_is_written_anew_in_the_end_however_often_it_was_renewed() -> None:
    node = played(scene(40), rewrite_s=20)
    again = [f for f in finals(node) if f.captured_ns > 2 * S]
    assert {f.trigger for f in again} == {"refresh"}
    assert {f.rid for f in again} == set(BOXES)
    assert min(f.captured_ns for f in again) >= 21 * S


def test_without_new_frames_nothing_is_renewed() -> None:
    node = played(scene(3))
    for _ in range(30):
        node.clock.advance(ms=1000)
        node.step()
    assert not node.events.of("caption.same")


def test_exposure_is_no_change_and_a_part_is_enough() -> None:
    frame = next(scene(1))
    mask = _mask("bowl", BOXES)
    look = take_snapshot(frame.image, mask, box_of(mask))
    brighter = np.clip(frame.image.astype(np.int16) + 10, 0, 255).astype(np.uint8)
    assert measure_change(look, brighter, mask, box_of(mask))[0] < 5
    part = frame.image.copy()
    part[70:84, 80:94] = COLOURS["cube"]
    assert measure_change(look, part, mask, box_of(mask))[0] > 20
    assert measure_change(look, frame.image, mask, box_of(mask)) == (0.0, 0.0)


def test_a_region_that_slid_a_little_looks_the_same_and_another_outline_does_not() -> None:
    ground = textured(HEIGHT, WIDTH, seed=3, low=95, high=105)
    mask, slid = _mask("bowl", BOXES), _mask("bowl", {"bowl": (64, 60, 114, 100)})
    one, other = ground.copy(), ground.copy()
    one[mask], other[slid] = COLOURS["bowl"], COLOURS["bowl"]
    look = take_snapshot(one, mask, box_of(mask))
    assert measure_change(look, other, slid, box_of(slid))[0] < 8
    half = mask.copy()
    half[60:80] = False
    assert measure_change(look, one, half, box_of(mask))[1] > 0.4
