"""Whole frames in segments: every pixel in the colour of its region, on pictures and in videos."""

from __future__ import annotations

import itertools
import time

import cv2
import msgspec
import numpy as np
import pytest

from tests.drawing.test_video import read, said
from ureca.datatypes import Frame, Track, TrackSet, TrackState
from ureca.node.annotated_video.overlay_state import OverlayState
from ureca.node.annotated_video.renderer import Renderer, drawn
from ureca.node.segmentation.keyframe_segments import encode_ids
from ureca.protocol.events import NamedSegment, Panoptic, TrackEnd
from ureca.visualization.files import save_segments
from ureca.visualization.palette import COLOURS, SEGMENT_COLOURS, STALE
from ureca.visualization.picture import Shown, annotated
from ureca.visualization.segment_fill import fill_segments, paint_ids

pytest.importorskip("PIL", reason="drawing was not proven: pip install 'ureca[render]'")

SIZE = (240, 480)
RED, BLUE = (213, 94, 0), (0, 114, 178)


def box_mask(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_each_pixel_has_the_colour_of_its_segment_and_the_rest_has_none():
    canvas = np.full((20, 30, 3), 100, np.uint8)
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:20], ids[:, 20:] = 1, 2
    fill_segments(canvas, ids, [(RED, 0.6), (BLUE, 0.3)])
    assert (canvas[:, :10] == 100).all()
    for columns, colour, share in ((slice(11, 20), RED, 0.6), (slice(21, 30), BLUE, 0.3)):
        wanted = np.array(colour) * share + 100 * (1 - share)
        assert np.abs(canvas[:, columns].astype(float) - wanted).max() <= 1.5
    assert (canvas[:, [10, 20]].max(axis=2) < 60).all(), "a dark line between segments"


def test_any_number_of_segments_mixes_as_one_by_one(rng):
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    small = rng.integers(0, 256, (6, 8)).astype(np.uint8)
    ids = small.repeat(8, 0).repeat(8, 1)
    fills = [(tuple(rng.integers(0, 256, 3).tolist()), float(rng.random())) for _ in range(255)]
    canvas = image.copy()
    fill_segments(canvas, ids, fills)
    inner = np.zeros((8, 8), np.bool_)
    inner[1:, 1:] = True
    inside = np.tile(inner, (6, 8))
    for number, (colour, share) in enumerate(fills, 1):
        there = inside & (ids == number)
        wanted = image[there] * (1 - share) + np.array(colour) * share
        assert there.sum() == 0 or np.abs(canvas[there] - wanted).max() <= 2
    there = inside & (ids == 0)
    assert (canvas[there] == image[there]).all()


def test_small_regions_lie_on_large_ones_whatever_their_order():
    ids = np.zeros(SIZE, np.uint8)
    table, cup = box_mask(0, 100, 480, 240), box_mask(200, 150, 240, 200)
    paint_ids(ids, [(2, cup, (200, 150, 240, 200)), (1, table, (-5, 100, 500, 260))])
    assert (ids[cup] == 2).all()
    assert (ids == 1).sum() == table.sum() - cup.sum()
    assert (ids[:100] == 0).all()


def test_stuff_is_lighter_than_things_and_what_expired_is_grey():
    image = np.full((*SIZE, 3), 90, np.uint8)
    ids = np.repeat(np.arange(1, 4, dtype=np.uint8), 160)[None].repeat(240, 0)
    masks = [box_mask(160 * n, 0, 160 * n + 160, 240) for n in range(3)]
    boxes = [(160 * n, 0, 160 * n + 160, 240) for n in range(3)]
    shown = [
        Shown("cup", boxes[0], RED, "", masks[0]),
        Shown("wall", boxes[1], RED, "", masks[1], is_stuff=True),
        Shown("old", boxes[2], RED, "", masks[2], stale=True),
    ]
    picture = annotated(image, shown, ids=ids).astype(int)
    cup, wall, old = (picture[120, x] for x in (80, 240, 400))
    assert cup[0] - cup[2] > 1.8 * (wall[0] - wall[2]) > 30
    assert np.abs(old - old[0]).max() <= 1
    assert abs(old[0] - (90 * 0.8 + STALE[0] * 0.2)) < 3


def lab(rgb, seen):
    """CIE Lab of a colour as someone sees it (matrices of Machado et al. 2009 on linear light)."""
    light = (np.array(rgb) / 255).reshape(3)
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    light = np.clip(np.array(seen).reshape(3, 3) @ light, 0, 1)
    plain = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = plain @ light / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


SEEN = {
    "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.01182 0.04294 "
    "0.968881",
    "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 "
    "1.051998",
    "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 "
    "0.3039",
}


