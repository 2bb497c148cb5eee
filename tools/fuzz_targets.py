"""What strangers' bytes are read by, and how such bytes are made: shared by `tools/fuzz.py` and the
short run in the tests.

A target takes one byte string; parts of a message are joined by `SEPARATOR`. It returns for every
input, or lets something out that is no documented error: then it has found a fault.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np

from tools.attacks.fuzz_files import FILE_TARGETS, file_seeds
from ureca.client.shared import snapshot_events, typed
from ureca.datatypes import Image, RegionSeed, Rle
from ureca.errors import RegionError, SourceError, WireError
from ureca.protocol import rle, wire
from ureca.protocol.flow_control import (
    CreditAsk,
    CreditGrant,
    decode_ask,
    decode_grant,
    encode_credit,
)
from ureca.protocol.image_header import first_picture, measure, picture_size
from ureca.protocol.messagepack import convert
from ureca.protocol.operations import OPERATIONS
from ureca.protocol.request_codec import salvage_request_id
from ureca.security.keys import ROLES, parse_allow_list
from ureca.testing import SyntheticSource

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests" / "fuzz_seeds"
SEPARATOR = b"\xf5\xf6\xf7\xf8"  # never valid UTF-8, and no MessagePack that we write
MAX_INPUT = 1 << 14
_MAX_FUZZED_PX = 1 << 18


def _event(data: bytes) -> None:
    """What is read as an event can be written again and is then the same."""
    parts = data.split(SEPARATOR)
    event = wire.decode_event(parts)
    node = wire.parse_topic(parts[0]).node
    assert wire.decode_event(wire.encode_event(event, node)) == event


def _frame(data: bytes) -> None:
    frame = wire.decode_frame(data.split(SEPARATOR), _pixels, received_ns=0)
    assert frame.image.shape == (frame.height, frame.width, 3)
    for seed in (*(frame.regions or ()), *frame.prompts):
        _mask_of(seed, frame.width, frame.height)


def _pixels(_: bytes, header: wire.FrameHeader) -> Image:
    """Stands for a codec: the pictures of the fuzzer are not what is tried here."""
    if header.w * header.h > _MAX_FUZZED_PX:
        raise SourceError("too large for the fuzzer")
    return np.zeros((header.h, header.w, 3), np.uint8)


def _request(data: bytes) -> None:
    request, _ = wire.decode_request(data.split(SEPARATOR))
    args = convert(request.args, OPERATIONS[request.op].args, request.op)
    region = getattr(args, "region", None)
    if isinstance(region, wire.WireRegion):
        _mask_of(region.seed(640, 480), 640, 480)


def _salvage(data: bytes) -> None:
    """The id of whatever it is, or none."""
    found = salvage_request_id(data.split(SEPARATOR))
    assert found is None or 1 <= len(found) <= 16


def _reply(data: bytes) -> None:
    reply = wire.decode_reply(data.split(SEPARATOR))
    if reply.terminal and reply.error is None:
        for kind in (wire.Hello, wire.Health, wire.Description):
            with contextlib.suppress(WireError):
                typed(reply.result, kind)
        snapshot_events(reply.result)


def _mask_of(seed: RegionSeed, width: int, height: int) -> None:
    """A mask that passed the checks decodes to the picture's size, or is refused."""
    if seed.mask is not None and width * height <= _MAX_FUZZED_PX:
        assert rle.decode(seed.mask).shape == (height, width)


def _rle(data: bytes) -> None:
    """What decodes, encodes to a code of the same mask."""
    size, code = data[:4], data[4:]
    height, width = (int.from_bytes(size[i : i + 2], "big", signed=True) for i in (0, 2))
    found = Rle(size=(height, width), counts=code.decode("latin-1"))
    mask = rle.decode(found, max_pixels=_MAX_FUZZED_PX)
    assert mask.shape == (height, width)
    assert np.array_equal(rle.decode(rle.encode(mask)), mask)


def _topic(data: bytes) -> None:
    assert wire.parse_topic(data).encode() == data


def _picture(data: bytes) -> None:
    for enc in ("jpeg", "png"):
        with contextlib.suppress(WireError):
            width, height = picture_size(data, enc)  # type: ignore[arg-type]
            assert width >= 0
            assert height >= 0
    with contextlib.suppress(WireError):
        assert len(first_picture(data, measure(data))) <= len(data)


def _credit(data: bytes) -> None:
    for decode in (decode_ask, decode_grant):
        with contextlib.suppress(WireError):
            decode(data.split(SEPARATOR))


def _allow(data: bytes) -> None:
    entries = parse_allow_list(data.decode("utf-8", "replace"), on_error=lambda why: None)  # noqa: ARG005
    assert all(role in ROLES and len(key) == 40 for key, (role, _) in entries.items())


Target = Callable[[bytes], None]
TARGETS: dict[str, tuple[Target, tuple[type[Exception], ...]]] = {
    "event": (_event, (WireError,)),
    "frame": (_frame, (WireError,)),
    "request": (_request, (WireError, RegionError)),
    "reply": (_reply, (WireError,)),
    "rle": (_rle, (RegionError,)),
    "topic": (_topic, (WireError,)),
    "picture": (_picture, ()),
    "credit": (_credit, ()),
    "allow": (_allow, ()),
    "salvage": (_salvage, ()),
    **FILE_TARGETS,
}
"""Each with the errors that its documentation promises, and that are therefore no finding."""


def run(name: str, data: bytes) -> None:
    """Feed one input to a target; whatever it raises is a fault."""
    target, promised = TARGETS[name]
    with contextlib.suppress(*promised):
        target(data)


# --- where mutations start ------------------------------------------------------------------------


