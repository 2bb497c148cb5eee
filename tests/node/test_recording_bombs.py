"""Recordings from strangers: chunks that unpack to more than they say, and endless records."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import pytest

pytest.importorskip("mcap", reason="needs the extra `record`")
zstandard = pytest.importorskip("zstandard", reason="needs the extra `record`")

from ureca.node.recording.reader import read  # noqa: E402  (after the skips)
from ureca.node.recording.recorder import FORMAT, METADATA  # noqa: E402

HEADER, CHUNK, METADATA_KIND = 1, 6, 12


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def one(kind: int, body: bytes) -> bytes:
    """A record of MCAP."""
    return struct.pack("<BQ", kind, len(body)) + body


def head() -> bytes:
    """The beginning of a recording."""
    pairs = text("format") + text(FORMAT)
    about = one(METADATA_KIND, text(METADATA) + struct.pack("<I", len(pairs)) + pairs)
    return b"\x89MCAP0\r\n" + one(HEADER, text("") + text("")) + about


def chunk(data: bytes, size: int, compression: str = "zstd") -> bytes:
    """A record that says that `data` unpacks to `size` bytes."""
    about = struct.pack("<QQQI", 0, 0, size, 0) + text(compression)
    return one(CHUNK, about + struct.pack("<Q", len(data)) + data)


def packed(size: int, piece: bytes = bytes(1 << 20)) -> bytes:
    """`size` bytes in a zstd frame that does not say so in its own head."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(write_content_size=False).stream_writer(out, closefd=False) as to:
        for _ in range(size // len(piece)):
            to.write(piece)
    return out.getvalue()


BOMBS = {
    "no size in the frame": chunk(packed(1 << 28), 100),
    "size in the frame": chunk(zstandard.compress(bytes(1 << 28)), 100),
    "two frames": chunk(zstandard.compress(b"") + zstandard.compress(bytes(1 << 28)), 100),
    "empty records": chunk(packed(1 << 25), 1 << 25),
    "many small records": chunk(packed(9 << 18, struct.pack("<BQ", 3, 0) * (1 << 14)), 9 << 18),
    "a record beyond its chunk": chunk(struct.pack("<BQ", 5, 1 << 40), 9, ""),
    "a chunk that says gigabytes": chunk(packed(1 << 25), 1 << 40),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_chunk_that_lies_is_a_loss_and_costs_little(bomb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.mcap"
    path.write_bytes(head() + bomb)
    tracemalloc.start()
    try:
        found = read(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.loss is not None
    assert "chunk" in found.loss.why
    assert most < 1 << 26
