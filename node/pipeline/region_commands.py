"""Requests that change regions: left by the control thread, carried out by the step thread between
two frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from ureca.datatypes import Track, TrackState
from ureca.errors import RequestError, UrecaError
from ureca.node.pipeline.request_queue import Key, Order
from ureca.node.pipeline.stream import StepEvents, Stream
from ureca.node.scheduling.caption_policy import Policy
from ureca.node.scheduling.stream_arbiter import Halt
from ureca.protocol.region_requests import (
    CancelArgs,
    DrainArgs,
    PauseArgs,
    PolicyArgs,
    PolicyPatch,
    PromptArgs,
    RegionAddArgs,
    RegionListArgs,
    RegionRemoveArgs,
    RegionUpdateArgs,
    ResumeArgs,
)

Plain = dict[str, Any]


class Orders:
    """Carries orders out on the streams there are. Raises `RequestError` and `RegionError`, and
    then nothing has changed.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        *,
        tell: Callable[[StepEvents], None],
        cancel: Callable[[Key], bool],
        halt: Callable[[Halt], int],
    ) -> None:
        self._streams = streams
        self._tell = tell
        self._cancel = cancel
        self._halt = halt
        self._table: dict[type, Callable[..., Plain]] = {
            PolicyArgs: self._set_policy,
            PromptArgs: self._set_prompt,
            RegionAddArgs: self._add,
            RegionUpdateArgs: self._update,
            RegionRemoveArgs: self._remove,
            RegionListArgs: self._list,
            PauseArgs: partial(self._set_halt, "paused"),
            DrainArgs: partial(self._set_halt, "draining"),
            ResumeArgs: partial(self._set_halt, ""),
        }

    def carry_out(self, order: Order, *, now_ns: int) -> None:
        """Execute `order` and reply to it."""
        try:
            if now_ns > order.deadline_ns:
                raise RequestError("not done before the deadline", code="DEADLINE")
            if isinstance(order.args, CancelArgs):
                found = self._cancel((order.client, order.args.id))
                order.reply({"cancelled": found})
            else:
                order.reply(self._table[type(order.args)](order.args, now_ns))
        except UrecaError as error:
            order.fail(error)

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            known = sorted(self._streams) or "none yet"
            raise RequestError(f"no stream {name!r}; there are {known}", code="NO_STREAM")
        return self._streams[name]

    def _set_policy(self, args: PolicyArgs, now_ns: int) -> Plain:
        stream = self._stream(args.stream)
        self._tell(stream.set_policy(args.rid, args.policy, now_ns=now_ns))
        return {"policy": _policy(stream.policies.of(args.rid))}

    def _set_prompt(self, args: PromptArgs, now_ns: int) -> Plain:
        stream = self._stream(args.stream)
        self._tell(stream.set_policy(args.rid, PolicyPatch(style=args.prompt), now_ns=now_ns))
        return {"prompt_id": stream.policies.of(args.rid).style}

    def _add(self, args: RegionAddArgs, now_ns: int) -> Plain:
        stream = self._stream(args.stream)
        seed = args.region.seed(stream.frame.width, stream.frame.height)
        rid, news = stream.add(seed, args.policy or PolicyPatch(), now_ns=now_ns)
        self._tell(news)
        return {"rid": rid, "seq": stream.frame.seq, "policy": _policy(stream.policies.of(rid))}

    def _update(self, args: RegionUpdateArgs, now_ns: int) -> Plain:
        stream = self._stream(args.stream)
        seed = args.region.seed(stream.frame.width, stream.frame.height)
        self._tell(stream.move(args.rid, seed, now_ns=now_ns))
        return {"rid": args.rid, "seq": stream.frame.seq}

    def _remove(self, args: RegionRemoveArgs, now_ns: int) -> Plain:
        self._tell(self._stream(args.stream).remove(args.rid, now_ns=now_ns))
        return {"rid": args.rid}

    def _list(self, args: RegionListArgs, now_ns: int) -> Plain:
        stream = self._stream(args.stream)
        tracks = [t for t in stream.tracks.tracks if t.state is not TrackState.ENDED]
        return {"regions": [_region(track, stream.policies.of(track.rid)) for track in tracks]}

    def _set_halt(self, halt: Halt, args: msgspec.Struct, now_ns: int) -> Plain:
        return {"state": halt or "running", "requests_in_flight": self._halt(halt)}


def _region(track: Track, policy: Policy) -> Plain:
    return {
        "rid": track.rid,
        "state": track.state.value,
        "box": list(track.box_xyxy_px),
        "label": track.label,
        "parent": track.parent,
        "age_frames": track.age_frames,
        "missed_frames": track.missed_frames,
        "policy": _policy(policy),
    }


def _policy(policy: Policy) -> Plain:
    plain: Plain = msgspec.to_builtins(policy)
    return {**plain, "triggers": sorted(plain["triggers"])}
