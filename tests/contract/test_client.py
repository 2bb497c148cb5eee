from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
import zmq

from ureca import AsyncClient, Client, FramePublisher, RegionSeed
from ureca.client.sockets import harden
from ureca.errors import RequestError, VersionError, WireError
from ureca.protocol import wire
from ureca.protocol.events import CaptionFinal

HELLO = {
    "node": "n1",
    "session_id": b"b" * 16,
    "versions": [[2, 0]],
    "ops": ["hello"],
    "streams": ["cam1"],
    "clk": "mono",
    "model": "scripted",
    "bundle_sha": "",
    "precision": "none",
}


class FakeNode:
    """The node's two sockets: publishes when a subscriber appears, answers by table."""

    def __init__(self, messages, answers):
        self._messages, self._answers = messages, answers
        self._context = zmq.Context()
        self._pub, self._router = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        for socket in (self._pub, self._router):
            harden(socket)
            socket.bind("tcp://127.0.0.1:*")
        self.events = self._pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self.requests = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.asked = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        poller = zmq.Poller()
        poller.register(self._pub, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        while not self._stop.is_set():
            for socket, _ in poller.poll(20):
                if socket is self._pub:
                    self._pub.recv()
                    for message in self._messages:
                        self._pub.send_multipart(message)
                else:
                    self._answer(*self._router.recv_multipart())

    def _answer(self, identity, *parts):
        request, picture = wire.decode_request(parts)
        self.asked.append((request, picture))
        for reply in self._answers(request):
            self._router.send_multipart([identity, *wire.encode_reply(reply)])

    def close(self):
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)


def _result(request, result):
    return wire.Reply(v=(2, 0), id=request.id, status="result", result=result)


@contextmanager
def fake_node(messages=(), answers=lambda request: []):
    node = FakeNode(list(messages), answers)
    try:
        yield node
    finally:
        node.close()


def _encoded(every_event):
    return [wire.encode_event(event, "n1") for event in every_event]


def test_events_arrive_in_order_and_gaps_are_counted(every_event):
    messages = _encoded(every_event)
    del messages[4:6]
    messages.insert(2, [b"ureca2/n1/cam1/track/r1\0", b"\xc1"])
    with fake_node(messages) as node, Client.connect(node.events, node.requests) as client:
        got = list(client.events(timeout_s=0.5))
        assert [event.event_seq for event in got] == [1, 2, 3, 4, *range(7, 17)]
        assert (client.missed, client.unreadable) == (2, 1)


@pytest.mark.parametrize(
    ("confidence", "least", "comes"),
    [(0.3, 0.0, True), (0.3, 0.5, False), (0.6, 0.5, True), (None, 0.5, True)],
)
def test_captions_that_are_too_unsure_are_left_out(every_event, confidence, least, comes):
    final = next(event for event in every_event if isinstance(event, CaptionFinal))
    changed = [
        msgspec.structs.replace(event, confidence=confidence) if event is final else event
        for event in every_event
    ]
    with (
        fake_node(_encoded(changed)) as node,
        Client.connect(node.events, node.requests) as client,
    ):
        got = list(client.events(timeout_s=0.5, min_confidence=least))
        assert any(isinstance(event, CaptionFinal) for event in got) == comes
        assert len(got) == len(changed) - (not comes)
        assert client.missed == 0


def test_kinds_are_filtered_without_counting_gaps(every_event):
    with (
        fake_node(_encoded(every_event)) as node,
        Client.connect(node.events, node.requests) as client,
    ):
        got = list(client.events(kinds=["caption.final"], timeout_s=0.5))
        assert [event.text for event in got] == ["a red cup"]
        assert client.missed == 0
        with pytest.raises(WireError, match="known are"):
            next(client.events(kinds=["caption.finale"]))


def test_a_restarted_node_is_not_a_gap(every_event):
    again = [msgspec.structs.replace(every_event[-1], session_id=b"x" * 16, event_seq=900)]
    with (
        fake_node(_encoded([*every_event, *again])) as node,
        Client.connect(node.events, node.requests) as client,
    ):
        list(client.events(timeout_s=0.5))
        assert client.missed == 0


@pytest.mark.parametrize("prefix", [b"ureca1/", b"ureca2/"])
def test_another_major_version_is_not_silence(every_event, prefix):
    data = {**wire.event_to_plain(every_event[0]), "v": [1, 0]}
    topic = wire.event_topic(every_event[0], "n1").encode().replace(b"ureca2/", prefix)
    message = [topic, msgspec.msgpack.encode(data)]
    with fake_node([message]) as node, Client.connect(node.events, node.requests) as client:
        with pytest.raises(VersionError):
            next(client.events(timeout_s=2))


