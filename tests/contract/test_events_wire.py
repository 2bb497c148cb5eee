from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest

from ureca.errors import VersionError, WireError
from ureca.protocol import event_table as streams
from ureca.protocol import events, wire


def test_every_kind_survives_the_wire_and_keeps_its_bytes(every_event, golden):
    for event in every_event:
        parts = wire.encode_event(event, "node1")
        assert wire.decode_event(parts) == event
        golden(f"event-{streams.event_kind(event)}", b"".join(parts))


def test_the_streams_table_knows_exactly_the_events_there_are(every_event):
    kinds = {streams.event_kind(event) for event in every_event}
    assert kinds == set(streams.STREAMS)
    assert {kind for kind in kinds if streams.STREAMS[kind].loss == "never"} >= streams.TERMINALS


def test_deltas_may_drop_and_are_apart_from_captions(every_event):
    delta = next(event for event in every_event if isinstance(event, events.CaptionDelta))
    assert streams.spec_of(delta).loss == "drop"
    assert wire.event_topic(delta, "n").encode() == b"ureca2/n/cam1/delta/r1\0"


def test_events_of_the_whole_node_have_a_topic_too(every_event):
    heartbeat = next(event for event in every_event if isinstance(event, events.Heartbeat))
    assert wire.event_topic(heartbeat, "n").encode() == b"ureca2/n/_/heartbeat\0"


def test_nul_keeps_a_stream_from_matching_a_longer_one():
    assert (
        not wire.Topic("n", "cam10", "caption").encode().startswith(wire.subscription("n", "cam1"))
    )
    assert (
        wire.Topic("n", "cam1", "caption")
        .encode()
        .startswith(wire.subscription("n", "cam1", "caption")[:-1])
    )
    assert (
        wire.Topic("n", "cam1", "caption", "r1").encode()
        != wire.Topic("n", "cam1", "caption", "r10").encode()[:-2]
    )


def test_a_subscription_narrows_from_the_left():
    assert wire.subscription() == b"ureca2/"
    with pytest.raises(WireError, match="from the left"):
        wire.subscription("", "cam1")


@pytest.mark.parametrize("topic", [b"ureca1/n/c/caption\0", b"ureca12/n/c/caption\0"])
def test_another_major_version_in_the_topic_is_refused(topic):
    with pytest.raises(VersionError, match="same major version"):
        wire.parse_topic(topic)


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b"ureca2/n/c/caption",
        b"ureca2/n/c\0",
        b"ureca2/N/c/caption\0",
        b"ureca2/n/c/what\0",
        b"ureca2/n/c/caption/r/x\0",
        b"ureca2/n/" + b"c" * 65 + b"/caption\0",
        b"\xff\xfe\0",
    ],
)
def test_broken_topics_are_named(topic):
    with pytest.raises(WireError):
        wire.parse_topic(topic)


def _changed(event, **changes):
    data = wire.event_to_plain(event)
    data.update(changes)
    return [wire.event_topic(event, "n").encode(), msgspec.msgpack.encode(data)]


def test_another_major_version_in_the_header_is_refused(every_event):
    with pytest.raises(VersionError, match=r"protocol 1\.0"):
        wire.decode_event(_changed(every_event[0], v=[1, 0]))


def test_a_later_minor_version_is_understood(every_event):
    final = next(event for event in every_event if isinstance(event, events.CaptionFinal))
    read = wire.decode_event(_changed(final, v=[2, 9], status="paraphrased", colour="red"))
    assert (read.v, read.status, read.text) == ((2, 9), "unknown", final.text)


@pytest.mark.parametrize(
    "changes",
    [
        {"v": None},
        {"v": [1]},
        {"v": [True, 0]},
        {"event_seq": "7"},
        {"rid": None},
        {"box": [1, 2, 3]},
        {"box": [math.nan, 2, 3, 4]},
        {"ev": "track.what"},
        {"mask": {"size": [4], "counts": ""}},
        {"stream": "other"},
    ],
)
def test_a_header_that_breaks_the_schema_is_a_wire_error(every_event, changes):
    with pytest.raises(WireError):
        wire.decode_event(_changed(every_event[0], **changes))


def test_what_a_peer_would_refuse_is_not_sent(every_event):
    endless = next(e for e in every_event if isinstance(e, events.CaptionFinal))
    endless = msgspec.structs.replace(endless, score=math.inf)
    with pytest.raises(WireError, match="finite"):
        wire.encode_event(endless, "n")
    with pytest.raises(WireError, match="region id"):
        wire.encode_event(msgspec.structs.replace(every_event[0], rid="Not An Id"), "n")
    tight = dataclasses.replace(wire.LIMITS, max_header_bytes=50)
    with pytest.raises(WireError) as caught:
        wire.encode_event(every_event[0], "n", tight)
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize("parts", [[], [b"x"], [b"x", b"y", b"z"]])
def test_wrong_part_counts(parts):
    with pytest.raises(WireError, match="parts"):
        wire.decode_event(parts)


def test_lengths_are_limited_before_they_are_allocated():
    topic = wire.Topic("n", "c", "caption").encode()
    for claim in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ):
        with pytest.raises(WireError):
            wire.decode_event([topic, claim])
    with pytest.raises(WireError):
        wire.decode_event([topic, msgspec.msgpack.encode({"x": [0] * 5000})])
    with pytest.raises(WireError, match="duplicate"):
        wire.decode_event([topic, b"\x82\xa1a\x01\xa1a\x02"])
    with pytest.raises(WireError):
        wire.decode_event(
            [topic, b"\x81\xa1a" + msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"x"))]
        )
