"""One stream: its newest frame, its regions, and what they are due. Pure: no sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ureca.datatypes import (
    Frame,
    Image,
    Mask,
    Refusal,
    RegionRequest,
    RegionSeed,
    Track,
    TrackSet,
    TrackState,
    Trigger,
)
from ureca.errors import RequestError
from ureca.node.captioning.caption_events import same
from ureca.node.config import NodeConfig
from ureca.node.masks.geometry import box_of
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.panoptic.stream_segments import StreamSegments
from ureca.node.pipeline.error_throttle import ErrorThrottle
from ureca.node.pipeline.step import DescribeRequest
from ureca.node.scheduling.caption_policy import Policies, Policy
from ureca.node.scheduling.change_detection import AppearanceSnapshot, measure_change, take_snapshot
from ureca.node.scheduling.scheduler import Abort, Changed, Check, Scheduler
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest, KeyframeResult
from ureca.node.tracking.track_events import TrackReporter
from ureca.node.tracking.tracker import Tracker
from ureca.protocol.events import AnyEvent, CaptionSame
from ureca.protocol.region_requests import PolicyPatch


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """What one frame brought: events to send, captions in flight to stop, regions refused."""

    events: list[AnyEvent]
    aborts: tuple[Abort, ...]
    refused: tuple[Refusal, ...] = ()
    prompt_refusals: tuple[str | None, ...] = ()
    """For each prompt why it was refused, None if it began."""


class Stream:
    """The regions of one stream: followed, scheduled, reported."""

    def __init__(self, frame: Frame, config: NodeConfig, ids: Iterator[int]) -> None:
        self.frame = frame
        self.tracks = TrackSet(frame.stream, frame.seq, frame.captured_ns, ())
        self.track_us = 0
        """What following the regions onto `frame` took, told by the caller, who has the clock."""
        self.policies = Policies(Policy.of(config.scheduler, config.caption))
        self.scheduler = Scheduler(config.scheduler, policies=self.policies, ids=ids)
        self.refusals = ErrorThrottle(interval_s=config.scheduler.min_interval_s)
        self._config = config.scheduler
        self._frozen_ns = int(config.source.frozen_s * 1e9)
        self._seen_ns: int | None = None
        self._changed_ns = 0
        self._max_regions = config.limits.max_regions
        self._segmenter = config.segmenter
        self._since_key: int | None = None
        self._has_begun = False
        """A region has begun and no keyframe was cut since."""
        self._tracker = Tracker(
            config.tracker.fill(config.segmenter.thresholds),
            max_regions=config.limits.max_regions,
            has_segmenter=config.segmenter.is_on,
        )
        self.corrections = self._tracker.corrections
        """Takes a segmenter's answers; the next frame takes them up."""
        self._max_segments = config.panoptic.max_segments if config.panoptic.on else 0
        self._stuff_ttl_ms = round(config.caption.ttl_ms * config.panoptic.stuff_ttl)
        self._segments = StreamSegments() if config.panoptic.on else None
        self._reporter = TrackReporter(update_hz=config.publish.update_hz)

    def follow(self, frame: Frame, prompts: Sequence[RegionSeed], *, now_ns: int) -> StreamUpdate:
        """Follow all regions onto `frame` and begin those of `prompts`."""
        update = self._tracker.update(frame, prompts, now_ns=now_ns)
        if self._seen_ns is None or not _same_picture(frame.image, self.frame.image):
            self._changed_ns = now_ns
        self._seen_ns = now_ns
        self.frame, self.tracks = frame, update.tracks
        segments = self._take_segments() if self._segments is not None else []
        if self._since_key is not None:
            self._since_key += 1
        news = self._news(self.tracks, now_ns)
        return StreamUpdate(
            [*news.events, *segments],
            news.aborts,
            (*frame.refused, *update.refused),
            update.prompt_refusals,
        )

    def offer(self, result: KeyframeResult) -> None:
        """A segmenter's answer, which the next frame takes up."""
        self.corrections.offer(result)
        if self._segments is not None:
            self._segments.offer(result)

    def _take_segments(self) -> list[AnyEvent]:
        """Let the segments of the last keyframe become regions, or be theirs."""
        changes = self._segments.take(self._tracker, self.frame) if self._segments else None
        if changes is None:
            return []
        for rid in changes.begun_stuff:
            self.policies.put(rid, self.policies.check(PolicyPatch(ttl_ms=self._stuff_ttl_ms)))
        ended = [one for one in self.tracks.tracks if one.state is TrackState.ENDED]
        now = self._tracker.list_tracks(self.frame)
        self.tracks = replace(now, tracks=(*ended, *changes.ended, *now.tracks))
        return [changes.event]

    def keyframe(self, *, candidates: int = 0, at_once: bool = False) -> KeyframeRequest | None:
        """The keyframe request for the newest frame; None if it is not due or there is nothing to
        segment. At once when a region has begun since the last one or on request, else every n-th
        frame. `candidates` is how many masks of everything texts are to be asked of.
        """
        since = self._since_key
        is_due = since is None or since >= self._segmenter.keyframe_interval
        if not is_due and not at_once and not self._has_begun:
            return None
        self._has_begun = False
        things = self._segmenter.max_regions if self._segmenter.everything else 0
        segments = self._max_segments
        keyframe_request = self._tracker.keyframe(
            self.frame, things=things, candidates=candidates, segments=segments
        )
        if keyframe_request is not None:
            self._since_key = 0
            if self._segments is not None:
                self._segments.open(self.frame, self.tracks)
        return keyframe_request

    @property
    def is_uncut(self) -> bool:
        """Whether no frame was a keyframe yet."""
        return self._since_key is None

    def pick(self, *, free_slots: int, now_ns: int) -> tuple[RegionRequest, ...]:
        """At most `free_slots` caption requests on the newest frame; see `Scheduler.pick`."""
        requests = self.scheduler.pick(self.tracks, free_slots=free_slots, now_ns=now_ns)
        for request in requests if self._config.recheck else ():
            snapshot = take_snapshot(self.frame.image, request.mask, request.box_xyxy_px)
            self.scheduler.record_snapshot(request, snapshot)
        return requests

    def renew(self, *, now_ns: int) -> list[CaptionSame]:
        """Check the captioned regions: unchanged ones are renewed, changed ones get a request. With
        a frozen image nothing is renewed, so captions expire.
        """
        if self.is_frozen:
            return []
        found = []
        for check in self.scheduler.due(now_ns=now_ns):
            changed = self._changes(check)
            renewal = self.scheduler.checked(check.track.rid, changed, now_ns=now_ns)
            if renewal is not None:
                found.append(same(renewal, self.frame))
        return found

    def _changes(self, check: Check) -> Changed | None:
        track = check.track
        assert track.mask is not None  # only what is visible is due
        if not self._differs(check.snapshot, track, track.mask):
            return None
        rests = check.before is not None and not self._differs(check.before, track, track.mask)
        return Changed(take_snapshot(self.frame.image, track.mask, track.box_xyxy_px), rests)

    def _differs(self, snapshot: AppearanceSnapshot, track: Track, mask: Mask) -> bool:
        colours, outline = measure_change(snapshot, self.frame.image, mask, track.box_xyxy_px)
        return colours >= self._config.change_look or outline >= self._config.change_outline

    def close(self, reason: str, *, now_ns: int) -> StreamUpdate:
        """End all regions."""
        ended = self._tracker.close(reason)
        self.tracks = TrackSet(self.frame.stream, self.frame.seq, self.frame.captured_ns, ended)
        return self._news(self.tracks, now_ns)

    # --- region commands -------------------------------------------------------------------------

    def add(
        self, seed: RegionSeed, policy: PolicyPatch, *, now_ns: int
    ) -> tuple[str, StreamUpdate]:
        """Add a region from the newest frame on; returns its id and its events. Raises
        `RequestError` (LIMIT) and `RegionError`.
        """
        if len(self.tracks.tracks) >= self._max_regions:
            limit = f"{self._max_regions} regions are followed already; remove one first"
            raise RequestError(limit, code="LIMIT")
        merged = self.policies.check(policy)
        track = self._tracker.add(self.frame, seed)
        self.policies.put(track.rid, merged)
        return track.rid, self._changed(track, now_ns)

    def name(self, rid: str, label: str) -> bool:
        """Set what a region is called, from its next event on; False when it has ended."""
        track = self._tracker.name(rid, label)
        if track is not None:
            self._put(track)
        return track is not None

    def begin(self, seq: int, seed: RegionSeed, *, now_ns: int) -> tuple[str, StreamUpdate]:
        """Follow a mask of keyframe `seq` from the newest frame on; returns its region's id, which
        may be one that was followed already. Raises `RegionError`.
        """
        known = {one.rid for one in self.tracks.tracks}
        track = self._tracker.begin(seq, seed, self.frame)
        if track.rid in known:
            self._put(track)
            return track.rid, StreamUpdate([], ())
        return track.rid, self._changed(track, now_ns)

    def begin_things(self, *, now_ns: int) -> StreamUpdate:
        """Take up between frames what a segmenter found by itself; see `MaskCorrections`."""
        self.tracks = self._tracker.begin_things(self.frame, now_ns=now_ns)
        return self._news(self.tracks, now_ns)

    def end_texts(self, seq: int) -> None:
        """No text will begin a region on the keyframe `seq` any more."""
        self.corrections.release(seq)

    def move(self, rid: str, seed: RegionSeed, *, now_ns: int) -> StreamUpdate:
        """Set where a propagated region is on the newest frame."""
        track = self._tracker.move(rid, self.frame, seed)
        self._has_begun = True  # for the segmenter it begins anew
        return self._changed(track, now_ns)

    def remove(self, rid: str, *, now_ns: int) -> StreamUpdate:
        """Follow a carried region no longer."""
        return self._changed(self._tracker.remove(rid), now_ns)

    def set_policy(self, rid: str | None, patch: PolicyPatch, *, now_ns: int) -> StreamUpdate:
        """Change how a region is captioned, or all that have no value of their own."""
        if rid is not None and all(track.rid != rid for track in self.tracks.tracks):
            raise RequestError(f"no region {rid!r}", code="NOT_FOUND")
        self.policies.set(rid, patch)
        return StreamUpdate([], self.scheduler.policies_changed(now_ns=now_ns))

    def _changed(self, track: Track, now_ns: int) -> StreamUpdate:
        """One track was changed between frames: put it in its place and report it alone."""
        self._put(track)
        return self._news(replace(self.tracks, tracks=(track,)), now_ns)

    def _put(self, track: Track) -> None:
        others = tuple(one for one in self.tracks.tracks if one.rid != track.rid)
        kept = others if track.state is TrackState.ENDED else (*others, track)
        self.tracks = replace(self.tracks, tracks=kept)

    # --- facts -----------------------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        """Whether frames keep coming with a picture that has been the same for too long."""
        return 0 < self._frozen_ns <= self._unchanged_ns

    @property
    def frozen_reason(self) -> str | None:
        """What `health` says of a frozen camera; None while pictures change."""
        if not self.is_frozen:
            return None
        seconds = self._unchanged_ns // 1_000_000_000
        return (
            f"{self.frame.stream}: the picture has been the same to the last bit for {seconds} s, "
            "nothing is renewed from it; is the camera frozen? (source.frozen_s)"
        )

    def is_silent(self, now_ns: int, for_ns: int) -> bool:
        """Whether no frame has come for so long."""
        return self._seen_ns is not None and now_ns - self._seen_ns >= for_ns

    @property
    def _unchanged_ns(self) -> int:
        return 0 if self._seen_ns is None else self._seen_ns - self._changed_ns

    def facts(self) -> dict[str, int]:
        """The stream's data for the heartbeat; may be called from any thread."""
        frame, tracks = self.frame, self.tracks
        return {
            "seq": frame.seq,
            "width": frame.width,
            "height": frame.height,
            "regions": len(tracks.tracks),
            "captured_ns": frame.captured_ns,
            "unchanged_ms": self._unchanged_ns // 1_000_000,
            "corrected": self.corrections.counts["taken"],
        }

    def _news(self, tracks: TrackSet, now_ns: int) -> StreamUpdate:
        self._has_begun |= any(track.state is TrackState.NEW for track in tracks.tracks)
        events = self._reporter.events(tracks, clock=self.frame.clock, now_ns=now_ns)
        return StreamUpdate(events, self.scheduler.observe(tracks, now_ns=now_ns))