def seeds(name: str) -> list[bytes]:
    """Messages of ours (the golden ones among them), and what earlier runs found worth keeping."""
    kept = SEEDS / f"{name}.hex"
    found = [bytes.fromhex(line) for line in kept.read_text().split()] if kept.exists() else []
    return [*_built(name), *found]


def _built(name: str) -> Iterator[bytes]:
    yield from file_seeds(name)
    golden = "request" if name == "salvage" else name
    if golden in ("event", "frame", "request", "reply"):
        for path in sorted((ROOT / "tests" / "contract" / "golden").glob(f"{golden}-*.hex")):
            yield _parted(golden, bytes.fromhex(path.read_text()))
    if name == "frame":
        yield from _frames()
    elif name == "rle":
        yield from (_code(seq, side) for seq in range(4) for side in (1, 2, 7, 48))
    elif name == "topic":
        for kind in ("track", "caption", "delta", "heartbeat", "frame"):
            yield wire.Topic("node", "cam0", kind, "r1" if kind == "caption" else None).encode()
    elif name == "picture":
        yield b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") * 2
        yield bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0000b080010002001011100")
    elif name == "credit":
        yield encode_credit(CreditAsk(src="cam0", session_id=b"b" * 16, sent=3))[0]
        yield encode_credit(CreditGrant(session_id=b"b" * 16, upto=3))[0]
    elif name == "allow":
        yield f"# note\nadmin {'a' * 40} me\nobserve {'b' * 40} you\n".encode()


def _parted(name: str, data: bytes) -> bytes:
    """Golden files hold the parts one after the other; a topic ends at its NUL, a header where its
    map does.
    """
    start = data.index(b"\0") + 1 if name in ("event", "frame") else 0
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[start:])
    unpacker.skip()
    end = start + unpacker.tell()
    return SEPARATOR.join(part for part in (data[:start], data[start:end], data[end:]) if part)


def _frames() -> Iterator[bytes]:
    prompt = RegionSeed(point_xy_px=(3.0, 4.0))
    frame = SyntheticSource(width_px=16, height_px=12, things=3).frame(0)
    frame = replace(frame, prompts=(prompt,))
    for enc, pixels in (
        ("rgb8", frame.image.tobytes()),
        ("mono8", bytes(192)),
        ("nv12", bytes(288)),
    ):
        header = wire.FrameHeader.of(frame, enc)  # type: ignore[arg-type]
        yield SEPARATOR.join(wire.encode_frame(header, pixels, "camera"))


def _code(seq: int, side: int) -> bytes:
    mask = next(iter(SyntheticSource(width_px=64, height_px=48).masks(seq).values()))
    found = rle.encode(mask[:side, :side])
    sides = b"".join(side.to_bytes(2, "big") for side in found.size)
    return sides + found.counts.encode("latin-1")


# --- mutation -------------------------------------------------------------------------------------

_WORTH_TRYING: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -0.0, 1e308, float("nan"),
    float("inf"), "", "_", "a" * 64, "a" * 65, "\0", "é", "\ud7ff", b"", b"x" * 16, b"x" * 17, [],
    {}, [[]], [1, 0], [7, 0], [1, 0, 0], {"size": [1, 1], "counts": "1"},
    {"size": [0, 0], "counts": ""},
)  # fmt: skip


def mutate(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """Another input like `data`: bytes changed blindly, or one value inside its map."""
    parts = data.split(SEPARATOR)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        # mostly what is behind the topic: a message under a broken one is not looked into
        place = draw.randrange(len(parts)) if draw.random() < 0.2 else min(1, len(parts) - 1)
        changed = _restructured(parts[place], draw) if draw.random() < 0.8 else None
        parts[place] = changed or _scrambled(parts[place], draw, others)
    if draw.random() < 0.02:
        parts.append(draw.choice(parts))
    return SEPARATOR.join(parts)[:MAX_INPUT]


def _scrambled(part: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    data = bytearray(part)
    place = draw.randint(0, len(data))
    how = draw.randrange(6)
    if how == 0 and data:
        data[place % len(data)] ^= 1 << draw.randrange(8)
    elif how == 1 and data:
        data[place % len(data)] = draw.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC7, 0xDF, 0xFF, 48, 111))
    elif how == 2:
        data[place:place] = draw.randbytes(draw.randint(1, 8))
    elif how == 3:
        del data[place : place + draw.randint(1, 16)]
    elif how == 4:
        data[place:place] = data[place : place + draw.randint(1, 32)]
    else:
        other = draw.choice(others) if others else b""
        data[place:] = other[draw.randint(0, len(other)) :]
    return bytes(data)


def _restructured(part: bytes, draw: random.Random) -> bytes | None:
    """The same map with one value changed somewhere in its depth; None where there is no map."""
    try:
        root = msgspec.msgpack.decode(part)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    place = root
    for _ in range(8):
        keys = (
            list(place)
            if isinstance(place, dict)
            else list(range(len(place)))
            if isinstance(place, list)
            else []
        )
        if not keys:
            return None
        key = draw.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.3:
            _edit(place, key, draw)
            break
        place = place[key]
    try:
        return msgspec.msgpack.encode(root)
    except (ValueError, TypeError, OverflowError, RecursionError, UnicodeEncodeError):
        return None


def _edit(place: Any, key: Any, draw: random.Random) -> None:  # a map or list of anything
    how = draw.randrange(4)
    if how == 0:
        del place[key]
    elif how == 1 and isinstance(place[key], int | float):
        place[key] += draw.choice((-1, 1, 256, -(2**16), 2**32))
    elif how == 2 and isinstance(place, list):
        place.extend(place[: draw.randint(1, 64)])
    else:
        place[key] = draw.choice(_WORTH_TRYING)
