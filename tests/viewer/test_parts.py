"""The parts of the viewer without sockets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import msgspec
import pytest

from ureca.errors import ConfigError, RequestError
from ureca.node.viewer.browser_session import MAX_OPEN, Session
from ureca.node.viewer.cli import addresses
from ureca.node.viewer.frame_feed import Feed
from ureca.node.viewer.send_queue import SendQueue
from ureca.protocol.preview_messages import Picture


def test_an_outbox_keeps_one_picture_and_loses_rather_than_grows():
    async def main():
        send_queue = SendQueue(limit=5)
        for number in range(3):
            send_queue.put(b"%d" % number)
            send_queue.show(b"picture %d" % number)
        assert await send_queue.take() == ([b"0", b"1", b"2"], b"picture 2")
        assert not send_queue.overflowed
        for number in range(6):
            send_queue.put(b"%d" % number)
        assert send_queue.overflowed
        assert await send_queue.take() == ([b"5"], None)

    asyncio.run(main())


def picture(seq: int) -> Picture:
    return Picture(
        stream="cam0", seq=seq, captured_ns=1, clk="mono", width=8, height=4, w=8, h=4, jpeg=b"jpeg"
    )


class Camera:
    """Fetches a picture when `go` is set; counts."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.go = asyncio.Event()

    async def __call__(self, stream: str, after: int | None) -> Picture:
        self.asked.append(after)
        await self.go.wait()
        return picture(len(self.asked))


def test_who_waits_for_a_picture_gets_the_same_one():
    async def main():
        camera = Camera()
        feed = Feed("cam0", camera, max_hz=1000)
        both = asyncio.gather(feed.next(None), feed.next(None))
        await asyncio.sleep(0.01)
        camera.go.set()
        one, other = await both
        assert one is other
        assert camera.asked == [None]
        size = int.from_bytes(one.message[:4], "little")
        assert json.loads(one.message[4 : 4 + size])["seq"] == 1
        assert one.message[4 + size :] == b"jpeg"
        assert (await feed.next(1)).seq == 2
        assert camera.asked == [None, 1]
        await feed.close()

    asyncio.run(main())


def test_nothing_is_fetched_while_nobody_waits():
    async def main():
        camera = Camera()
        camera.go.set()
        feed = Feed("cam0", camera, max_hz=1000)
        await feed.next(None)
        await asyncio.sleep(0.05)
        assert camera.asked == [None]
        await feed.close()

    asyncio.run(main())