_LOOK_EVERY_PX = 4
"""Every 4th pixel of every 4th row decides whether two images are the same."""


def _same_picture(one: Image, other: Image) -> bool:
    thin = slice(None, None, _LOOK_EVERY_PX)
    return one.shape == other.shape and np.array_equal(one[thin, thin], other[thin, thin])


def resolve(
    describe: DescribeRequest, frame: Frame | None, stream: Stream | None, *, request_id: int
) -> RegionRequest:
    """The caption request of `describe`. Raises `RequestError` if its stream or region is not
    there, `RegionError` if its seed does not fit `frame`.
    """
    if frame is None:
        raise RequestError(f"no stream {describe.stream!r}", code="NO_STREAM")
    if describe.seed is not None:
        mask, rid = seed_mask(describe.seed, frame.image), f"ask-{request_id}"
    else:
        seen = stream.tracks.tracks if stream else ()
        found = next((t for t in seen if t.rid == describe.rid and t.mask is not None), None)
        if found is None or found.mask is None:
            raise RequestError(f"no visible region {describe.rid!r}", code="NOT_FOUND")
        mask, rid = np.asarray(found.mask, np.bool_), found.rid
    return RegionRequest(
        request_id=request_id,
        stream=frame.stream,
        rid=rid,
        rev=0,
        frame_seq=frame.seq,
        mask=mask,
        box_xyxy_px=box_of(mask),
        trigger=Trigger.REQUEST,
        deadline_ns=describe.deadline_ns,
        style="long" if describe.style == "long" else "short",
        max_new_tokens=describe.max_new_tokens,
        attributes=describe.attributes,
        is_dense=describe.style == "dense",
    )
