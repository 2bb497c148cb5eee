"""`docs/protocol.md` is enough: a reader in another language, written from that page alone, reads
the golden bytes and what a live node sends, and refuses what we refuse.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from tests.node.test_node_sockets import Running
from ureca.errors import RegionError, WireError
from ureca.protocol import rle, wire
from ureca.protocol.events import WireRle
from ureca.protocol.messagepack import subscription
from ureca.testing import ScriptedEngine, SyntheticSource

HERE = Path(__file__).parent
V = [2, 0]
BEAT = {
    "v": V,
    "ev": "heartbeat",
    "session_id": b"b",
    "event_seq": 1,
    "pub_ns": 1,
    "stream": "",
    "uptime_ms": 1,
}
BEAT |= {"state": "running", "counters": {"frames_in": 3, "drop_busy": 3}, "streams": {}}


def canonical(value: Any) -> Any:
    """Plain data as `decoder.mjs` prints it."""
    if isinstance(value, dict):
        return {"map": [[key, canonical(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, float):
        return {"float": value}
    return {"int": str(value)} if type(value) is int else value


def read_by_node(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js: not proven that docs/protocol.md is enough to write a reader")
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    done = subprocess.run(
        [node, HERE / "decoder.mjs"],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(messages)
    return told


def parts_of(kind: str, parts: Sequence[bytes]) -> dict[str, Any]:
    return {"kind": kind, "parts": [part.hex() for part in parts]}


def assert_same(told: dict[str, Any], topic: bytes, header: bytes) -> None:
    assert "ok" in told, told
    assert told["ok"]["header"] == canonical(msgpack.unpackb(header))
    if topic:
        known = wire.parse_topic(topic)
        assert told["ok"]["topic"] == {
            "node": known.node,
            "stream": known.stream,
            "kind": known.kind,
            "region": known.region,
        }


def test_it_reads_the_golden_bytes() -> None:
    paths = sorted((HERE / "golden").glob("*.hex"))
    assert len(paths) >= 19
    kinds = [path.name.partition("-")[0] for path in paths]
    data = [bytes.fromhex(path.read_text()) for path in paths]
    told = read_by_node([{"kind": k, "hex": d.hex()} for k, d in zip(kinds, data, strict=True)])
    for path, kind, joined, read in zip(paths, kinds, data, told, strict=True):
        end = joined.index(b"\0") + 1 if kind in ("event", "frame") else 0
        unpacker = msgpack.Unpacker()
        unpacker.feed(joined[end:])
        header = msgpack.packb(unpacker.unpack())
        assert_same(read, joined[:end], header)
        assert read["ok"]["payload"] == len(joined) - end - unpacker.tell(), path.name


def captured(running: Running) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """Raw event messages with a start, an end and a heartbeat in them, and raw replies."""
    asks = ["hello", "time", "stats", "health", "config.get", "region.list", "find", "describe"]
    args = {"stream": "cam0", "text": "red"}
    events, replies = [], []
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        with context.socket(zmq.DEALER) as dealer:
            sub.linger = dealer.linger = 0
            sub.subscribe(subscription())
            sub.connect(running.events)
            dealer.connect(running.requests)
            while len(events) < 150:
                assert sub.poll(20_000)
                events.append(sub.recv_multipart())
            for op in (*asks, "snapshot", "nonsense"):
                given = args if op != "describe" else {"stream": "cam0", "rid": "red"}
                ask = {"v": V, "id": os.urandom(4), "op": op, "deadline_ms": 20_000, "args": given}
                dealer.send(msgpack.packb(ask))
                state = ""
                while state not in ("result", "error"):
                    assert dealer.poll(20_000)
                    replies.append(dealer.recv_multipart())
                    state = msgpack.unpackb(replies[-1][0])["status"]
    return events, replies


def test_it_reads_what_a_live_node_sends(tmp_path: Path) -> None:
    running = Running(str(tmp_path), ScriptedEngine())
    try:
        events, replies = captured(running)
    finally:
        running.check()
    messages = [parts_of("event", event) for event in events]
    messages += [parts_of("reply", reply) for reply in replies]
    told = read_by_node(messages)
    for event, read in zip(events, told, strict=False):
        assert_same(read, *event)
    for reply, read in zip(replies, told[len(events) :], strict=True):
        assert_same(read, b"", *reply)
    read = [dict(one["ok"]["header"]["map"]) for one in told[: len(events)]]
    assert {"track.new", "track.update", "caption.final", "heartbeat"} <= {
        one["ev"] for one in read
    }
    numbers = [int(one["event_seq"]["int"]) for one in read]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # its gaps are real gaps
    assert all(one["ok"].get("balanced", True) for one in told[: len(events)])
    assert any("balanced" in one["ok"] for one in told)
    masks = [one["ok"]["mask"] for one in told if "mask" in one["ok"]]
    finals = [msgpack.unpackb(event[1]) for event in events]
    pixels = [pixels_of(one["mask"]) for one in finals if one.get("mask")]
    assert [mask["pixels"] for mask in masks] == pixels
    assert told[-len(replies)]["ok"]["header"]["map"]
    snapshot = next(one["ok"]["events"] for one in told if one["ok"].get("events"))
    assert snapshot == 6


def wire_rle(plain: dict[str, Any]) -> WireRle:
    return WireRle(size=tuple(plain["size"]), counts=plain["counts"])


def pixels_of(plain: dict[str, Any]) -> int | None:
    """None for a mask that is refused; an empty one is no region."""
    try:
        return int(rle.decode(wire.from_wire_rle(wire_rle(plain))).sum()) or None
    except (RegionError, WireError):
        return None


def packed(**changes: Any) -> bytes:
    return msgpack.packb({**BEAT, **changes})


TOPIC = b"ureca2/n/_/heartbeat\0"
BAD_EVENTS: dict[str, list[bytes]] = {
    "major in topic": [b"ureca1/n/_/heartbeat\0", packed()],
    "major in header": [TOPIC, packed(v=[1, 0])],
    "no version": [TOPIC, packed(v=None)],
    "no NUL": [b"ureca2/n/_/heartbeat", packed()],
    "capitals": [b"ureca2/N/_/heartbeat\0", packed()],
    "another kind": [b"ureca2/n/_/recording\0", packed()],
    "another stream": [TOPIC, packed(stream="cam1")],
    "no map": [TOPIC, msgpack.packb([1, 2])],
    "twice a key": [TOPIC, b"\x82\xa1v\x01\xa1v\x01"],
    "a key that is no text": [TOPIC, b"\x81\x01\x01"],
    "an extension": [TOPIC, packed(uptime_ms=msgpack.ExtType(5, b"x"))],
    "a timestamp": [TOPIC, packed(uptime_ms=msgpack.Timestamp(5))],
    "not finite": [TOPIC, packed(streams={"cam1": {"fps": math.inf}})],
    "not a number": [TOPIC, packed(streams={"cam1": {"fps": math.nan}})],
    "cut short": [TOPIC, packed()[:-3]],
    "more than one": [TOPIC, packed() + b"\x01"],
    "no UTF-8": [TOPIC, packed(model=b"\xff\xfe").replace(b"\xc4\x02\xff", b"\xd9\x02\xff")],
    "header too long": [TOPIC, packed(model="x" * (1 << 20))],
    "empty": [TOPIC, b""],
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_our_own_reader_refuses(name: str) -> None:
    with pytest.raises(WireError):
        wire.decode_event(BAD_EVENTS[name])


def test_it_refuses_with_the_same_codes() -> None:
    told = read_by_node([parts_of("event", parts) for parts in BAD_EVENTS.values()])
    for (name, parts), one in zip(BAD_EVENTS.items(), told, strict=True):
        with pytest.raises(WireError) as caught:
            wire.decode_event(parts)
        assert (name, one.get("error")) == (name, caught.value.code)


def test_words_and_keys_of_a_later_minor_version_are_read() -> None:
    header = packed(v=[2, 9], state="dreaming", mood={"of": "the day"})
    (told,) = read_by_node([parts_of("event", [TOPIC, header])])
    assert dict(told["ok"]["header"]["map"])["state"] == "unknown"
    assert wire.decode_event([TOPIC, header]).state == "unknown"  # type: ignore[union-attr]


def test_masks_of_frames_are_judged_alike(rng: np.random.Generator) -> None:
    """What the page says of the mask code: random masks, and codes that were damaged."""
    frame = SyntheticSource().frame(0)
    height, width = frame.height, frame.width
    masks = [rng.random((height, width)) < share for share in (0.001, 0.02, 0.5, 0.98)]
    codes = [rle.encode(mask).counts for mask in masks]
    for code in codes[:]:
        for _ in range(10):
            at = int(rng.integers(len(code)))
            codes.append(code[:at] + chr(int(rng.integers(40, 120))) + code[at + 1 :])
    regions = [{"mask": {"size": [height, width], "counts": code}} for code in codes]
    header = {
        "v": V,
        "src": "cam0",
        "session_id": b"b" * 16,
        "seq": 1,
        "captured_ns": 1,
        "clk": "mono",
    }
    header |= {
        "capture_source": "driver",
        "enc": "rgb8",
        "w": width,
        "h": height,
        "regions": regions,
    }
    parts = [b"ureca2/n/cam0/frame\0", msgpack.packb(header), frame.image.tobytes()]
    (told,) = read_by_node([parts_of("frame", parts)])
    ours = [pixels_of({"size": [height, width], "counts": code}) for code in codes]
    assert [mask.get("pixels") for mask in told["ok"]["masks"]] == ours
    assert None in ours
    assert sum(pixels is not None for pixels in ours) >= 4
