"""Whole frames in segments: association, regions that keep their ids, the event, the request."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import free_port
from ureca import Client, Panoptic, PanopticView
from ureca.client.id_map import decode_id_map
from ureca.clock import Clock, ManualClock, MonotonicClock
from ureca.config import from_plain
from ureca.datatypes import Frame, RegionSeed
from ureca.errors import ConfigError, RequestError, WireError
from ureca.invariants import imbalances
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.node import Node
from ureca.node.panoptic.association import associate, put_on_top
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.segmentation.keyframe_segmenter import KeyframeSegmenter
from ureca.node.segmentation.keyframe_segments import encode_ids
from ureca.node.segmentation.worker import InlineSegmentationWorker
from ureca.node.sources.base import Wait
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource(frames=40, things=3, seed=4, with_regions="never")
PLAIN = {"segmenter": {"model": "scripted", "every_frames": 4}, "panoptic": {"on": True}}


class Played:
    """A pipeline that segments and captions inline."""

    def __init__(self, **more: object) -> None:
        config = from_plain(NodeConfig, {**PLAIN, **more})
        self.clock, self.counters, self.events = ManualClock(1), NodeCounters(), EventCapture()
        self.pipeline = Pipeline(config, clock=self.clock, counters=self.counters)
        self.runner = StepRunner(
            self.pipeline,
            InlineCaptioner(CaptionWriter(ScriptedEngine(), config.caption, self.clock)),
            InlineSegmentationWorker(KeyframeSegmenter(ScriptedSegmenter(), config.segmenter)),
            limits=config.limits,
            clock=self.clock,
            emit=self.events,
        )
        self.runner.start()

    def play(self, count: int, image: np.ndarray | None = None, seeds=()) -> Played:
        for seq in range(count):
            frame = replace(SOURCE.frame(seq), prompts=seeds if seq == 0 else ())
            frame = frame if image is None else replace(frame, image=image)
            self.clock.advance(ns=frame.captured_ns - self.clock.now_ns())
            self.counters.frame_in()
            self.runner.step(frame)
        self.runner.close("source_end")
        assert imbalances(self.counters.balance().counters()) == []
        return self

    @property
    def maps(self) -> list[PanopticView]:
        return [PanopticView.from_event(e) for e in self.events.of("panoptic")]


def test_segments_keep_their_regions_from_keyframe_to_keyframe() -> None:
    played = Played().play(40)
    assert len(played.maps) >= 8
    for view in played.maps:
        assert [one.kind for one in view.segments] == ["thing"] * 3 + ["stuff"]
        assert {one.rid for one in view.segments} == {"r1", "r2", "r3", "r4"}
        assert sum(one.share for one in view.segments) == pytest.approx(1, abs=0.01)
        truth = SOURCE.masks(view.seq)
        for name, mask in truth.items():
            y, x = np.argwhere(mask).mean(0)
            found = view.segment_at(x, y)
            assert found is not None, name
            assert found.kind == "thing"
    for event in played.events.of("panoptic"):
        assert set(event.stage_us) == {"look", "segments"}
        assert all(spent_us >= 0 for spent_us in event.stage_us.values())
    by_place = [
        {
            name: view.segment_at(*np.argwhere(mask).mean(0)[::-1]).rid
            for name, mask in SOURCE.masks(view.seq).items()
        }
        for view in played.maps
    ]
    assert all(one == by_place[0] for one in by_place)
    assert not played.events.of("track.lost")


def test_every_segment_is_captioned_and_stuff_is_valid_for_longer() -> None:
    played = Played().play(20)
    ttl = {event.rid: event.ttl_ms for event in played.events.of("caption.final")}
    kinds = {one.rid: one.kind for one in played.maps[-1].segments}
    assert set(ttl) == set(kinds)
    (stuff,) = (ttl[rid] for rid, kind in kinds.items() if kind == "stuff")
    assert {3 * ttl[rid] for rid, kind in kinds.items() if kind == "thing"} == {stuff}


def test_nothing_is_said_of_whole_frames_unless_it_is_switched_on() -> None:
    played = Played(panoptic={"on": False}).play(10)
    assert not played.events.of("panoptic")
    with pytest.raises(ConfigError, match=r"leave segmenter\.everything"):
        from_plain(NodeConfig, {"segmenter": {"everything": True}, "panoptic": {"on": True}})
    with pytest.raises(ConfigError, match="nothing can be found"):
        from_plain(NodeConfig, {"segmenter": {"model": "none"}, "panoptic": {"on": True}})


def test_regions_of_clients_lie_over_segments_and_keep_their_names() -> None:
    seed = RegionSeed(rid="mine", label="corner", box_xyxy_px=(0, 0, 60, 50))
    played = Played().play(12, seeds=(seed,))
    view = played.maps[-1]
    found = view.segment_at(5, 5)
    assert found is not None
    assert (found.rid, found.label, found.kind) == ("mine", "corner", "thing")
    assert [event.rid for event in played.events.of("track.new")].count("mine") == 1


def test_a_region_that_is_no_segment_any_more_ends() -> None:
    empty = np.full_like(SOURCE.image(0), 128)
    played = Played()
    for seq in range(8):
        played.counters.frame_in()
        frame = SOURCE.frame(seq)
        played.clock.advance(ns=frame.captured_ns - played.clock.now_ns())
        played.runner.step(frame)
    for seq in range(8, 40):
        played.counters.frame_in()
        frame = replace(SOURCE.frame(seq), image=empty)
        played.clock.advance(ns=frame.captured_ns - played.clock.now_ns())
        played.runner.step(frame)
    ended = {event.rid: event.reason for event in played.events.of("track.end")}
    lost = {event.rid for event in played.events.of("track.lost")}
    stuff = played.maps[-1].segments
    assert [one.kind for one in stuff] == ["stuff"]
    things = {"r1", "r2", "r3"}
    assert things <= set(ended) | lost
    assert set(ended.values()) <= {"replaced", "lost_ttl"}


def test_room_limits_segments_and_the_rest_has_no_region() -> None:
    played = Played(panoptic={"on": True, "max_segments": 2}).play(10)
    view = played.maps[-1]
    assert len(view.segments) == 2
    assert (view.id_map == 0).any()
    assert view.segment_at(0, 0) is None
    assert view.caption_at(-1, 0) is view.caption_at(0, 10_000) is None


# --- association ---------------------------------------------------------------------------------


def test_a_segment_is_the_region_that_it_overlaps_most() -> None:
    ids = np.zeros((10, 10), np.uint8)
    ids[:, :5], ids[:, 5:] = 1, 2
    left, right = ids == 1, ids == 2
    small = np.zeros((10, 10), np.bool_)
    small[:2, :2] = True
    kinds = {1: "thing", 2: "stuff"}
    regions = {"a": right, "b": left, "c": small}
    assert associate(ids, kinds, regions, {}) == {1: "b", 2: "a"}
    assert associate(ids, kinds, {"c": small}, {}) == {}
    assert associate(ids, {}, regions, {}) == associate(ids, kinds, {}, {}) == {}
    # Of twins the one of the same kind.
    assert associate(ids, {1: "stuff"}, {"x": left, "y": left}, {"y": "stuff"}) == {1: "y"}


def test_small_masks_are_drawn_last() -> None:
    ids = np.ones((4, 4), np.uint8)
    large, small = np.ones((4, 4), np.bool_), np.eye(4, dtype=np.bool_)
    drawn = put_on_top(ids, {200: small, 201: large})
    assert (drawn == np.where(small, 200, 201)).all()


# --- the map -------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_maps_are_read_without_an_image_library(seed, height, width, level) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 6, (height, width)).astype(np.uint8)
    ids = cv2.resize(ids, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST).reshape(
        3 * height, 3 * width
    )
    for strategy in (cv2.IMWRITE_PNG_STRATEGY_DEFAULT, cv2.IMWRITE_PNG_STRATEGY_FILTERED):
        flags = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
        png = cv2.imencode(".png", ids, flags)[1].tobytes()
        assert (decode_id_map(png) == ids).all()


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(kind) -> None:
    rng = np.random.default_rng(kind)
    ids = rng.integers(0, 256, (7, 9)).astype(np.uint8)
    rows, above = [], np.zeros(9, int)
    for row in ids.astype(int):
        left = np.concatenate(([0], row[:-1]))
        corner = np.concatenate(([0], above[:-1]))
        near = left + above - corner
        distances = np.abs(near - np.stack([left, above, corner]))
        paeth = np.choose(distances.argmin(0), [left, above, corner])
        guess = [np.zeros(9, int), left, above, (left + above) // 2, paeth][kind]
        rows.append(bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + b"\0\0\0\0"

    head = struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    png += chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    assert (decode_id_map(png) == ids).all()


@pytest.mark.parametrize("change", ["colour", "cut", "text", "tail", "empty"])
def test_what_is_no_map_is_a_typed_error(change) -> None:
    ids = np.arange(48, dtype=np.uint8).reshape(6, 8)
    png = cv2.imencode(".png", ids)[1].tobytes()
    wrong = {
        "colour": cv2.imencode(".png", np.dstack([ids] * 3))[1].tobytes(),
        "cut": png[: len(png) // 2],
        "text": b"not a picture",
        "tail": png[:45] + b"\0" * 40,
        "empty": b"",
    }[change]
    with pytest.raises(WireError):
        decode_id_map(wrong)


def test_a_ragged_map_is_made_smaller_until_it_fits_an_event() -> None:
    ids = np.random.default_rng(0).integers(0, 40, (240, 320)).astype(np.uint8)
    png = encode_ids(ids)
    assert len(png) <= 12_000
    assert decode_id_map(png).shape[1] < 320


# --- over sockets --------------------------------------------------------------------------------


class FewFrames:
    """Frames of a synthetic source, some a second."""

    is_lossless = False

    def __init__(self, config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait):
        self.clock, self.counters, self.wait = clock, counters, wait

    def frames(self) -> Iterator[Frame]:
        for frame in SyntheticSource(frames=600, things=3, seed=4, with_regions="never"):
            if self.wait(0.05):
                return
            self.counters.frame_in()
            now_ns = self.clock.now_ns()
            yield replace(frame, captured_ns=now_ns, received_ns=now_ns)


@pytest.fixture(params=[True, False])
def client(request) -> Iterator[tuple[Client, bool]]:
    events, requests = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    publish = {"events": events, "requests": requests}
    config = from_plain(
        NodeConfig, {**PLAIN, "panoptic": {"on": request.param}, "publish": publish}
    )
    node = Node(
        config,
        ScriptedEngine(),
        clock=MonotonicClock(),
        open_frames=lambda *given: [FewFrames(*given)],
    )
    node.start()
    try:
        with Client.connect(events, requests, timeout_s=20) as connected:
            yield connected, request.param
    finally:
        node.close()


def test_a_client_asks_for_the_segments_and_their_captions(client) -> None:
    connected, is_on = client
    if not is_on:
        with pytest.raises(RequestError, match="--panoptic"):
            connected.panoptic("cam0")
        return
    for event in connected.events(kinds={"panoptic"}, timeout_s=20):
        assert isinstance(event, Panoptic)
        if all(one.caption for one in event.segments):
            break
    view = connected.panoptic("cam0")
    assert len(view.segments) == 4
    assert view.caption_at(1, 1) == view.segment_at(1, 1).caption
    assert view.caption_at(1, 1)
    assert connected.panoptic().stream == "cam0"
    assert view.mask(view.segments[0].n).any()
    with pytest.raises(RequestError, match="no frame of other"):
        connected.panoptic("other")
