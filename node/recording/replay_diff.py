"""Compares a replay with its recording: decisions, masks and captions, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ureca.node.recording.reader import Recording
from ureca.node.recording.replay import Replayed, Story, event_story
from ureca.protocol.event_table import spec_of
from ureca.protocol.events import AnyEvent, CaptionTerminal, Heartbeat, RecordingStopped

_MOST = 10


def differences(recording: Recording, replayed: Replayed) -> list[str]:
    """At most ten differences, each as one line; none if all is equal.

    A cut recording is compared up to its end.
    """
    found = _all(recording, replayed)
    return [line for line, _ in zip(found, range(_MOST), strict=False)]


def _all(recording: Recording, replayed: Replayed) -> Iterator[str]:
    last = max(replayed.tracks, default=-1)
    for turn in recording.turns:
        jobs = replayed.jobs.get(turn.n, [])
        if turn.jobs != jobs and (replayed.gap is None or turn.n <= last):
            yield f"turn {turn.n}: decided {jobs}, recorded {turn.jobs}"
        if turn.answers != replayed.answers.get(turn.n, turn.answers):
            yield f"turn {turn.n}: answered {replayed.answers[turn.n]}, recorded {turn.answers}"
    for number, seen in recording.tracks.items():
        if number in replayed.tracks and replayed.tracks[number] != seen:
            yield f"turn {number}: other regions or masks than recorded"
    whole = recording.loss is None and replayed.gap is None
    yield from _events(recording.events, replayed.events, whole=whole)
    yield from _events(recording.replies, replayed.replies, whole=whole)


def _events(recorded: list[AnyEvent], again: list[AnyEvent], *, whole: bool) -> Iterator[str]:
    """Events that may never be dropped, by what they are about."""
    then, now = _stories(recorded), _stories(again)
    for key, stories in then.items():
        others = now.get(key, [])
        compared = others[: len(stories)] if not whole else others
        if stories != compared and (whole or len(stories) <= len(others)):
            now_said, then_said = _differing(compared, stories), _differing(stories, compared)
            yield f"{key}: now {now_said}, recorded {then_said}"
    for key in now.keys() - then.keys() if whole else ():
        yield f"{key}: said now and not recorded"


def _stories(events: Iterable[AnyEvent]) -> dict[str, list[Story]]:
    """By region or request; the threads of a live node mix them differently."""
    found: dict[str, list[Story]] = {}
    for event in events:
        if isinstance(event, Heartbeat | RecordingStopped) or spec_of(event).loss != "never":
            continue
        about = (
            f"request {event.request_id}"
            if isinstance(event, CaptionTerminal)
            else f"region {event.stream}/{event.rid}"
        )
        found.setdefault(about, []).append(event_story(event))
    return found


def _differing(ours: list[Story], theirs: list[Story]) -> object:
    """The first story that the other side does not have, and of it only what differs."""
    for number, story in enumerate(ours):
        other = theirs[number] if number < len(theirs) else {}
        changed = {key: value for key, value in story.items() if other.get(key) != value}
        if changed:
            return changed
    return "nothing more"
