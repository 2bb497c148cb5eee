"""A whole node in this process: real sockets and threads, scripted engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import msgpack
import pytest
import zmq

from ureca.client.client import Client
from ureca.clock import Clock, MonotonicClock
from ureca.datatypes import Frame, RegionSeed
from ureca.errors import RequestError, WireError
from ureca.invariants import imbalances
from ureca.node.config import LimitsConfig, NodeConfig, PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.node import Node
from ureca.node.sources.base import FrameSource, Wait
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent, CaptionFinal
from ureca.testing import EventCapture, ScriptedEngine, Step, SyntheticSource


class Steady:
    """A synthetic camera at 50 Hz that runs until it is told to stop."""

    is_lossless = False

    def __init__(
        self, source: SyntheticSource, clock: Clock, counters: NodeCounters, wait: Wait
    ) -> None:
        self.source, self.clock, self.counters, self.wait = source, clock, counters, wait

    def frames(self) -> Iterator[Frame]:
        for seq in range(self.source.frames):
            if self.wait(0.02):
                return
            self.counters.frame_in()
            now_ns = self.clock.now_ns()
            yield replace(self.source.frame(seq), captured_ns=now_ns, received_ns=now_ns)


class Running:
    """A started node and where to find it."""

    def __init__(
        self, tmp: str, engine: ScriptedEngine, frames: int = 100_000, *, greet: bool = True
    ) -> None:
        self.capture = EventCapture()
        self.events, self.requests = f"ipc://{tmp}/events", f"ipc://{tmp}/requests"
        config = replace(
            NodeConfig(),
            publish=PublishConfig(
                events=self.events, requests=self.requests, heartbeat_s=0.1, greet=greet
            ),
            limits=LimitsConfig(max_asks=2),
        )
        source = SyntheticSource(frames=frames, things=3)

        def opened(
            config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
        ) -> list[FrameSource]:
            return [Steady(source, clock, counters, wait)]

        self.node = Node(
            config, engine, clock=MonotonicClock(), sinks=[self.capture], open_frames=opened
        )
        self.node.start()

    def client(self) -> Client:
        return Client.connect(self.events, self.requests, timeout_s=20)

    def check(self) -> None:
        self.node.close()
        found = imbalances(self.node.balance().counters(), self.capture.events)
        assert not found, found


@pytest.fixture
def start(tmp_path: object) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def begin(engine: ScriptedEngine | None = None, **more: int) -> Running:
            running = Running(str(tmp_path), engine or ScriptedEngine(), **more)
            stack.callback(running.check)
            return running

        yield begin


def until_final(client: Client, count: int = 3) -> list[AnyEvent]:
    seen: list[AnyEvent] = []
    for event in client.events(timeout_s=20):
        seen.append(event)
        if sum(isinstance(e, CaptionFinal) for e in seen) >= count:
            return seen
    raise AssertionError(f"only {[event_kind(e) for e in seen]}")


def test_a_late_joiner_gets_the_last_word_on_every_region(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as early:
        until_final(early)
        with running.client() as late:
            snapshot = late.snapshot()
            assert {e.rid for e in snapshot if isinstance(e, CaptionFinal)} == {
                "red",
                "green",
                "blue",
            }
            seen = until_final(late)
            event_seqs = [event.event_seq for event in seen]
            assert event_seqs == sorted(set(event_seqs))
            assert late.missed == 0
        first = until_final(early)
        assert [e.event_seq for e in first] == sorted(e.event_seq for e in first)
        assert early.missed == 0


def test_finals_carry_ages_and_durations(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as client:
        final = next(e for e in until_final(client) if isinstance(e, CaptionFinal))
    assert final.session_id == running.node.session_id
    assert final.pub_ns >= final.captured_ns
    assert final.age_at_pub_ms == pytest.approx((final.pub_ns - final.captured_ns) / 1e6, abs=1)
    assert {"track", "wait", "ttft", "gen", "pub"} <= final.stage_us.keys()


def test_every_operation_answers(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as client:
        until_final(client)
        hello = client.hello()
        assert hello.model == "scripted"
        assert hello.streams == ("cam0",)
        assert "describe" in hello.ops
        health = client.health()
        assert health.state == "running"
        assert health.counters["frames_in"] > 0
        assert client.request("stats")["counters"]["requests_in"] >= 3
        assert client.request("time")["send_ns"] > 0
        assert client.request("cancel", {"id": b"nothing"}) == {"cancelled": False}
        regions = client.request("region.list", {"stream": "cam0"})["regions"]
        assert {region["rid"] for region in regions} == {"red", "green", "blue"}
        policy = {"stream": "cam0", "rid": "red", "policy": {"ttl_ms": 700}}
        assert client.request("policy.set", policy)["policy"]["ttl_ms"] == 700
        with pytest.raises(RequestError, match="FORBIDDEN"):
            client.request("region.remove", {"stream": "cam0", "rid": "red"})
        with pytest.raises(RequestError, match="BAD_SCHEMA"):
            client.request("policy.set", {"stream": "cam0", "policy": {"ttl_ms": -1}})


def test_describe_streams_its_answer(start: Callable[..., Running]) -> None:
    running = start()
    image = SyntheticSource().image(0)
    box = SyntheticSource().boxes_xyxy_px(0)["green"]
    with running.client() as client:
        until_final(client)
        assert client.describe("blue", stream="cam0").text == "a blue thing"
        assert client.describe(RegionSeed(box_xyxy_px=box), image=image).text == "a green thing"
        jpeg = bytes(cv2.imencode(".jpg", image[..., ::-1])[1])
        said: list[str] = []
        args = {
            "picture": {"enc": "jpeg", "w": 160, "h": 120},
            "region": {"point": [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]},
        }
        result = client.request(
            "describe", args, picture=jpeg, on_progress=lambda p: said.append(p["text"])
        )
        assert "".join(said) == result["text"] == "a green thing"


def test_describe_answers_attributes(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as client:
        until_final(client)
        assert client.hello().attributes == ("colour", "material", "location")
        asked = ("material", "colour", "hair", "age")
        said = client.describe("blue", stream="cam0", style="dense", attributes=asked)
        assert (said.text, said.status) == ("a blue thing", "ok")
        answers = [(a.name, a.status, a.text, a.probability) for a in said.attributes]
        assert answers == [
            ("material", "abstained", None, 0.3),
            ("colour", "said", "blue", 0.9),
            ("hair", "not_supported", None, None),
            ("age", "not_supported", None, None),
        ]
        assert client.describe("blue", stream="cam0").attributes == ()
        with pytest.raises(WireError, match="ethnicity"):
            client.describe("blue", stream="cam0", attributes=("skin",))
        with pytest.raises(RequestError, match=r"BAD_SCHEMA.*ethnicity"):
            client.request(
                "describe", {"stream": "cam0", "rid": "blue", "attributes": ["skin"]}, 20
            )


def test_a_bundle_without_attributes_refuses_them(start: Callable[..., Running]) -> None:
    running = start(ScriptedEngine(attributes=()))
    with running.client() as client:
        until_final(client)
        assert client.hello().attributes == ()
        for asked in ({"attributes": ("colour",)}, {"style": "dense"}):
            with pytest.raises(RequestError, match=r"NO_MODEL.*answers no attributes"):
                client.describe("blue", stream="cam0", **asked)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"stream": "cam9", "rid": "red"}, "NO_STREAM"),
        ({"stream": "cam9", "region": {"point": [1, 1]}}, "NO_STREAM"),
        ({"stream": "cam0", "rid": "nobody"}, "NOT_FOUND"),
        ({"stream": "cam0", "region": {"box": [500, 500, 600, 600]}}, "BAD_SCHEMA"),
        ({"stream": "cam0"}, "BAD_SCHEMA"),
        ({"picture": {"enc": "jpeg", "w": 9, "h": 9}, "region": {"point": [1, 1]}}, "BAD_SCHEMA"),
        (
            {"picture": {"enc": "rgb8", "w": 60000, "h": 60000}, "region": {"point": [1, 1]}},
            "TOO_LARGE",
        ),
    ],
)
def test_a_wrong_describe_gets_a_typed_error(
    start: Callable[..., Running], args: dict[str, object], code: str
) -> None:
    running = start()
    with running.client() as client:
        until_final(client)
        with pytest.raises(RequestError) as caught:
            client.request("describe", args)
    assert caught.value.code == code
    assert "Traceback" not in str(caught.value)


def test_a_full_queue_says_busy_at_once(start: Callable[..., Running]) -> None:
    held = threading.Event()

    def hook(call: int, token: int) -> Step:
        held.wait(20)
        return "ok"

    running = start(ScriptedEngine(hook=hook))
    patient = {"v": [2, 0], "op": "describe", "args": {"stream": "cam0", "rid": "red"}}
    with running.client() as client, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        next(client.events({"caption.start"}, timeout_s=20))
        dealer.linger = 0
        dealer.connect(running.requests)
        for number in (b"1", b"2"):
            dealer.send(msgpack.packb({**patient, "id": number, "deadline_ms": 60_000}))
            assert dealer.poll(20_000)
            assert msgpack.unpackb(dealer.recv())["status"] == "accepted"
        with pytest.raises(RequestError, match="BUSY") as caught:
            client.request("describe", {"stream": "cam0", "rid": "red"})
        assert caught.value.retry_after_ms
        held.set()


def test_nonsense_on_the_request_socket_is_answered_or_ignored(
    start: Callable[..., Running],
) -> None:
    running = start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(running.requests)
        for parts in (
            [b""],
            [b"\xff" * 40],
            [b"\x80"] * 5,
            [msgpack.packb({"v": [7, 0], "id": b"x", "op": "hello"})],
        ):
            dealer.send_multipart(parts)
            assert dealer.poll(20_000)
            assert msgpack.unpackb(dealer.recv_multipart()[0])["status"] == "error"
    with running.client() as client:
        assert client.hello().node == "node"


def test_a_vanished_subscriber_and_asker_do_no_harm(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as client:
        until_final(client)
    for _ in range(3):
        # It leaves at once; now and then the answer is faster.
        with running.client() as gone, contextlib.suppress(RequestError):
            gone.request("describe", {"stream": "cam0", "rid": "red"}, 0.001)
    with running.client() as client:
        until_final(client)
        assert client.health().state == "running"


def test_a_failing_engine_is_reported_and_the_node_lives_on(start: Callable[..., Running]) -> None:
    def hook(call: int, token: int) -> Step:
        return "raise" if call < 2 else "ok"

    running = start(ScriptedEngine(hook=hook))
    with running.client() as client:
        errors = [next(client.events({"caption.error"}, timeout_s=20)) for _ in range(3)]
        assert {e.code for e in errors} == {"ENGINE"}  # type: ignore[union-attr]
        assert next(client.events({"caption.final"}, timeout_s=20))


def test_shutdown_by_request_drains_and_closes_the_books(start: Callable[..., Running]) -> None:
    running = start()
    with running.client() as client:
        until_final(client)
        client.shutdown()
        assert running.node.wait(20)
        running.node.close()
        ends = list(client.events({"track.end"}, timeout_s=0.5))
        assert {e.reason for e in ends} == {"shutdown"}  # type: ignore[union-attr]
    assert running.node.balance().closed
    terminals = running.capture.terminals()
    assert all(len(kinds) == 1 for kinds in terminals.values())
    beat = running.capture.of("heartbeat")[-1]
    assert beat.state == "stopped"  # type: ignore[union-attr]


def test_the_end_of_the_source_is_the_end_of_the_node(start: Callable[..., Running]) -> None:
    running = start(frames=5)
    assert running.node.wait(20)
    running.node.close()
    kinds = running.capture.kinds()
    assert kinds.count("caption.final") == 3
    assert kinds.count("track.end") == 3
    assert running.node.balance().closed


def test_a_taken_address_names_the_remedy(start: Callable[..., Running]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.XPUB)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    config = replace(
        NodeConfig(),
        publish=PublishConfig(events=f"tcp://127.0.0.1:{port}", requests="tcp://127.0.0.1:*"),
    )

    def opened(
        config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
    ) -> list[FrameSource]:
        return [Steady(SyntheticSource(), clock, counters, wait)]

    with pytest.raises(WireError, match=r"publish\.events"):
        Node(config, ScriptedEngine(), clock=MonotonicClock(), open_frames=opened)
    socket.close(0)
    context.term()


def test_without_greetings_a_joiner_asks_and_nobody_else_is_told_again(
    start: Callable[..., Running],
) -> None:
    running = start(greet=False)
    with running.client() as early:
        until_final(early)
        with running.client() as late:
            assert {e.rid for e in late.snapshot() if isinstance(e, CaptionFinal)} == {
                "red",
                "green",
                "blue",
            }
            seen = [*late.events({"track.new"}, timeout_s=0.5), *early.events({"track.new"}, 0.5)]
    assert not seen
