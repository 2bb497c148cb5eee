from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.errors import RegionError, WireError
from ureca.protocol import events as ev
from ureca.protocol import wire
from ureca.testing import SyntheticSource

ids = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)
u63 = st.integers(0, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
boxes = st.tuples(*[st.integers(-(2**31), 2**31)] * 4)
text = st.text(max_size=200)
common = {"session_id": st.binary(max_size=16), "event_seq": u63, "pub_ns": u63, "stream": ids}
region = {**common, "rid": ids, "rev": u63, "parent": st.none() | ids}
track = {**region, "seq": u63, "captured_ns": u63, "box": boxes, "label": st.none() | text}
masks = st.none() | st.builds(ev.WireRle, size=st.tuples(u63, u63), counts=text)

any_event = st.one_of(
    st.builds(ev.TrackNew, mask=masks, **track),
    st.builds(ev.TrackLost, reason=text, **track),
    st.builds(ev.TextAbsent, text=text, none=st.floats(0, 1), seq=u63, captured_ns=u63),
    st.builds(
        ev.TextFound,
        text=text,
        none=st.floats(0, 1),
        seq=u63,
        captured_ns=u63,
        regions=st.lists(
            st.builds(ev.TextRegion, rid=ids, box=boxes, probability=st.floats(0, 1)), max_size=3
        ).map(tuple),
    ),
    st.builds(ev.CaptionStart, request_id=u63, trigger=text, seq=u63, captured_ns=u63, **region),
    st.builds(ev.CaptionDelta, request_id=u63, offset=u63, text=text, **region),
    st.builds(
        ev.CaptionFinal,
        request_id=u63,
        text=text,
        status=st.sampled_from(["ok", "truncated"]),
        n_tok=u63,
        stop=text,
        score=st.none() | finite,
        score_kind=st.just("none"),
        src_seqs=st.lists(u63, max_size=5).map(tuple),
        captured_ns=u63,
        box=boxes,
        mask=masks,
        trigger=text,
        model=text,
        bundle_sha=text,
        precision=text,
        ttl_ms=u63,
        age_at_pub_ms=finite,
        stage_us=st.dictionaries(text, u63, max_size=4),
        **region,
    ),
    st.builds(ev.CaptionError, request_id=u63, code=text, msg=text, **region),
    st.builds(ev.RecordingStopped, reason=text, lost=u63, **common),
)


@given(any_event, ids)
def test_events_round_trip(event, node):
    assert wire.decode_event(wire.encode_event(event, node)) == event


@given(ids, ids, st.sampled_from(["track", "caption", "delta", "frame"]), st.none() | ids)
def test_topics_round_trip(node, stream, kind, name):
    topic = wire.Topic(node, stream, kind, name)
    assert wire.parse_topic(topic.encode()) == topic
    assert topic.encode().startswith(wire.subscription(node, stream))


@given(ids, ids)
def test_no_stream_matches_another(one, other):
    if one != other:
        prefix = wire.subscription("n", one)
        assert not wire.Topic("n", other, "caption").encode().startswith(prefix)


def _frame_parts():
    frame = SyntheticSource(width_px=8, height_px=6, things=2).frame(0)
    header = wire.FrameHeader.of(frame, "rgb8")
    return wire.encode_frame(header, frame.image.tobytes(), "camera")


def _event_parts():
    event = ev.CaptionDelta(stream="c", rid="r", request_id=1, offset=0, text="a cup")
    return wire.encode_event(event, "n")


def _request_parts():
    return wire.encode_request(
        wire.Request(id=b"i", op="describe", args={"stream": "c", "rid": "r"})
    )


READERS = {
    "frame": (
        _frame_parts(),
        lambda parts: wire.decode_frame(
            parts, lambda data, header: np.zeros((header.h, header.w, 3), np.uint8), received_ns=0
        ),
    ),
    "event": (_event_parts(), wire.decode_event),
    "request": (_request_parts(), wire.decode_request),
    "reply": (
        wire.encode_reply(wire.Reply(v=(2, 0), id=b"i", status="result", result={"a": 1})),
        wire.decode_reply,
    ),
}

edits = st.lists(
    st.tuples(
        st.integers(0, 10**6), st.integers(0, 255), st.sampled_from(["set", "cut", "insert"])
    ),
    min_size=1,
    max_size=8,
)


def _edited(part, changes):
    data = bytearray(part)
    for place, value, how in changes:
        where = place % (len(data) + 1)
        if how == "cut":
            del data[where:]
        elif how == "insert":
            data.insert(where, value)
        elif where < len(data):
            data[where] = value
    return bytes(data)


def _read(reader, parts):
    """Damage may go unnoticed or be named, but nothing else may come out."""
    with contextlib.suppress(WireError, RegionError):
        reader(parts)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_damaged_messages_raise_nothing_unexpected(kind, data):
    parts, reader = READERS[kind]
    _read(
        reader,
        [_edited(part, data.draw(edits)) if data.draw(st.booleans()) else part for part in parts],
    )


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_noise_raises_nothing_unexpected(kind, data):
    parts, reader = READERS[kind]
    noise = data.draw(st.lists(st.binary(max_size=200), max_size=4))
    _read(reader, noise)
    _read(reader, [parts[0], *noise])


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | text
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", READERS)
@given(key_and_value=st.tuples(st.integers(0, 40), nested))
def test_any_value_under_any_key_raises_nothing_unexpected(kind, key_and_value):
    import msgspec

    parts, reader = READERS[kind]
    place = 1 if len(parts) > 1 else 0
    header = msgspec.msgpack.decode(parts[place])
    key = sorted(header)[key_and_value[0] % len(header)]
    header[key] = key_and_value[1]
    changed = list(parts)
    changed[place] = msgspec.msgpack.encode(header)
    _read(reader, changed)