def least_distance(colours, seen):
    found = [lab(colour, seen) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("sight", SEEN)
def test_colours_of_segments_differ_for_the_colour_blind(sight):
    seen = [float(value) for value in SEEN[sight].split()]
    assert least_distance(SEGMENT_COLOURS, seen) > 10
    assert least_distance(COLOURS, seen) < 8, "those of single regions would not do"


def test_a_picture_of_segments_is_written(tmp_path):
    path = tmp_path / "out.png"
    masks = [box_mask(0, 0, 0, 0), box_mask(0, 0, 200, 240), box_mask(200, 0, 480, 240)]
    image = np.full((*SIZE, 3), 90, np.uint8)
    save_segments(path, image, masks, ["empty", "a cup", "a wall"], [False, False, True])
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(float)
    for x, number, share in ((150, 0, 0.6), (440, 1, 0.3)):
        wanted = np.array(SEGMENT_COLOURS[number]) * share + 90 * (1 - share)
        assert np.abs(picture[150, x] - wanted).max() < 2


# --- what is drawn on a frame --------------------------------------------------------------------


def frame(seq):
    return Frame("cam0", b"b" * 16, seq, round(seq / 24 * 1e9), np.full((*SIZE, 3), 60, np.uint8))


def tracks(of, cup_x, *, alive=True):
    """A cup that moves over a table that the tracker lost sight of at the left."""
    boxes = {"cup": (cup_x, 60, cup_x + 60, 180), "table": (40, 0, 480, 240)}
    rows = [
        Track(rid, TrackState.ALIVE, box_mask(*box), box, 1, 0)
        for rid, box in boxes.items()
        if alive or rid == "table"
    ]
    return TrackSet(of.stream, of.seq, of.captured_ns, tuple(rows))


def keyframe(seq, cup_x):
    ids = np.full((120, 240), 2, np.uint8)
    ids[30:90, cup_x // 2 : cup_x // 2 + 30] = 1
    return Panoptic(
        stream="cam0",
        seq=seq,
        captured_ns=0,
        width=480,
        height=240,
        segments=(
            NamedSegment(n=1, rid="cup", kind="thing", share=0.06),
            NamedSegment(n=2, rid="table", kind="stuff", share=0.94),
        ),
        png=encode_ids(ids),
    )


def test_segments_move_with_their_regions_between_keyframes():
    words = OverlayState()
    of = frame(0)
    shown = words.shown(tracks(of, 100))
    assert words.ids(shown, SIZE) is None, "no segments yet: masks are drawn"
    words.apply(keyframe(0, 100))
    shown = words.shown(tracks(of, 300))
    assert [one.is_stuff for one in shown] == [False, True]
    ids = words.ids(shown, SIZE)
    assert (ids[60:180, 300:360] == 1).all()
    assert (ids[60:180, 100:160] == 2).all(), "the cup has left, the table is there"
    assert (ids[:, :40] == 2).all(), "stuff of the keyframe where the tracker has nothing"
    assert (ids > 0).all()
    gone = words.shown(tracks(of, 300, alive=False))
    assert set(np.unique(words.ids(gone, SIZE))) == {1}
    colours = [one.colour for one in shown]
    assert colours == list(SEGMENT_COLOURS[: len(colours)])
    words.apply(
        TrackEnd(stream="cam0", rid="cup", seq=1, captured_ns=0, box=(0, 0, 1, 1), reason="left")
    )
    assert words.shown(tracks(of, 300))[1].colour == colours[1], "others keep their colours"


def test_the_video_shows_the_map_with_its_captions(tmp_path):
    path = tmp_path / "out.mp4"
    renderer = Renderer(path, fps=24, rest=0.0)
    renderer.start()
    plain = np.full(3, 60)
    for seq in range(48):
        one = frame(seq)
        if seq == 12:
            renderer(keyframe(12, 300))
            for rid, text in (("cup", "a red mug"), ("table", "a wooden table")):
                final = said(one.captured_ns, 60_000, text)
                renderer(msgspec.structs.replace(final, rid=rid))
        renderer.saw(one, tracks(one, 300))
    renderer.close()
    assert renderer.failure is None
    pictures = read(path)
    assert len(pictures) == 48
    cup, table, edge = (
        pictures[30][y, x].astype(int) for y, x in ((120, 330), (200, 250), (150, 10))
    )
    far_cup, far_table = np.abs(cup - plain).max(), np.abs(table - plain).max()
    assert far_cup > 60, "the thing is filled"
    assert 15 < far_table < far_cup, "stuff is lighter"
    assert np.abs(edge - table).max() < 20, "every pixel of the table, also where no mask is"
    before = pictures[5][150, 10].astype(int)
    assert np.abs(before - plain).max() < 10, "nothing before the first map"
    white = [(picture.min(axis=2) > 200).sum() for picture in pictures]
    assert white[5] < white[30] - 100, "words"


@pytest.mark.timing
def test_filling_a_frame_takes_a_few_milliseconds():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 25, (12, 16)).astype(np.uint8)
    ids = cv2.resize(small, (640, 480), interpolation=cv2.INTER_NEAREST)
    fills = [(SEGMENT_COLOURS[n % 7], 0.5) for n in range(24)]
    canvas = rng.integers(0, 256, (480, 640, 3), np.uint8)
    spent = []
    for _ in range(15):
        began = time.thread_time()
        fill_segments(canvas, ids, fills)
        spent.append(time.thread_time() - began)
    one_by_one = time.thread_time()
    for number, (colour, share) in enumerate(fills, 1):
        there = ids == number
        canvas[there] = (canvas[there] * (1 - share) + np.array(colour) * share).astype(np.uint8)
    one_by_one = time.thread_time() - one_by_one
    assert np.median(spent) < one_by_one / 3


def test_a_frame_without_segments_is_drawn_as_before():
    of = frame(0)
    found = tracks(of, 300)
    words = OverlayState()
    one = drawn(of, found, words)
    again = annotated(of.image, OverlayState().shown(found), title="cam0")
    assert (one == again).all()
