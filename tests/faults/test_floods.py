"""Floods of messages, subscriptions and half messages: how much work and memory they may cost."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from tests.faults import raw_zmtp
from tests.node.test_node_sockets import Running, start  # noqa: F401  (a fixture)
from tests.node.test_publisher import CUP, LAST
from ureca.client.sockets import harden, received, received_frames
from ureca.clock import ManualClock
from ureca.datatypes import Image
from ureca.errors import RequestError, UrecaError, WireError
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.publishing.publisher import MAX_SUBSCRIPTIONS_A_TURN, Publisher
from ureca.node.publishing.socket_thread import TurnBudget
from ureca.node.requests.attached_pictures import AttachedPicture, PictureQueue
from ureca.protocol.messagepack import LIMITS, unpack
from ureca.protocol.request_codec import decode_request, salvage_request_id
from ureca.protocol.requests import PictureSpec
from ureca.security.link_guard import CHECK_NS, LinkGuard

MIB = 1 << 20
DEADLINE_S = 20.0


# --- one turn -----------------------------------------------------------------------------------


def test_a_turn_does_so_many_items() -> None:
    assert len(list(TurnBudget(ManualClock(), items=7, time_ns=1000))) == 7


def test_a_turn_ends_when_its_time_is_over_but_does_something() -> None:
    clock = ManualClock()
    done = []
    for item in TurnBudget(clock, items=100, time_ns=1000):
        done.append(item)
        clock.advance(ns=400)
    assert done == [0, 1, 2]
    assert list(TurnBudget(clock, items=100, time_ns=0)) == [0]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with zmq.Context() as context:
        made = Publisher(
            context,
            PublishConfig(events="tcp://127.0.0.1:*"),
            max_regions=8,
            session_id=bytes(16),
            clock=ManualClock(10**9),
            counters=NodeCounters(),
        )
        with contextlib.closing(made):
            yield made


def port_of(socket_: zmq.Socket[bytes]) -> int:
    return int(socket_.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


@pytest.mark.parametrize("message", [b"zz", b"\x01ureca2/x", b""])
def test_a_flood_of_subscriptions_is_read_in_pieces(publisher: Publisher, message: bytes) -> None:
    """Also what is no subscription: an XSUB may send any bytes."""
    link = raw_zmtp.handshake(port_of(publisher.socket), b"XSUB")
    with link, zmq.Context() as context, context.socket(zmq.SUB) as honest:
        honest.subscribe(b"ureca2/")
        honest.connect(publisher.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        link.sendall(raw_zmtp.part(message) * 20 * MAX_SUBSCRIPTIONS_A_TURN)
        assert publisher.socket.poll(DEADLINE_S * 1e3)
        heard, deadline = 0, time.monotonic() + DEADLINE_S
        turns = 0
        while (turns < 2 or not heard) and time.monotonic() < deadline:
            turns += publisher.replay_last_values()
            publisher.publish(LAST)
            heard += received(honest) is not None
        assert heard, "events go out between the pieces"
        assert turns >= 2, "and no turn reads everything"


def test_a_subscription_as_long_as_a_picture_is_cut(publisher: Publisher) -> None:
    link = raw_zmtp.handshake(port_of(publisher.socket), b"SUB")
    with link, contextlib.suppress(OSError):
        link.sendall(raw_zmtp.part(b"\x01" + bytes(4096)))
        assert raw_zmtp.is_cut(link)


# --- what libzmq holds --------------------------------------------------------------------------


class Hall:
    """A ROUTER on TCP with its guard, read like the node's."""

    def __init__(self, **bounds: int) -> None:
        self.clock = ManualClock(10**9)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        harden(self.router)
        self.router.bind("tcp://127.0.0.1:*")
        self.guard = LinkGuard("requests", self.clock, **bounds)
        self.guard.watch(self.router)
        self.port = port_of(self.router)

    def read(self) -> int:
        """Everything that has come whole; how many messages."""
        count = 0
        while (message := received_frames(self.router, 3)) is not None:
            self.guard.delivered(message[1], message[2])
            count += 1
        return count

    def looks(self) -> None:
        """One look of the guard, a second later."""
        self.clock.advance(ns=20 * CHECK_NS)
        self.guard.check()

    def cuts(self, count: int) -> bool:
        """Look until so many connections are cut."""
        deadline = time.monotonic() + DEADLINE_S
        while self.guard.cut < count and time.monotonic() < deadline:
            self.read()
            self.looks()
        return self.guard.cut >= count

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def hall() -> Iterator[Hall]:
    made = Hall(max_held_bytes=4 * MIB, max_unheard_bytes=2 * MIB)
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def honest_client(hall: Hall) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"tcp://127.0.0.1:{hall.port}")
        for size in (1, *[MIB // 8] * 50):  # more in all than may be held
            dealer.send(bytes(size))
            assert hall.router.poll(DEADLINE_S * 1e3)
            assert hall.read() == 1
            hall.looks()
        yield dealer
        dealer.send(b"still here")
        deadline = time.monotonic() + DEADLINE_S
        while not hall.read() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() < deadline, "the honest client was cut as well"


def test_a_message_without_an_end_costs_its_sender_the_connection(hall: Hall) -> None:
    with honest_client(hall), raw_zmtp.handshake(hall.port, b"DEALER") as link:
        for _ in range(5):
            link.sendall(raw_zmtp.part(bytes(MIB), more=True))
        assert hall.cuts(1)
        assert raw_zmtp.is_cut(link)


def test_parts_that_are_never_whole_are_bounded_together(hall: Hall) -> None:
    """Each connection alone is within the bound; the largest go first."""
    with honest_client(hall), contextlib.ExitStack() as stack:
        links = [stack.enter_context(raw_zmtp.handshake(hall.port, b"DEALER")) for _ in range(6)]
        for link in links:
            link.sendall(raw_zmtp.part(b"hello"))
            link.sendall(raw_zmtp.part(bytes(2 * MIB))[: MIB + 9])
        assert hall.cuts(2), hall.guard.cut


def test_handshakes_without_an_end_have_a_smaller_bound(hall: Hall) -> None:
    with honest_client(hall), contextlib.ExitStack() as stack:
        links = [stack.enter_context(raw_zmtp.connect(hall.port)) for _ in range(4)]
        for link in links:
            link.sendall(raw_zmtp.greeting(b"CURVE") + raw_zmtp.unfinished_command(60 * MIB))
        deadline = time.monotonic() + DEADLINE_S
        with contextlib.suppress(OSError):  # libzmq itself may refuse the mechanism first
            for link in links:
                link.sendall(bytes(MIB))
        while hall.guard.cut < 2 and time.monotonic() < deadline and links:
            hall.looks()
            links = [link for link in links if is_open(link)]
        assert hall.guard.cut >= 2 or not links


def is_open(link: socket.socket) -> bool:
    link.settimeout(0.01)
    try:
        return bool(link.recv(1 << 16))
    except TimeoutError:
        return True
    except OSError:
        return False


def test_a_flood_of_whole_messages_is_cut_where_that_is_wanted() -> None:
    with contextlib.closing(Hall(max_held_bytes=64 * MIB, max_messages_per_s=100)) as hall:
        with raw_zmtp.handshake(hall.port, b"DEALER") as link:
            link.sendall(raw_zmtp.part(b"x") * 1000)
            assert hall.cuts(1)
            assert raw_zmtp.is_cut(link)


def test_the_first_picture_of_a_camera_may_be_large(hall: Hall) -> None:
    """A node that connects out has no strangers on that link."""
    guard = LinkGuard("pictures", hall.clock, max_held_bytes=4 * MIB)
    with zmq.Context() as context, context.socket(zmq.DEALER) as reader:
        reader.linger = 0
        reader.connect(f"tcp://127.0.0.1:{hall.port}")
        guard.watch(reader, bound=False)
        reader.send(b"me")
        assert hall.router.poll(DEADLINE_S * 1e3)
        name = hall.router.recv_multipart()[0]
        for size in (3 * MIB, 1):
            hall.router.send_multipart([name, bytes(size)])
            hall.clock.advance(ns=20 * CHECK_NS)
            guard.check()
        for _ in range(2):
            assert reader.poll(DEADLINE_S * 1e3)
            _, last, size = received_frames(reader, 1) or ([], zmq.Frame(b""), 0)
            guard.delivered(last, size)
        guard.check()
        assert guard.cut == 0
        for _ in range(6):  # nobody reads: now it holds too much
            hall.router.send_multipart([name, bytes(MIB)])
        deadline = time.monotonic() + DEADLINE_S
        while guard.cut == 0 and time.monotonic() < deadline:
            hall.clock.advance(ns=20 * CHECK_NS)
            guard.check()
        assert guard.cut == 1


def test_a_guard_of_ipc_measures_nothing(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/x")
        guard = LinkGuard("requests", ManualClock(), max_held_bytes=0)
        guard.watch(router)
        guard.check()
        assert guard.counters() == {}


# --- sockets that cannot be bound again ---------------------------------------------------------


def test_an_address_that_somebody_took_is_tried_again_until_it_is_free(tmp_path: Path) -> None:
    clock, counters = ManualClock(10**9), NodeCounters()
    address = f"ipc://{tmp_path}/events"
    with zmq.Context() as context:
        publisher = Publisher(
            context,
            PublishConfig(events=address),
            max_regions=8,
            session_id=bytes(16),
            clock=clock,
            counters=counters,
        )
        with contextlib.closing(publisher):
            publisher.close_connections()
            # A folder in its place: nothing can be bound there.
            Path(address.removeprefix("ipc://")).unlink(missing_ok=True)
            Path(address.removeprefix("ipc://")).mkdir()
            for _ in range(200):
                assert not publisher.bind_again()
                assert not publisher.replay_last_values()
                publisher.publish(CUP)
                clock.advance(ms=20)
            assert publisher.reasons()[0].startswith("events: a socket cannot be bound again")
            assert counters.balance().events_dropped == 200
            Path(address.removeprefix("ipc://")).rmdir()
            deadline = time.monotonic() + DEADLINE_S
            while not publisher.bind_again() and time.monotonic() < deadline:
                clock.advance(ms=1000)
                time.sleep(0.01)
            assert publisher.reasons() == ()
            publisher.publish(LAST)
            assert counters.balance().events_dropped == 200


# --- headers of requests ------------------------------------------------------------------------


def request_with(args: bytes) -> bytes:
    """A request whose `args` are these bytes of MessagePack."""
    head = {"v": [2, 0], "id": b"abcd", "op": "hello", "deadline_ms": 1000}
    packed = b"".join(msgpack.packb(one) for pair in head.items() for one in pair)
    return b"\x85" + packed + msgpack.packb("args") + args


def many(item: bytes, count: int) -> bytes:
    return b"\xdc" + count.to_bytes(2, "big") + item * count


@pytest.mark.parametrize(
    "args",
    [
        b"\x81\xa1x" + many(many(b"\x80", 4096), 10),  # empty maps
        b"\x81\xa1x" + many(many(b"\x90", 4096), 10),  # empty lists
        b"\x81\xa1x" + many(many(b"\xc0", 4096), 10),  # nothing at all
        b"\x81\xa1x" + many(b"\xc4\xff" + bytes(255), 400),  # too long
    ],
)
def test_a_request_of_many_items_is_refused_and_its_sender_told(args: bytes) -> None:
    header = request_with(args)
    with pytest.raises(WireError) as caught:
        decode_request([header])
    assert caught.value.code == "TOO_LARGE"
    assert salvage_request_id([header]) == b"abcd"


def test_a_picture_goes_with_describe_alone(start) -> None:  # noqa: F811
    """Megabytes with a `hello` are a flood: they are refused, and count against their sender."""
    running: Running = start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(running.requests)
        dealer.send_multipart([request_with(b"\x80"), bytes(100)])
        assert dealer.poll(DEADLINE_S * 1e3)
        answer = msgpack.unpackb(dealer.recv())
    assert answer["error"]["code"] == "BAD_SCHEMA"
    assert answer["id"] == b"abcd"


def test_salvage_reads_no_values_but_the_id() -> None:
    deep = request_with(b"\x81\xa1x" * 20_000 + b"\x80")
    assert salvage_request_id([deep]) == b"abcd"
    assert salvage_request_id([b"\x81\xa1x" + b"\x91" * 60_000]) is None
    assert salvage_request_id([os.urandom(64)]) in (None, b"")
    assert salvage_request_id([]) is None


def test_headers_of_frames_may_be_longer_but_are_counted_too() -> None:
    header = b"\x81\xa1x" + many(many(b"\x80", 4096), 200)
    with pytest.raises(WireError, match="at most 131072 items"):
        unpack(header)
    assert len(header) < LIMITS.max_header_bytes


# --- pictures of requests -----------------------------------------------------------------------


class Decoding:
    """Stands for a decoder: holds on to the first picture until it is told to go on."""

    def __init__(self) -> None:
        self.count = 0
        self.started, self.go = socket.socketpair()

    def __call__(self, data: bytes, *, max_px: int) -> Image:
        self.count += 1
        self.go.send(b"1")
        self.go.settimeout(DEADLINE_S)
        self.go.recv(1)
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        self.started.close()
        self.go.close()


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (8).to_bytes(4, "big") * 2 + bytes(16)


def test_pictures_are_refused_by_queue_and_deadline_before_they_are_decoded() -> None:
    clock, decode = ManualClock(10**9), Decoding()
    pictures = PictureQueue(decode, clock, limit=2, max_px=100)  # type: ignore[arg-type]
    taken: list[Image] = []
    failed: list[UrecaError] = []

    def picture(number: int) -> AttachedPicture:
        spec, key = PictureSpec(enc="png", w=8, h=8), (b"me", bytes([number]))
        return AttachedPicture(spec, PNG, 2 * 10**9, key, taken.append, failed.append)

    with contextlib.closing(decode), contextlib.closing(pictures):
        pictures.put(picture(0))
        decode.started.settimeout(DEADLINE_S)
        decode.started.recv(1)
        pictures.put(picture(1))
        pictures.put(picture(2))
        with pytest.raises(RequestError) as caught:
            pictures.put(picture(3))
        assert caught.value.code == "BUSY"
        assert pictures.cancel((b"me", b"\x02"))
        assert not pictures.cancel((b"you", b"\x01"))
        clock.advance(ms=5000)
        decode.started.send(b"1")
        deadline = time.monotonic() + DEADLINE_S
        while len(failed) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(taken) == 1
        assert [getattr(error, "code", "") for error in failed] == ["GONE", "DEADLINE"]
        assert decode.count == 1