def test_questions_and_answers(every_event):
    def answers(request):
        if request.op == "hello":
            yield wire.Reply(v=(2, 0), id=b"someone else", status="result")
            yield wire.Reply(v=(2, 0), id=request.id, status="accepted")
            yield wire.Reply(v=(2, 0), id=request.id, status="progress", result={"done": 1})
            yield _result(request, HELLO)
        elif request.op == "snapshot":
            yield _result(
                request, {"events": [wire.event_to_plain(event) for event in every_event]}
            )
        elif request.op == "health":
            yield _result(
                request, {"state": "running", "uptime_ms": 5, "counters": {"frames_in": 2}}
            )
        elif request.op == "shutdown":
            yield _result(request, {})
        else:
            error = wire.ErrorBody(code="BUSY", msg="later", retry_after_ms=40)
            yield wire.Reply(v=(2, 0), id=request.id, status="error", error=error)

    with fake_node(answers=answers) as node, Client.connect(node.events, node.requests) as client:
        assert client.hello().model == "scripted"
        progress = []
        client.request("hello", on_progress=progress.append)
        assert progress == [{"done": 1}]
        assert client.snapshot() == every_event
        assert client.health().counters == {"frames_in": 2}
        client.shutdown()
        with pytest.raises(RequestError, match="BUSY: later") as caught:
            client.request("stats")
        assert caught.value.retry_after_ms == 40


def test_describe_sends_the_region_and_the_picture():
    description = {
        "text": "a cup",
        "status": "ok",
        "n_tok": 2,
        "stop": "eos",
        "score": None,
        "score_kind": "none",
        "model": "m",
        "bundle_sha": "",
        "precision": "fp32",
    }
    image = np.zeros((4, 6, 3), np.uint8)
    seed = RegionSeed(box_xyxy_px=(0.0, 1.0, 4.0, 3.0))
    with (
        fake_node(answers=lambda request: [_result(request, description)]) as node,
        Client.connect(node.events, node.requests) as client,
    ):
        assert client.describe(seed, image=image, style="long").text == "a cup"
        assert client.describe("r1", stream="cam1").score is None
        with pytest.raises(WireError, match="exactly one of 'stream' and 'picture'"):
            client.describe(seed)
    (first, picture), (second, nothing) = node.asked
    args = msgspec.convert(first.args, wire.DescribeArgs)
    assert (args.picture.w, args.picture.h, args.picture.enc, args.style) == (6, 4, "rgb8", "long")
    assert args.region.seed(6, 4) == seed
    assert (picture, nothing) == (image.tobytes(), None)
    assert second.args["rid"] == "r1"


