"""Following a node through its death and another life."""

from __future__ import annotations

import asyncio
import time

import pytest

from ureca.bridges.node_follower import NodeFollower
from ureca.client.async_client import AsyncClient
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.protocol.events import CaptionFinal


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_life_of_the_node_is_followed_from_its_beginning(processes):
    if find_demo_clip() is None:
        pytest.skip("no demo clip in configs/demo")
    sights, finals = [], []

    def event(found, shift_ns):
        if isinstance(found, CaptionFinal):
            finals.append((found, shift_ns))

    async def until(true, following, timeout_s=60):
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, "it did not happen in time"
            assert not following.done(), following.exception()
            await asyncio.sleep(0.05)

    def captioned(since):
        return any(said is not None for sight in sights[since:] for _, said in sight.regions)

    def lives():
        return {event.session_id for event, _ in finals}

    async def story():
        async with AsyncClient.connect(processes.events, processes.requests) as client:
            follower = NodeFollower(client, on_sight=sights.append, on_event=event, max_width_px=64)
            following = asyncio.create_task(follower.run())
            await asyncio.sleep(0.3)  # there is no node yet
            first = processes.node("--loop")
            await until(lambda: captioned(0), following)
            first.kill()
            first.wait()
            before = len(sights)
            processes.node("--loop")
            # Pictures of the first life may still come: both lives must have said something.
            await until(lambda: captioned(before) and len(lives()) == 2, following)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(story())
    last = sights[-1]
    assert last.picture.stream == "cam0"
    assert abs(last.unix_ns - time.time_ns()) < 60 * 10**9, "Unix time, not monotonic time"
    texts = {event.text for event, _ in finals}
    assert {said.text for s in sights for _, said in s.regions if said is not None} <= texts
    shown = [s.picture.captured_ns for s in sights]
    assert shown == sorted(set(shown)), "a frame came twice"


def test_what_a_callback_raises_ends_the_following(processes):
    processes.node("--loop")

    async def story():
        def broken(*_):
            raise ZeroDivisionError

        async with AsyncClient.connect(processes.events, processes.requests) as client:
            await asyncio.wait_for(NodeFollower(client, on_sight=broken).run(), 60)

    if find_demo_clip() is None:
        pytest.skip("no demo clip in configs/demo")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(story())
