from __future__ import annotations

import dataclasses

import msgspec
import pytest

from ureca.errors import BundleError, EngineError, RegionError, VersionError, WireError
from ureca.protocol import wire
from ureca.protocol.messagepack import convert
from ureca.protocol.operations import OPERATIONS
from ureca.protocol.requests import ErrorBody

ID = b"0123456789abcdef"


def _header(**changes):
    data = {"v": [2, 0], "id": ID, "op": "hello", "deadline_ms": 500, "args": {}, **changes}
    return [msgspec.msgpack.encode(data)]


def test_requests_and_replies_survive_the_wire(golden):
    request = wire.Request(
        id=ID, op="describe", deadline_ms=900, args={"stream": "cam1", "rid": "r1"}
    )
    parts = wire.encode_request(request, b"jpeg")
    assert wire.decode_request(parts) == (request, b"jpeg")
    assert wire.decode_request(wire.encode_request(request)) == (request, None)
    golden("request-describe", b"".join(parts))
    args = {"stream": "cam1", "rid": "r1", "policy": {"ttl_ms": 900, "triggers": ["new"]}}
    order = wire.Request(id=ID, op="policy.set", deadline_ms=900, args=args)
    parts = wire.encode_request(order)
    assert wire.decode_request(parts) == (order, None)
    golden("request-policy.set", parts[0])
    find = {"text": "the red cup", "where": "frame", "masks": True, "level": "thing"}
    parts = wire.encode_request(wire.Request(id=ID, op="find", deadline_ms=900, args=find))
    assert convert(find, OPERATIONS["find"].args, "find").where == "frame"
    golden("request-find", parts[0])
    for reply in (
        wire.Reply(v=(2, 0), id=ID, status="accepted"),
        wire.Reply(v=(2, 0), id=ID, status="result", result={"a": [1, "b"]}),
        wire.Reply(
            v=(2, 0),
            id=ID,
            status="error",
            error=ErrorBody(code="BUSY", msg="later", retry_after_ms=40),
        ),
    ):
        parts = wire.encode_reply(reply)
        assert wire.decode_reply(parts) == reply
        assert reply.terminal == (reply.status != "accepted")
        golden(f"reply-{reply.status}", parts[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": b""},
        {"id": b"x" * 17},
        {"id": "text"},
        {"op": "format_disk"},
        {"deadline_ms": 0},
        {"deadline_ms": 10**9},
        {"args": []},
    ],
)
def test_requests_that_are_refused(changes):
    with pytest.raises(WireError) as caught:
        wire.decode_request(_header(**changes))
    assert caught.value.code == "BAD_SCHEMA"


def test_another_major_version_is_refused_and_its_sender_still_found():
    parts = _header(v=[7, 0])
    with pytest.raises(VersionError):
        wire.decode_request(parts)
    assert wire.salvage_request_id(parts) == ID
    assert wire.salvage_request_id([b"\xc1"]) is None
    assert wire.salvage_request_id([]) is None
    assert wire.salvage_request_id(_header(id="text")) is None


def test_unknown_states_and_codes_of_a_later_minor_version():
    data = {"v": [2, 3], "id": ID, "status": "queued"}
    assert wire.decode_reply([msgspec.msgpack.encode(data)]).status == "unknown"
    data = {"v": [2, 3], "id": ID, "status": "error", "error": {"code": "TOO_HOT", "msg": "fan"}}
    assert wire.decode_reply([msgspec.msgpack.encode(data)]).error.code == "unknown"


def test_a_reply_carries_an_error_exactly_when_it_is_one():
    for data in ({"status": "error"}, {"status": "result", "error": {"code": "BUSY", "msg": ""}}):
        with pytest.raises(WireError, match="exactly when"):
            wire.decode_reply([msgspec.msgpack.encode({"v": [2, 0], "id": ID, **data})])


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("find", {"text": ""}),
        ("find", {"text": " . "}),
        ("find", {"text": "x" * 1025}),
        ("find", {"text": "cup", "where": "moon"}),
        ("find", {"text": "cup", "level": "heap"}),
        ("region.add", {"stream": "cam1"}),
        ("region.add", {"stream": "cam1", "text": "cup", "region": {"point": [1, 2]}}),
        ("region.add", {"stream": "cam1", "region": {"point": [1, 2]}, "standing": True}),
    ],
)
def test_texts_that_are_refused(op, args):
    with pytest.raises(WireError) as caught:
        convert(args, OPERATIONS[op].args, op)
    assert caught.value.code == "BAD_SCHEMA"


@pytest.mark.parametrize("result", [{"text": "x" * 100_000}, {"score": float("nan")}])
def test_a_result_that_cannot_be_sent_is_an_error_and_not_silence(result):
    limits = dataclasses.replace(wire.LIMITS, max_reply_bytes=1000)
    reply = wire.Reply(v=(2, 0), id=ID, status="result", result=result)
    read = wire.decode_reply(wire.encode_reply(reply, limits))
    assert (read.id, read.status) == (ID, "error")
    assert read.error.code in ("TOO_LARGE", "BAD_SCHEMA")


def test_a_snapshot_may_be_longer_than_a_header():
    result = {"events": ["x" * 200_000] * 20}
    reply = wire.Reply(v=(2, 0), id=ID, status="result", result=result)
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "stream"),
        ({"stream": "cam1"}, "rid"),
        ({"stream": "cam1", "rid": "r", "region": {"point": [1, 1]}}, "rid"),
        ({"picture": {"enc": "jpeg", "w": 5, "h": 5}, "rid": "r"}, "region of a 'stream'"),
    ],
)
def test_describe_arguments_that_contradict_themselves(args, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(args, wire.DescribeArgs)


def test_another_value_than_the_allowed_ones_is_explained():
    with pytest.raises(WireError, match="style must be 'short' or 'long' or 'dense', got 'loud'"):
        convert({"stream": "a", "rid": "r", "style": "loud"}, wire.DescribeArgs, "describe")
    with pytest.raises(WireError, match="not a valid describe"):
        convert({"stream": "a", "rid": "r", "style": 3}, wire.DescribeArgs, "describe")


def test_errors_become_stable_codes_and_no_traceback_leaves():
    assert ErrorBody.of(WireError("x", code="TOO_LARGE")).code == "TOO_LARGE"
    assert ErrorBody.of(VersionError("x")).code == "BAD_VERSION"
    assert ErrorBody.of(RegionError("x")).code == "BAD_SCHEMA"
    assert ErrorBody.of(EngineError("x")).code == "ENGINE"
    assert ErrorBody.of(BundleError("x")).code == "NO_MODEL"
    hidden = ErrorBody.of(RuntimeError("secret path"))
    assert (hidden.code, hidden.msg) == ("INTERNAL", "RuntimeError")
    assert {"BUSY", "ENGINE", "NO_MODEL"} <= wire.ERROR_CODES
