"""Raw pixels in shared memory: exact, never torn, never left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.node.inputs_rig import picture, until
from ureca.client.frame_publisher import FramePublisher
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame
from ureca.errors import WireError
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.frame_receiver import FrameReceiver
from ureca.protocol import wire
from ureca.protocol.frames import FrameHeader, decode_frame, encode_frame
from ureca.protocol.shared_memory import (
    PREFIX,
    SHARED_FOLDER,
    RingReader,
    RingWriter,
    SharedPixels,
    remove_dead,
)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[tuple[RingWriter, RingReader]]:
    writer, reader = RingWriter(slots=4, folder=tmp_path), RingReader(folder=tmp_path)
    yield writer, reader
    writer.close()
    reader.close()
    assert not list(tmp_path.iterdir())


Pair = tuple[RingWriter, RingReader]


def test_what_is_written_is_read_until_its_slot_is_used_again(ring: Pair) -> None:
    writer, reader = ring
    images = [picture(number) for number in range(9)]
    places = [writer.write(image) for image in images]
    for place, image in list(zip(places, images, strict=True))[-4:]:
        assert np.array_equal(reader.read(place, image.nbytes), image.reshape(-1))
    for place, image in list(zip(places, images, strict=True))[:-4]:
        with pytest.raises(WireError, match="used again") as caught:
            reader.read(place, image.nbytes)
        assert caught.value.code == "STALE_FRAME"


def test_a_larger_picture_gets_a_ring_of_its_own(ring: Pair) -> None:
    writer, reader = ring
    small = writer.write(np.zeros(10, np.uint8))
    large = writer.write(np.full(1 << 20, 7, np.uint8))
    assert reader.read(large, 1 << 20).min() == 7
    with pytest.raises(WireError) as caught:
        reader.read(small, 10)
    assert caught.value.code == "GONE"


def test_pixels_are_never_torn(ring: Pair) -> None:
    """A writer that laps its reader all the time: what is given out is one picture, or nothing."""
    writer, reader = ring
    size, stop, place, stale, good = 1 << 22, threading.Event(), [], 0, 0
    place.append((writer.write(np.zeros(size, np.uint8)), 0))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 251
            shared = writer.write(np.full(size, number, np.uint8))
            place[0] = (shared, number)

    thread = threading.Thread(target=write, name="writer")
    thread.start()
    until_s = time.monotonic() + 20
    try:
        while time.monotonic() < until_s and (stale < 20 or good < 20):
            shared, number = place[0]
            if good >= 20:  # be late: just before, or while, the slot is written again
                time.sleep(0.001 * (stale % 5))
            try:
                pixels = reader.read(shared, size)
            except WireError as error:
                assert error.code == "STALE_FRAME"  # noqa: PT017
                stale += 1
                continue
            assert pixels.min() == pixels.max() == number
            good += 1
    finally:
        stop.set()
        thread.join()
    assert good >= 20


@pytest.mark.parametrize("cut", ["before", "during"])
def test_a_slot_that_is_being_written_is_not_given_out(tmp_path: Path, cut: str) -> None:
    """The generation is looked at on both sides of the copy: here it changes in the middle."""
    writer = RingWriter(slots=2, folder=tmp_path)
    shared = writer.write(np.full(1 << 16, 5, np.uint8))
    path = tmp_path / shared.name

    class Overtaken(RingReader):
        """A reader that is overtaken between its two looks."""

        looks = 0

        def _check_generation(self, *args: object) -> None:
            self.looks += 1
            if self.looks == (1 if cut == "before" else 2):
                with path.open("r+b") as file:
                    file.seek(4096)
                    file.write((shared.gen + 1).to_bytes(8, "little"))
            super()._check_generation(*args)  # type: ignore[arg-type]

    reader = Overtaken(folder=tmp_path)
    with pytest.raises(WireError, match="used again"):
        reader.read(shared, 1 << 16)
    assert reader.looks == (1 if cut == "before" else 2)
    writer.close()
    reader.close()


def test_nothing_but_a_ring_is_read(tmp_path: Path) -> None:
    reader = RingReader(folder=tmp_path)
    (tmp_path / "secret").write_bytes(bytes(9999))
    (tmp_path / f"{PREFIX}plain").write_bytes(bytes(9999))
    (tmp_path / f"{PREFIX}short").write_bytes(b"ureca-ring-1")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "secret")
    (tmp_path / f"{PREFIX}folder").mkdir()
    names = ["secret", "../secret", f"{PREFIX}../secret", "", "a" * 65]
    names += [f"{PREFIX}{end}" for end in ("plain", "short", "link", "folder", "none")]
    for name in names:
        with pytest.raises(WireError):
            reader.read(SharedPixels(name=name, slot=0, gen=2), 10)
    reader.close()
    assert (tmp_path / "secret").exists()


def test_a_ring_that_is_cut_ends_nothing(ring: Pair, tmp_path: Path) -> None:
    writer, reader = ring
    shared = writer.write(np.zeros(1 << 20, np.uint8))
    reader.read(shared, 1 << 20)
    os.truncate(tmp_path / shared.name, 10_000)  # a mapping would die of this
    with pytest.raises(WireError, match="cut"):
        reader.read(shared, 1 << 20)
    for where, size in ((SharedPixels(name=shared.name, slot=63, gen=2), 1), (shared, 1 << 40)):
        with pytest.raises(WireError, match="slots"):
            reader.read(where, size)


def test_full_shared_memory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    writer = RingWriter(folder=tmp_path / "missing")
    with pytest.raises(WireError, match="without --shm"):
        writer.write(np.zeros(10, np.uint8))
    writer.close()


def test_only_rings_of_dead_writers_are_removed(tmp_path: Path) -> None:
    writer = RingWriter(folder=tmp_path)
    shared = writer.write(np.zeros(10, np.uint8))
    left = tmp_path / f"{PREFIX}1-dead"
    left.write_bytes(bytes(10))
    half_made = tmp_path / f".{PREFIX}2-now"
    half_made.write_bytes(b"")
    assert remove_dead(tmp_path) == [left.name]
    assert (tmp_path / shared.name).exists()
    os.utime(half_made, (1, 1))
    assert remove_dead(tmp_path) == [half_made.name]
    writer.close()
    assert not list(tmp_path.iterdir())


# --- on the wire ----------------------------------------------------------------------------------


def message(writer: RingWriter, **changes: object) -> list[bytes]:
    frame = Frame("cam0", bytes(16), 0, time.monotonic_ns(), picture(1))
    header = FrameHeader.of(frame, "rgb8", shm=writer.write(frame.image))
    fields = {key: getattr(header, key) for key in header.__struct_fields__} | changes
    return encode_frame(FrameHeader(**fields), b"", "camera")  # type: ignore[arg-type]


def none(data: object, header: object) -> None:
    raise AssertionError("nothing to decode")


def test_a_frame_in_shared_memory_is_the_same_picture(ring: Pair) -> None:
    writer, reader = ring
    frame = decode_frame(message(writer), none, received_ns=1, shared=reader.read)  # type: ignore[arg-type]
    assert np.array_equal(frame.image, picture(1))
    assert wire.decode_frame_header(message(writer)).shm is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enc": "jpeg"}, "raw pixels"),
        ({"stride": 1 << 20, "h": 1 << 15, "w": 1}, "slots"),
        ({"enc": "mono8", "stride": 1, "w": 128}, "rows"),
    ],
)
def test_shared_memory_that_cannot_be_the_picture_is_refused(
    ring: Pair, changes: dict[str, object], words: str
) -> None:
    writer, reader = ring
    with pytest.raises(WireError, match=words):
        decode_frame(message(writer, **changes), none, received_ns=1, shared=reader.read)  # type: ignore[arg-type]


def test_another_host_cannot_point_into_our_memory(ring: Pair) -> None:
    receiver = FrameReceiver(
        NodeConfig(), clock=MonotonicClock(), counters=NodeCounters(), is_local=False
    )
    parts = message(ring[0])
    receiver.came(parts[0])
    assert receiver.frame(parts) is None
    with pytest.raises(WireError, match="this host"):
        decode_frame(parts, none, received_ns=1)  # type: ignore[arg-type]
    receiver.close()


def test_a_slot_that_was_used_again_counts_as_superseded() -> None:
    counters = NodeCounters()
    receiver = FrameReceiver(NodeConfig(), clock=MonotonicClock(), counters=counters, is_local=True)
    writer = RingWriter(slots=2)
    parts = [message(writer) for _ in range(3)]
    for each in parts:
        receiver.came(each[0])
    assert [receiver.frame(each) is not None for each in parts] == [False, True, True]
    writer.close()
    gone = RingWriter(slots=2)
    late = message(gone)
    gone.close()
    receiver.came(late[0])
    assert receiver.frame(late) is None
    counters.frame_processed()
    counters.frame_processed()
    assert counters.balance().frames_dropped == {"superseded": 1, "decode_error": 1}
    assert counters.balance().closed
    receiver.close()


def test_a_publisher_gives_its_memory_back(tmp_path: Path) -> None:
    mine = f"{PREFIX}{os.getpid()}-"

    def left() -> list[str]:
        return [path.name for path in SHARED_FOLDER.iterdir() if path.name.startswith(mine)]

    with FramePublisher(f"ipc://{tmp_path}/f", shm=True) as camera:
        camera.send(picture(0))
        assert len(left()) == 1
    until(lambda: not left(), "the ring is deleted")
    with pytest.raises(WireError, match="raw pixels"):
        FramePublisher(f"ipc://{tmp_path}/f", shm=True, encoder=bytes)
