"""Executes requests that change regions, policies or the run mode, between two frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from ureca.datatypes import JsonObject, Track, TrackState
from ureca.errors import RequestError, UrecaError
from ureca.node.pipeline.step import RegionCommand, RequestKey
from ureca.node.pipeline.stream import Stream, StreamUpdate
from ureca.node.scheduling.caption_policy import Policy, plain_policy
from ureca.node.scheduling.stream_arbiter import RunMode
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


class RegionCommands:
    """Runs region commands on the streams there are. A command that fails has changed nothing."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        *,
        take: Callable[[StreamUpdate], None],
        cancel: Callable[[RequestKey], bool],
        set_run_mode: Callable[[RunMode], int],
        add_text: Callable[[RegionCommand], JsonObject | None],
    ) -> None:
        self._streams = streams
        self._take = take
        self._cancel = cancel
        self._set_mode = set_run_mode
        self._add_text = add_text
        self._table: dict[type, Callable[..., JsonObject]] = {
            PolicyArgs: self._set_policy,
            PromptArgs: self._set_prompt,
            RegionAddArgs: self._add,
            RegionUpdateArgs: self._update,
            RegionRemoveArgs: self._remove,
            RegionListArgs: self._list,
            PauseArgs: partial(self._set_run_mode, "paused"),
            DrainArgs: partial(self._set_run_mode, "draining"),
            ResumeArgs: partial(self._set_run_mode, ""),
        }

    def run(self, command: RegionCommand, *, now_ns: int) -> JsonObject | UrecaError | None:
        """The result of `command`, or why it cannot be done; None when it is answered later."""
        try:
            if now_ns > command.deadline_ns:
                raise RequestError("not done before the deadline", code="DEADLINE")
            if isinstance(command.args, CancelArgs):
                return {"cancelled": self._cancel((command.client, command.args.id))}
            if isinstance(command.args, RegionAddArgs) and command.args.text is not None:
                return self._add_text(command)
            return self._table[type(command.args)](command.args, now_ns)
        except UrecaError as error:
            return error

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            known = sorted(self._streams) or "none yet"
            raise RequestError(f"no stream {name!r}; there are {known}", code="NO_STREAM")
        return self._streams[name]

    def _set_policy(self, args: PolicyArgs, now_ns: int) -> JsonObject:
        stream = self._stream(args.stream)
        self._take(stream.set_policy(args.rid, args.policy, now_ns=now_ns))
        return {"policy": plain_policy(stream.policies.of(args.rid))}

    def _set_prompt(self, args: PromptArgs, now_ns: int) -> JsonObject:
        stream = self._stream(args.stream)
        self._take(stream.set_policy(args.rid, PolicyPatch(style=args.prompt), now_ns=now_ns))
        return {"prompt_id": stream.policies.of(args.rid).style}

    def _add(self, args: RegionAddArgs, now_ns: int) -> JsonObject:
        stream = self._stream(args.stream)
        assert args.region is not None  # texts have a way of their own: `TextSearch.add`
        seed = args.region.seed(stream.frame.width, stream.frame.height)
        rid, news = stream.add(seed, args.policy or PolicyPatch(), now_ns=now_ns)
        self._take(news)
        return {
            "rid": rid,
            "seq": stream.frame.seq,
            "policy": plain_policy(stream.policies.of(rid)),
        }

    def _update(self, args: RegionUpdateArgs, now_ns: int) -> JsonObject:
        stream = self._stream(args.stream)
        seed = args.region.seed(stream.frame.width, stream.frame.height)
        self._take(stream.move(args.rid, seed, now_ns=now_ns))
        return {"rid": args.rid, "seq": stream.frame.seq}

    def _remove(self, args: RegionRemoveArgs, now_ns: int) -> JsonObject:
        self._take(self._stream(args.stream).remove(args.rid, now_ns=now_ns))
        return {"rid": args.rid}

    def _list(self, args: RegionListArgs, now_ns: int) -> JsonObject:
        stream = self._stream(args.stream)
        tracks = [t for t in stream.tracks.tracks if t.state is not TrackState.ENDED]
        return {"regions": [_region(track, stream.policies.of(track.rid)) for track in tracks]}

    def _set_run_mode(self, run_mode: RunMode, args: msgspec.Struct, now_ns: int) -> JsonObject:
        return {"state": run_mode or "running", "requests_in_flight": self._set_mode(run_mode)}


def _region(track: Track, policy: Policy) -> JsonObject:
    return {
        "rid": track.rid,
        "state": track.state.value,
        "box": list(track.box_xyxy_px),
        "label": track.label,
        "parent": track.parent,
        "age_frames": track.age_frames,
        "missed_frames": track.missed_frames,
        "policy": plain_policy(policy),
    }
