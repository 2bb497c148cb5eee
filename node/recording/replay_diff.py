"""Compares a replay with its recording: decisions, masks and captions, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ureca.node.recording.reader import Recording
from ureca.node.recording.replay import Replayed, Story, event_story
from ureca.protocol.event_table import spec_of
from ureca.protocol.events import (
    AnyEvent,
    CaptionTerminal,
    Heartbeat,
    RecordingStopped,
    RegionEvent,
    TextEvent,
)

_MOST = 10


def differences(recording: Recording, replayed: Replayed) -> list[str]:
    """At most ten differences, each as one line; none if all is equal.

    A cut recording is compared up to its end.
    """
    found = _all(recording, replayed)
    return [line for line, _ in zip(found, range(_MOST), strict=False)]


def _all(recording: Recording, replayed: Replayed) -> Iterator[str]:
    last = max(replayed.tracks, default=-1)
    for step in recording.steps:
        batch = replayed.batches.get(step.number, [])
        if step.batch != batch and (replayed.gap is None or step.number <= last):
            yield f"step {step.number}: decided {batch}, recorded {step.batch}"
        grounding = replayed.groundings.get(step.number)
        if step.grounding != grounding and (replayed.gap is None or step.number <= last):
            yield f"step {step.number}: decided {grounding}, recorded {step.grounding}"
        answered = replayed.answers.get(step.number, step.answers)
        if step.answers != answered:
            yield f"step {step.number}: answered {answered}, recorded {step.answers}"
    for number, seen in recording.tracks.items():
        if number in replayed.tracks and replayed.tracks[number] != seen:
            yield f"step {number}: other regions or masks than recorded"
    whole = recording.loss is None and replayed.gap is None
    yield from _events(recording.events, replayed.events, whole=whole)
    yield from _events(recording.replies, replayed.replies, whole=whole)


def _events(recorded: list[AnyEvent], again: list[AnyEvent], *, whole: bool) -> Iterator[str]:
    """Events that may never be dropped, by what they are about."""
    recorded_stories, new_stories = _stories(recorded), _stories(again)
    for key, stories in recorded_stories.items():
        others = new_stories.get(key, [])
        compared = others[: len(stories)] if not whole else others
        if stories != compared and (whole or len(stories) <= len(others)):
            new_texts, recorded_texts = _differing(compared, stories), _differing(stories, compared)
            yield f"{key}: now {new_texts}, recorded {recorded_texts}"
    for key in new_stories.keys() - recorded_stories.keys() if whole else ():
        yield f"{key}: published now, not recorded"


def _stories(events: Iterable[AnyEvent]) -> dict[str, list[Story]]:
    """By region or request; the threads of a live node mix them differently."""
    found: dict[str, list[Story]] = {}
    for event in events:
        if isinstance(event, Heartbeat | RecordingStopped) or spec_of(event).loss != "never":
            continue
        found.setdefault(_about(event), []).append(event_story(event))
    return found


def _about(event: AnyEvent) -> str:
    if isinstance(event, CaptionTerminal):
        return f"request {event.request_id}"
    if isinstance(event, TextEvent):
        return f"text {event.stream} {event.text!r}"
    return f"region {event.stream}/{event.rid}" if isinstance(event, RegionEvent) else "the node"


def _differing(ours: list[Story], theirs: list[Story]) -> object:
    """The first story that the other side does not have, and of it only what differs."""
    for number, story in enumerate(ours):
        other = theirs[number] if number < len(theirs) else {}
        changed = {key: value for key, value in story.items() if other.get(key) != value}
        if changed:
            return changed
    return "nothing more"
