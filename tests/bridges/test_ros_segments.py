"""Segments of whole frames as a label image and its names, without a middleware."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.bridges.segment_maps import CAPTURED_NS, ROWS, SIZE, make_event, make_ids
from tests.bridges.test_ros_parts import HEADER, Remembering, final
from ureca.bridges.ros.bridge import BridgeOptions, Forwarded, Outgoing
from ureca.bridges.ros.convert import nanoseconds
from ureca.bridges.ros.messages import Image, LabelInfo
from ureca.protocol.events import NamedSegment, TrackEnd


def bridge(*, forwarded=None, **options):
    transport = Remembering()
    options = BridgeOptions(**{"panoptic": True, **options})
    return transport, Outgoing(transport, options, forwarded or Forwarded())


def said(rid, text, *, ttl_ms=5000):
    return msgspec.structs.replace(final(rid, CAPTURED_NS - 10**9, ttl_ms), text=text)


def ended(rid):
    fields = {"seq": 8, "captured_ns": CAPTURED_NS, "box": (0, 0, 1, 1), "reason": "left"}
    return TrackEnd(stream="cam0", rid=rid, **fields)


def values_of(image):
    assert (image.encoding, image.step, image.is_bigendian) == ("mono16", 2 * image.width, 0)
    return np.frombuffer(image.data, "<u2").reshape(image.height, image.width)


def test_a_map_is_an_image_and_the_names_of_its_values():
    transport, out = bridge()
    for rid, text in (("cup", "a red cup"), ("table", "a wooden table")):
        out.event(said(rid, text), 0)
    out.event(make_event(), 10**18)
    (topic, image), (names_topic, named) = transport.sent
    assert (topic, names_topic) == ("/ureca/cam0/panoptic", "/ureca/cam0/panoptic_labels")
    assert isinstance(image, Image)
    assert isinstance(named, LabelInfo)
    assert {nanoseconds(m.header.stamp) for m in (image, named)} == {CAPTURED_NS + 10**18}
    names = {one.class_id: one.class_name for one in named.class_map}
    assert sorted(names.values()) == ["a red cup", "a wooden table", "r9"]
    by_name = {name: value for value, name in names.items()}
    wanted, small = np.zeros((12, 16), int), make_ids()
    for one in ROWS:
        wanted[small == one.n] = by_name[one.caption or one.rid]
    assert values_of(image).shape == SIZE, "in the size of the frame"
    assert (values_of(image) == wanted.repeat(2, 0).repeat(2, 1)).all()
    assert out.counts == {"panoptic": 1, "panoptic_labels": 1}


def test_a_caption_that_ran_out_is_no_name():
    transport, out = bridge()
    out.event(said("cup", "a red cup", ttl_ms=900), 0)
    out.event(said("table", "a wooden table"), 0)
    out.event(make_event(), 0)
    names = [one.class_name for one in transport.sent[1][1].class_map]
    assert names == ["cup", "a wooden table", "r9"]


@pytest.mark.parametrize(("class_id", "wanted"), [("rid", "cup"), ("label", "my cup")])
def test_values_are_called_what_the_option_says(class_id, wanted):
    transport, out = bridge(class_id=class_id)
    out.event(said("cup", "a red cup"), 0)
    cup = msgspec.structs.replace(ROWS[0], label="my cup")
    out.event(make_event((cup, *ROWS[1:])), 0)
    assert transport.sent[1][1].class_map[0].class_name == wanted


def test_a_value_stays_with_its_region_until_that_ends():
    transport, out = bridge()
    out.event(make_event(), 0)
    others = (ROWS[1], NamedSegment(n=9, rid="new", kind="thing", share=0.1))
    ids = make_ids()
    ids[ids == 3] = 9
    out.event(make_event(others, seq=8, ids=ids), 0)
    out.event(ended("cup"), 0)
    newest = (*others, NamedSegment(n=3, rid="last", kind="thing", share=0.1))
    out.event(make_event(newest, seq=9), 0)
    first, second, third = (
        {one.class_name: one.class_id for one in message.class_map}
        for topic, message in transport.sent
        if topic.endswith("_labels")
    )
    assert (first["cup"], first["table"], first["r9"]) == (1, 2, 3)
    assert second == {"table": 2, "new": 4}, "the cup was only out of sight"
    assert third == {"table": 2, "new": 4, "last": 1}


def test_another_run_of_the_node_begins_anew():
    transport, out = bridge()
    out.event(said("cup", "a red cup"), 0)
    out.event(make_event(session_id=b"n" * 16), 0)
    assert transport.sent[1][1].class_map[0].class_name == "cup"


def test_what_came_from_ros_goes_back_with_its_own_header():
    forwarded = Forwarded()
    forwarded.note("cam0", 7, HEADER)
    transport, out = bridge(forwarded=forwarded)
    out.event(make_event(), 5)
    assert {message.header == HEADER for _, message in transport.sent} == {True}


def test_maps_that_cannot_be_read_or_stamped_are_counted_and_left_out():
    transport, out = bridge()
    out.event(make_event(png=b"no map"), 0)
    out.event(make_event(), -(10**19))
    assert out.counts == {"unreadable": 1, "unstampable": 1}
    assert transport.sent == []


def test_nothing_is_published_unless_it_is_wanted():
    transport, out = bridge(panoptic=False)
    out.event(make_event(), 0)
    assert transport.sent == []