def test_one_who_leaves_takes_no_picture_from_others():
    async def main():
        camera = Camera()
        feed = Feed("cam0", camera, max_hz=1000)
        leaving, staying = (asyncio.create_task(feed.next(None)) for _ in range(2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        camera.go.set()
        assert (await staying).seq == 1
        await feed.close()

    asyncio.run(main())


class FakeLink:
    """A node that answers at will."""

    def __init__(self) -> None:
        self.send_queues: set[SendQueue] = set()
        self.asked: list[tuple[str, dict]] = []
        self.answer = asyncio.Event()
        self.camera = Camera()
        self.camera.go.set()
        self._feed = Feed("cam0", self.camera, max_hz=1000)

    def state(self) -> list[bytes]:
        return [b'{"t":"reset","events":[]}']

    def feed(self, stream: str) -> Feed:
        return self._feed

    async def ask(self, op: str, args: dict, deadline_s: float) -> dict:
        self.asked.append((op, args))
        await self.answer.wait()
        if op == "describe":
            raise RequestError("no such region", code="NOT_FOUND")
        return {"op": op}


async def until(holds) -> None:
    while not holds():  # noqa: ASYNC110  (what is waited for knows no events)
        await asyncio.sleep(0.005)


class FakeSocket:
    def __init__(self) -> None:
        self.inbox: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.texts: list[dict] = []
        self.pictures: list[bytes] = []

    async def send(self, message: bytes, *, text: bool) -> None:
        if text:
            self.texts.append(json.loads(message))
        else:
            self.pictures.append(message)

    async def recv(self) -> str | bytes:
        return await self.inbox.get()

    def say(self, **message: object) -> None:
        self.inbox.put_nowait(json.dumps(message))

    async def answers(self, count: int) -> dict[int, dict]:
        def found() -> dict[int, dict]:
            return {m["id"]: m for m in self.texts if m["t"] == "answer"}

        await until(lambda: len(found()) >= count)
        return found()


def session(story):
    async def main():
        socket, link = FakeSocket(), FakeLink()
        running = asyncio.create_task(Session(socket, link).run())
        await asyncio.wait_for(story(socket, link), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not link.send_queues
        await link._feed.close()

    asyncio.run(main())


def test_the_next_picture_waits_until_the_page_is_ready():
    async def story(socket, link):
        socket.say(t="look", stream="cam0")
        await until(lambda: socket.pictures)
        await asyncio.sleep(0.1)
        assert len(socket.pictures) == 1
        socket.say(t="ready")
        await until(lambda: len(socket.pictures) == 2)
        assert link.camera.asked == [None, 1]

    session(story)


def test_a_page_may_ask_for_what_is_listed_and_no_more():
    async def story(socket, link):
        link.answer.set()
        socket.say(t="ask", id=1, op="pause", args={})
        socket.say(t="ask", id=2, op="shutdown", args={})
        socket.say(t="ask", id=3, op="describe", args={"rid": "x"})
        found = await socket.answers(3)
        assert found[1]["result"] == {"op": "pause"}
        assert "FORBIDDEN" in found[2]["error"]
        assert "no such region" in found[3]["error"]
        assert [op for op, _ in link.asked] == ["pause", "describe"]

    session(story)


def test_open_questions_are_bounded():
    async def story(socket, link):
        for number in range(MAX_OPEN + 3):
            socket.say(t="ask", id=number, op="pause", args={})
        refused = await socket.answers(3)
        assert all("BUSY" in answer["error"] for answer in refused.values())
        link.answer.set()
        assert len(await socket.answers(MAX_OPEN + 3)) == MAX_OPEN + 3

    session(story)


@pytest.mark.parametrize(
    "rubbish",
    ["", "{", "[]", '{"t":"evil"}', '{"t":"look","stream":"../x"}', '{"t":"ask","id":-1}', b"\xff"],
)
def test_rubbish_is_refused_and_the_page_goes_on(rubbish):
    async def story(socket, link):
        socket.inbox.put_nowait(rubbish)
        link.answer.set()
        socket.say(t="ask", id=1, op="pause", args={})
        await socket.answers(1)
        assert any(message["t"] == "refused" for message in socket.texts)

    session(story)


def test_a_page_that_fell_behind_is_shown_the_state_afresh():
    async def story(socket, link):
        await until(lambda: socket.texts)  # the state, as at every start
        (send_queue,) = link.send_queues
        for number in range(3000):
            send_queue.put(msgspec.json.encode({"t": "events", "n": number}))
        await until(lambda: len(socket.texts) > 1)
        assert [message["t"] for message in socket.texts][-1] == "reset"
        assert len(socket.texts) < 3000

    session(story)


def test_where_a_node_is():
    assert addresses(None, None, None) == ("tcp://127.0.0.1:5601", "tcp://127.0.0.1:5602")
    assert addresses("robot", None, None) == ("tcp://robot:5601", "tcp://robot:5602")
    assert addresses("[::1]:7000", None, None) == ("tcp://[::1]:7000", "tcp://[::1]:7001")
    assert addresses("robot", None, "ipc:///r") == ("tcp://robot:5601", "ipc:///r")
    for bad in ("a b", "robot:0", "robot:99999", "http://robot"):
        with pytest.raises(ConfigError, match="HOST"):
            addresses(bad, None, None)


def test_the_viewer_knows_nothing_of_the_node(repository):
    """The law that import-linter can only list: nothing but the client and the viewer itself."""
    pytest.importorskip("websockets")
    code = (
        "import sys, ureca.node.viewer.cli, ureca.node.viewer.server\n"
        "rooms = ('ureca.node.', 'ureca.models', 'ureca.export', 'cv2', 'onnxruntime', 'torch')\n"
        "print([m for m in sys.modules if m.startswith(rooms)"
        " and not m.startswith('ureca.node.viewer')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
