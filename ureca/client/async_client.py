"""The client of a node, for asyncio: live events, a snapshot of all that is known, and requests.

    async with AsyncClient.connect() as client:
        print((await client.hello()).model)
        async for event in client.events(kinds={"caption.final"}):
            print(event.rid, event.text)

An async client belongs to one event loop.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from ureca.client.async_connection import AsyncConnection
from ureca.client.frame_publisher import FramePublisher
from ureca.client.panoptic_view import PanopticView
from ureca.client.shared import (
    EVENTS_ADDRESS,
    REQUESTS_ADDRESS,
    ClockOffset,
    check_kinds,
    describe_args,
    snapshot_events,
    typed,
    wire_args,
)
from ureca.datatypes import AskedStyle, Image, Level, Style
from ureca.protocol.events import AnyEvent, CaptionFinal
from ureca.protocol.messagepack import LIMITS, WireLimits
from ureca.protocol.operations import operation_of
from ureca.protocol.preview_messages import Picture
from ureca.protocol.requests import Description, Health, Hello, Where
from ureca.protocol.results import (
    Added,
    ConfigResult,
    FindResult,
    Followed,
    PanopticResult,
    PolicyResult,
    RecordStartResult,
    RegionListResult,
    RegionUpdateResult,
    RunModeResult,
    Stats,
)
from ureca.region_inputs import RegionLike
from ureca.security.keys import ClientKeys

__all__ = ["EVENTS_ADDRESS", "REQUESTS_ADDRESS", "AsyncClient", "FramePublisher"]

_Result = TypeVar("_Result")


class AsyncClient(AsyncConnection):
    """Subscribes and sends requests; use `connect` and close it, or use it as a context manager."""

    @classmethod
    def connect(
        cls,
        events: str = EVENTS_ADDRESS,
        requests: str = REQUESTS_ADDRESS,
        *,
        timeout_s: float = 5.0,
        limits: WireLimits = LIMITS,
        keys: ClientKeys | None = None,
    ) -> AsyncClient:
        """Connect to a node, which may start later; `timeout_s` bounds every request.

        A node on the network needs `keys`: `ClientKeys.read("me.key_secret", "node.key")`.
        """
        return cls(events, requests, timeout_s, limits, keys)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def missed(self) -> int:
        """The number of lost events; after a loss, request a `snapshot`."""
        return self._reader.missed

    @property
    def unreadable(self) -> int:
        """The number of messages that are not events of this protocol."""
        return self._reader.unreadable

    async def events(
        self,
        kinds: Collection[str] | None = None,
        timeout_s: float | None = None,
        min_confidence: float = 0.0,
    ) -> AsyncIterator[AnyEvent]:
        """Yield events of these kinds (all, if None) as they arrive.

        Leaves out captions with a lower `confidence` than `min_confidence`, 0..1; those of a bundle
        that cannot tell (`confidence` None) come in any case. Ends if none of them arrives for
        `timeout_s` seconds (never, if None). Raises `VersionError` if the node uses another major
        version.
        """
        wanted = check_kinds(kinds)
        while (event := await self._next_event(wanted, timeout_s)) is not None:
            if not (
                isinstance(event, CaptionFinal)
                and event.confidence is not None
                and event.confidence < min_confidence
            ):
                yield event

    async def call(self, op: str, /, *, deadline_s: float | None = None, **args: Any) -> Any:
        """Run any operation of `ureca.protocol.operations` by name; returns its result type.

        `await client.call("region.list", stream="cam0")`. Raises `WireError` for an operation or
        an argument that there is not, and else what `request` raises.
        """
        result = await self.request(op, wire_args(op, args), deadline_s)
        return typed(result, operation_of(op).result)

    async def _call(self, kind: type[_Result], op: str, /, **args: Any) -> _Result:
        result = await self.call(op, **args)
        assert isinstance(result, kind)
        return result

    async def hello(self) -> Hello:
        """The node's name, version, operations and limits."""
        return await self._call(Hello, "hello")

    async def health(self) -> Health:
        """The node's state, its health issues, and its counters."""
        return await self._call(Health, "health")

    async def stats(self) -> Stats:
        """The counters, and the latest rejected captions."""
        return await self._call(Stats, "stats")

    async def config(self) -> dict[str, Any]:
        """The node's whole configuration, in the form of its YAML file."""
        return (await self._call(ConfigResult, "config.get")).config

    async def clock_offset(self) -> ClockOffset:
        """The offset of the node's clock from `time.monotonic_ns` here, and its error bound. Stamps
        of `clk` `mono` minus `offset_ns` are on this host's clock.
        """
        sent_ns = time.monotonic_ns()
        answer = await self.request("time")
        return ClockOffset.of(sent_ns, answer, time.monotonic_ns())

    async def snapshot(self) -> list[AnyEvent]:
        """The last values of every live region: its track event and, if it has one, its caption."""
        return snapshot_events(await self.request("snapshot"))

    async def picture(
        self, stream: str, *, after: int | None = None, max_width_px: int = 640
    ) -> Picture:
        """A preview of a stream: a JPEG of limited width, with the masks of the regions.

        Waits for a frame whose number is not `after`; raises `RequestError` (DEADLINE) if none
        comes.
        """
        args = {"stream": stream, "after": after, "max_width_px": max_width_px}
        return await self._call(Picture, "picture", **args)

    async def find(
        self,
        text: str,
        *,
        stream: str | None = None,
        limit: int = 16,
        where: Where | None = None,
        masks: bool = False,
        level: Level | None = None,
        deadline_s: float | None = None,
    ) -> FindResult:
        """What `text` is true of, best first, and the probability that it is not there.

        `where`: `tracks` or `frame`, by default `frame` at a node with a segmenter. A node whose
        bundle cannot score texts compares words of captions; `FindResult.by` says which.
        """
        args = {"text": text, "stream": stream, "limit": limit}
        args |= {"where": where, "masks": masks, "level": level}
        return await self._call(FindResult, "find", deadline_s=deadline_s, **args)

    async def panoptic(self, stream: str | None = None) -> PanopticView:
        """Every pixel of a stream's newest segmented frame, with the captions of now. Raises
        `RequestError`: `NOT_FOUND` before the first one, `NO_MODEL` where it is switched off.
        """
        found = await self._call(PanopticResult, "panoptic", stream=stream)
        return PanopticView.from_plain(found.event)

    async def regions(self, stream: str) -> list[Followed]:
        """All regions of a stream, lost ones included."""
        return list((await self._call(RegionListResult, "region.list", stream=stream)).regions)

    async def add_region(
        self, stream: str, region: RegionLike, policy: dict[str, Any] | None = None
    ) -> Added:
        """Follow one more region from the newest frame on: a `RegionSeed`, or what
        `region_inputs.seed_of` takes.
        """
        args = {"stream": stream, "region": region, "policy": policy or {}}
        return await self._call(Added, "region.add", **args)

    async def add_text(
        self,
        stream: str,
        text: str,
        *,
        standing: bool = False,
        where: Where | None = None,
        level: Level | None = None,
        label: str | None = None,
        policy: dict[str, Any] | None = None,
        deadline_s: float | None = None,
    ) -> Added:
        """Follow what `text` is true of; `Added.regions` are the answers, none if it is not there.

        With `standing` the node asks again until it is found, and says so in `text.found` and
        `text.absent`.
        """
        args = {"stream": stream, "text": text, "standing": standing, "where": where}
        args |= {"level": level, "label": label, "policy": policy or {}}
        return await self._call(Added, "region.add", deadline_s=deadline_s, **args)

    async def update_region(self, stream: str, rid: str, region: RegionLike) -> int:
        """Set where a region is on the newest frame; returns that frame's `seq`."""
        args = {"stream": stream, "rid": rid, "region": region}
        return (await self._call(RegionUpdateResult, "region.update", **args)).seq

    async def remove_region(self, stream: str, rid: str) -> None:
        """Stop following a region."""
        await self.request("region.remove", {"stream": stream, "rid": rid})

    async def set_policy(
        self, stream: str, rid: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Change when a region (or every one of the stream) is captioned, e.g. `ttl_ms=700`.

        Omitted keys stay, None resets a value to its default; returns the new policy.
        """
        args = {"stream": stream, "rid": rid, "policy": changes}
        return (await self._call(PolicyResult, "policy.set", **args)).policy

    async def set_prompt(self, stream: str, prompt: Style, rid: str | None = None) -> None:
        """Set the style of the next captions, `short` or `long`."""
        await self.request("prompt.set", {"stream": stream, "rid": rid, "prompt": prompt})

    async def pause(self) -> RunModeResult:
        """Start only requested captions; regions are still followed."""
        return await self._call(RunModeResult, "pause")

    async def drain(self) -> RunModeResult:
        """Start no captions at all; repeat the call until `requests_in_flight` is 0."""
        return await self._call(RunModeResult, "drain")

    async def resume(self) -> RunModeResult:
        """Caption again after `pause` or `drain`."""
        return await self._call(RunModeResult, "resume")

    async def start_recording(self, name: str) -> str:
        """Start recording `NAME.mcap` in the node's folder for recordings; returns its path."""
        return (await self._call(RecordStartResult, "record.start", name=name)).file

    async def stop_recording(self) -> dict[str, Any]:
        """Finish the recording; returns its path and the number of lost entries."""
        return await self.request("record.stop")

    async def shutdown(self) -> None:
        """Request the node to finish accepted work and to exit."""
        await self.request("shutdown")

    async def describe(
        self,
        region: RegionLike | str,
        *,
        stream: str | None = None,
        image: Image | bytes | None = None,
        style: AskedStyle = "short",
        attributes: Sequence[str] = (),
        deadline_s: float | None = None,
    ) -> Description:
        """Caption one region now: of the newest frame of `stream`, or of `image`.

        `region` is a `RegionSeed`, what `region_inputs.seed_of` takes, or the id of a live region
        of `stream`. `image` is RGB u8 [H, W, 3], or
        the bytes of a JPEG or PNG. `attributes` (`ureca.attributes`) are answered beside the
        caption; `dense` puts into it what is known of them. Raises `WireError` for a name that is
        none, and `RequestError` `NO_MODEL` for a bundle without them.
        """
        args, picture = describe_args(region, stream, image, style, attributes)
        plain = msgspec.to_builtins(args)
        result = await self.request("describe", plain, deadline_s, picture=picture)
        return typed(result, Description)