def test_silence_is_a_deadline(tmp_path):
    with fake_node() as node, Client.connect(node.events, node.requests, timeout_s=0.2) as client:
        with pytest.raises(RequestError, match="no answer to 'hello'") as caught:
            client.hello()
        assert caught.value.code == "DEADLINE"
    with Client.connect(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r", timeout_s=0.1) as client:
        with pytest.raises(RequestError, match="no node of protocol"):
            client.hello()


def test_a_bad_address_is_a_typed_error():
    with pytest.raises(RequestError, match="nonsense"):
        Client.connect("nonsense", "tcp://127.0.0.1:5602")

    async def connect():
        AsyncClient.connect("nonsense", "tcp://127.0.0.1:5602")

    with pytest.raises(RequestError, match="nonsense"):
        asyncio.run(connect())


def test_the_async_view_sees_the_same(every_event):
    async def use(node):
        async with AsyncClient.connect(node.events, node.requests, timeout_s=0.3) as client:
            got = [event async for event in client.events(timeout_s=0.5)]
            hello = await client.hello()
            with pytest.raises(RequestError, match="no answer"):
                await client.health()
            return got, hello, client.missed

    def answers(request):
        return [_result(request, HELLO)] if request.op == "hello" else []

    with fake_node(_encoded(every_event), answers) as node:
        got, hello, missed = asyncio.run(use(node))
    assert got == every_event
    assert (hello.node, missed) == ("n1", 0)


def test_a_cancellation_that_comes_with_the_reply_is_one(tmp_path):
    """`asyncio.wait_for` swallows it before Python 3.12."""

    async def story():
        arrived = asyncio.Event()

        async def exchange(request, picture):
            await arrived.wait()
            return {}

        async with AsyncClient.connect(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r") as client:
            client._exchange = exchange
            asking = asyncio.create_task(client.request("health"))
            await asyncio.sleep(0.01)
            arrived.set()
            await asyncio.sleep(0)  # the reply is there, its reader was not woken yet
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(story())


def test_a_reader_that_is_cancelled_loses_no_answer_of_others():
    """Whoever waits first reads for all: it is cancelled just as the answer of another comes."""

    def answers(request):
        return [_result(request, HELLO)] if request.op == "hello" else []

    async def story(node):
        loop = asyncio.get_running_loop()
        async with AsyncClient.connect(node.events, node.requests, timeout_s=5) as client:
            reader = asyncio.create_task(client.health())
            await asyncio.sleep(0.1)
            other = asyncio.create_task(client.hello())
            for _ in range(5):  # asked, and not answered while nobody looks
                await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251  (the answer comes meanwhile)
            loop.call_soon(reader.cancel)
            assert (await other).node == "n1"
            assert reader.cancelled()

    with fake_node(answers=answers) as node:
        asyncio.run(story(node))


class Dying:
    """A socket whose peer dies once between `poll` and what follows: then nothing is there."""

    def __init__(self, socket, on_poll):
        self._socket, self._on_poll, self.deaths = socket, on_poll, 0

    def poll(self, timeout=None, flags=zmq.POLLIN):
        if not self.deaths and flags == zmq.POLLIN:
            self.deaths += 1
            return self._on_poll(flags)
        return self._socket.poll(timeout, flags)

    def __getattr__(self, name):
        return getattr(self._socket, name)


@pytest.mark.timeout(20)
def test_a_message_that_goes_with_its_node_is_waited_for_no_longer_than_was_said():
    with (
        fake_node(answers=lambda request: [_result(request, HELLO)]) as node,
        Client.connect(node.events, node.requests, timeout_s=5) as client,
    ):
        client._dealer = dealer = Dying(client._dealer, lambda flags: flags)
        assert client.hello().node == "n1"
        client._sub = sub = Dying(client._sub, lambda flags: flags)
        assert list(client.events(timeout_s=0.2)) == []
        assert dealer.deaths == sub.deaths == 1


@pytest.mark.timeout(20)
def test_a_node_that_dies_before_the_question_is_sent_is_a_deadline(tmp_path):
    class Gone:
        def poll(self, timeout=None, flags=zmq.POLLIN):
            time.sleep(0.01)
            return flags

        def send_multipart(self, parts, flags=0):
            assert flags & zmq.NOBLOCK, "this would wait for ever"
            raise zmq.Again

    with Client.connect(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r", timeout_s=0.2) as client:
        dealer, client._dealer = client._dealer, Gone()
        with pytest.raises(RequestError, match="no answer") as error:
            client.hello()
        dealer.close(0)
    assert error.value.code == "DEADLINE"


@pytest.mark.timeout(20)
def test_the_async_view_survives_a_message_that_goes_with_its_node():
    async def at_once(flags):
        return flags

    async def story(node):
        async with AsyncClient.connect(node.events, node.requests, timeout_s=5) as client:
            client._dealer = dealer = Dying(client._dealer, at_once)
            assert (await client.hello()).node == "n1"
            client._sub = sub = Dying(client._sub, at_once)
            assert [event async for event in client.events(timeout_s=0.2)] == []
            assert dealer.deaths == sub.deaths == 1

    with fake_node(answers=lambda request: [_result(request, HELLO)]) as node:
        asyncio.run(story(node))


def test_a_camera_publishes_frames_that_the_wire_reads():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    context = zmq.Context()
    try:
        with FramePublisher("tcp://127.0.0.1:*", stream="cam7") as camera:
            socket = context.socket(zmq.SUB)
            harden(socket)
            socket.subscribe(b"")
            socket.connect(camera.address)
            while not socket.poll(20):
                sent = camera.send(image, regions=[RegionSeed(point_xy_px=(1.0, 1.0))])
            frame = wire.decode_frame(socket.recv_multipart(), lambda *_: image, received_ns=1)
        assert frame.seq <= sent
        assert (frame.stream, frame.session_id) == ("cam7", camera.session_id)
        assert np.array_equal(frame.image, image)
        assert frame.regions[0].point_xy_px == (1.0, 1.0)
        with (
            FramePublisher("tcp://127.0.0.1:*") as first,
            pytest.raises(WireError, match="cannot publish"),
        ):
            FramePublisher(first.address)
    finally:
        context.destroy(linger=0)
