"""Segments of whole frames in Rerun, read back with Rerun's own reader."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.bridges.rerun_rows import columns
from tests.bridges.segment_maps import CAPTURED_NS, ROWS, SIZE, make_event, make_ids
from ureca.bridges.node_follower import FollowedFrame
from ureca.bridges.rerun.log import RerunLog
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.protocol.events import NamedSegment
from ureca.protocol.preview_messages import Picture
from ureca.visualization.palette import SEGMENT_COLOURS

rr = pytest.importorskip("rerun", reason="Rerun was not proven: pip install 'ureca[rerun]'")


def picture(width, height):
    frame = {"seq": 6, "captured_ns": CAPTURED_NS, "clk": "utc", "width": 32, "height": 24}
    return Picture(stream="cam0", w=width, h=height, jpeg=b"", regions=(), **frame)


def logged(path, events, *, seen=None):
    """What one bridge logs of these events, by entity column."""
    recording = rr.RecordingStream("ureca")
    recording.save(path)
    log = RerunLog(recording)
    if seen is not None:
        log.sight(FollowedFrame(seen, ()))
    for event in events:
        log.event(event, 10**18)
    recording.flush()
    recording.disconnect()
    return log, columns(path, "/cam0/segments")


def values_of(found, row, size):
    raw = np.ravel(found["SegmentationImage:buffer"][row]).astype(np.uint8).tobytes()
    return np.frombuffer(raw, np.uint16).reshape(size)


def names_of(found, row):
    """Text and colour by class."""
    infos = [one["class_description"]["info"] for one in found["AnnotationContext:context"][row][0]]
    return {one["id"]: (one["label"], tuple(one["color"].to_bytes(4, "big"))) for one in infos}


def test_the_map_is_read_back_with_its_captions(tmp_path):
    moved = make_event(seq=12, ids=make_ids(cup_x=8), captured_ns=CAPTURED_NS + 10**9)
    log, found = logged(tmp_path / "run.rrd", [make_event(), moved])
    assert log.segments == 2
    names = names_of(found, 0)
    texts = {text: number for number, (text, _) in names.items()}
    assert set(texts) == {"", "a red cup", "a wooden table", "r9"}
    assert texts[""] == 0
    for row, cup_x in ((0, 4), (1, 8)):
        values = values_of(found, row, SIZE)
        small = make_ids(cup_x=cup_x)
        wanted = np.zeros_like(small)
        for one in ROWS:
            wanted[small == one.n] = texts[one.caption or one.rid]
        assert (values == wanted.repeat(2, 0).repeat(2, 1)).all()
    assert sorted(found["frame"]) == [7, 7, 12], "names and map of 7; those of 12 are the same"
    assert len(found["AnnotationContext:context"]) == 1
    assert set(found["capture"]) == {CAPTURED_NS + 10**18, CAPTURED_NS + 10**18 + 10**9}
    cup, table = (np.array(names[texts[t]][1]) for t in ("a red cup", "a wooden table"))
    assert tuple(cup[:3]) in SEGMENT_COLOURS
    assert table[:3].min() >= 127, "stuff is lighter"


def test_a_new_caption_is_a_new_name_for_the_same_value(tmp_path):
    later = (*ROWS[:2], NamedSegment(n=9, rid="r9", kind="stuff", share=0.3, caption="a wall"))
    ids = make_ids()
    ids[ids == 2] = 9
    _, found = logged(tmp_path / "run.rrd", [make_event(), make_event(later, seq=8, ids=ids)])
    before, after = names_of(found, 0), names_of(found, 1)
    (number,) = (n for n, (text, _) in before.items() if text == "r9")
    assert after[number][0] == "a wall"
    assert after[number][1] == before[number][1], "the colour stays"
    assert (values_of(found, 0, SIZE) == values_of(found, 1, SIZE)).all()


def test_the_map_lies_on_the_pictures(tmp_path):
    _, found = logged(tmp_path / "run.rrd", [make_event()], seen=picture(64, 48))
    values = values_of(found, 0, (48, 64))
    assert (values[:, 48:] == 0).all()
    assert (values[:, :48] > 0).all()


def test_a_map_that_cannot_be_read_is_told_and_the_bridge_goes_on(tmp_path):
    path = tmp_path / "run.rrd"
    log, found = logged(path, [make_event(png=b"no map"), make_event(seq=8)])
    assert log.segments == 1
    assert len(found["SegmentationImage:buffer"]) == 1
    assert "expected a PNG" in columns(path, "/cam0/captions")["TextLog:text"][0][0]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.long
def test_segments_of_a_node_are_in_the_file(processes, tmp_path):
    if find_demo_clip() is None:
        pytest.skip("no demo clip in configs/demo")
    whole = ("--panoptic", "--set", "segmenter.model=scripted", "--set", "segmenter.every_frames=5")
    node = processes.node("--loop", *whole)
    path = tmp_path / "run.rrd"
    with processes.client() as client:
        client.hello()
        rerun = processes.ureca("rerun", "--save", path, "--width", 320)
        wait_for_size(path, 1)
        captioned = 0
        for event in client.events({"panoptic"}, 60):
            captioned += any(one.caption for one in event.segments)
            if captioned > 6:
                break
    code, _, err = processes.interrupt(rerun)
    assert code == 0, err
    assert "maps of segments" in err
    processes.interrupt(node)
    found = columns(path, "/cam0/segments")
    last = found["SegmentationImage:format"][-1][0]
    assert (last["width"], last["height"]) == (320, 180), "as large as the pictures"
    names = names_of(found, -1)
    assert any("thing" in text for text, _ in names.values())
    assert set(np.unique(values_of(found, -1, (180, 320)))) <= set(names)


def wait_for_size(path, size):
    until = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < until, f"{path} has less than {size} bytes"
        time.sleep(0.1)
