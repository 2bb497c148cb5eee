"""Every operation through both clients, against a whole node with real sockets."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable

import pytest

from tests.node.inputs_rig import until
from tests.node.test_node_sockets import Running, start, until_final  # noqa: F401  (a fixture)
from ureca import AsyncClient, Client, RegionSeed
from ureca.errors import RequestError, WireError
from ureca.protocol.events import CaptionAbort, CaptionFinal, Heartbeat
from ureca.protocol.operations import OPERATIONS
from ureca.testing import ScriptedEngine, Step

Start = Callable[..., Running]


def slowly(call: int, token: int) -> Step:
    time.sleep(0.02)
    return "ok"


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {n: list(inspect.signature(m).parameters) for n, m in methods if n[0] != "_"}

    sync, later = public(Client), public(AsyncClient)
    sync["request"].remove("on_progress")
    assert sync == later


def test_questions_that_change_nothing(start: Start) -> None:  # noqa: F811
    running = start()
    with running.client() as client:
        until_final(client)
        assert client.stats().counters["frames_in"] > 0
        assert client.config()["limits"]["max_asks"] == 2
        found = client.find("the red one")
        assert (found.by, found.none) == ("caption_words", None)
        assert [(f.rid, f.text, f.score) for f in found.regions] == [("red", "a red thing", 0.3333)]
        assert client.find("red", stream="cam9").regions == client.find("zebra").regions == ()
        assert len(client.find("thing", limit=2).regions) == 2
        assert client.hello().find_by == "caption_words"
        for more in ({"where": "frame"}, {"level": "part"}):
            with pytest.raises(RequestError, match=r"NO_MODEL.*grounding"):
                client.find("red", **more)
        offset = client.clock_offset()
        assert offset.clk == "mono"
        assert abs(offset.offset_ns) <= offset.error_ns  # one host, one clock
        assert set(client.hello().ops) <= OPERATIONS.keys()


def test_regions_come_move_and_go(start: Start) -> None:  # noqa: F811
    running = start()
    with running.client() as client:
        until_final(client)
        assert {r.rid for r in client.regions("cam0")} == {"red", "green", "blue"}
        assert client.set_policy("cam0", "red", ttl_ms=700)["ttl_ms"] == 700
        with pytest.raises(WireError, match="ttl_mss"):
            client.set_policy("cam0", "red", ttl_mss=700)
        with pytest.raises(RequestError, match="FORBIDDEN"):
            client.remove_region("cam0", "red")
        with pytest.raises(RequestError, match="FORBIDDEN"):
            client.update_region("cam0", "red", RegionSeed(box_xyxy_px=(1, 1, 30, 30)))
        client.set_prompt("cam0", "long", rid="red")
        final = next(
            e
            for e in client.events({"caption.final"}, timeout_s=20)
            if isinstance(e, CaptionFinal) and e.prompt_id == "long"
        )
        assert final.text.startswith("a red thing at")


def read_until_idle(client: Client) -> None:
    """Read all events up to a heartbeat that says that no caption is being written."""
    for event in client.events({"heartbeat"}, timeout_s=20):
        assert isinstance(event, Heartbeat)
        if event.state == "paused" and not event.counters["requests_in_flight"]:
            return
    raise AssertionError("no such heartbeat came")


def test_pause_and_resume(start: Start) -> None:  # noqa: F811
    running = start()
    with running.client() as client:
        until_final(client)
        client.set_policy("cam0", min_interval_ms=0, max_interval_ms=100)
        assert client.pause().state == "paused"
        assert client.health().state == "paused"
        before = client.stats().counters["frames_processed"]
        read_until_idle(client)
        client.set_prompt("cam0", "long")  # would be captioned at once
        assert list(client.events({"caption.start"}, timeout_s=0.4)) == []
        until(
            lambda: client.stats().counters["frames_processed"] > before, "frames are followed on"
        )
        assert client.describe("blue", stream="cam0").text == "a blue thing"
        assert client.resume().state == "running"
        assert next(client.events({"caption.final"}, timeout_s=20)).prompt_id == "long"  # type: ignore[union-attr]


def test_a_drained_node_has_nothing_open_and_refuses_questions(start: Start) -> None:  # noqa: F811
    running = start(ScriptedEngine(hook=slowly))
    with running.client() as client:
        until_final(client)
        until = time.monotonic() + 20
        while client.drain().requests_in_flight and time.monotonic() < until:
            time.sleep(0.02)
        assert client.drain().requests_in_flight == 0
        with pytest.raises(RequestError, match="GONE"):
            client.describe("blue", stream="cam0")
        client.resume()
        assert client.describe("blue", stream="cam0").text == "a blue thing"


def test_several_async_questions_at_once_and_a_cancelled_task(start: Start) -> None:  # noqa: F811
    reached, go = threading.Event(), threading.Event()

    def hook(call: int, token: int) -> Step:
        if call == 1:
            reached.set()
            go.wait(20)
        return "ok"

    running = start(ScriptedEngine(hook=hook))

    def ended() -> dict[str, int]:
        return running.node.balance().requests_ended

    async def story() -> None:
        async with AsyncClient.connect(running.events, running.requests, timeout_s=20) as client:
            async for _ in client.events({"caption.final"}, timeout_s=20):
                break
            first = asyncio.create_task(client.describe("blue", stream="cam0"))
            assert await asyncio.to_thread(reached.wait, 20)
            second = asyncio.create_task(client.describe("red", stream="cam0"))
            await asyncio.to_thread(
                until, lambda: running.node.balance().requests_in_flight == 2, "both are in flight"
            )
            hello, found = await asyncio.gather(client.hello(), client.find("red"))
            assert hello.model == "scripted"
            assert found.regions[0].rid == "red"
            second.cancel()
            await asyncio.wait([second])
            # The cancellation is a message of its own: the node must have it before it goes on.
            await asyncio.to_thread(until, lambda: "abort" in ended(), "the second is cancelled")
            go.set()
            assert (await first).text == "a blue thing"
            assert (await client.resume()).state == "running"

    asyncio.run(story())
    running.node.close()
    assert ended()["abort"] >= 1  # the cancelled one
    assert not [e for e in running.capture.of("caption.abort") if isinstance(e, CaptionAbort)]


def test_every_operation_is_answered_with_what_the_table_says(start: Start) -> None:  # noqa: F811
    running = start()
    box = RegionSeed(box_xyxy_px=(2, 2, 20, 20))
    examples: dict[str, dict[str, object]] = {
        "describe": {"stream": "cam0", "rid": "red"},
        "find": {"text": "red"},
        "picture": {"stream": "cam0"},
        "cancel": {"id": b"nothing"},
        "policy.set": {"stream": "cam0", "policy": {"ttl_ms": 700}},
        "prompt.set": {"stream": "cam0", "prompt": "short"},
        "region.add": {"stream": "cam0", "region": box},
        "region.list": {"stream": "cam0"},
    }
    refused: dict[str, dict[str, object]] = {
        "region.update": {"stream": "cam0", "rid": "red", "region": box},  # the sender's
        "region.remove": {"stream": "cam0", "rid": "red"},
        "record.start": {"name": "x"},  # no folder for recordings
        "record.stop": {},
        "panoptic": {},  # whole frames are not segmented
    }
    with running.client() as client:
        until_final(client)
        assert client.hello().ops == tuple(OPERATIONS)
        for name, args in refused.items():
            with pytest.raises(RequestError, match=r"FORBIDDEN|NO_MODEL"):
                client.call(name, **args)
        for name in OPERATIONS.keys() - refused.keys() - {"shutdown", "drain", "pause", "resume"}:
            client.call(name, **examples.get(name, {}))
        for name in ("pause", "drain", "resume", "shutdown"):
            client.call(name)
