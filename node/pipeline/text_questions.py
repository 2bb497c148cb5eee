"""The texts that one stream is asked, and when each is due. Pure: no clock, no engine.

A text of a client or a frame's prompt is asked once. A standing text is asked again until it is
found: with a segmenter on every keyframe, else on every n-th frame and when a region appears. When
all regions that it named have ended, it is asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ureca.datatypes import Frame, Level, TextPrompt, TrackSet, TrackState
from ureca.errors import RequestError
from ureca.node.captioning.grounding import GroundingCandidate
from ureca.node.config import GroundingConfig
from ureca.node.pipeline.step import FindRequest, RegionCommand, RequestKey
from ureca.node.segmentation.keyframe_segmenter import RegionMask
from ureca.protocol.region_requests import PolicyPatch
from ureca.protocol.requests import Where

_TELL_NS = 1_000_000_000
"""That a standing text is absent is told once in this time."""

NOTHING_TO_ASK = (
    "there is nothing that a text could be true of: the node has no segmenter and follows no "
    "region. Start it with --config configs/node/segmenter.yaml, send masks with the frames, or "
    "give it regions (--box, --point, --prompts)"
)


@dataclass(eq=False, slots=True)
class TextQuestion:
    """One text that is asked of one stream.

    `request` waits for the answer; without one it is a prompt. `starts`: regions are started or
    named for the answers. `order` says who has waited longest; None while it is not due.
    """

    stream: str
    text: str
    where: Where
    level: Level | None = None
    label: str | None = None
    standing: bool = False
    starts: bool = True
    policy: PolicyPatch | None = None
    request: FindRequest | RegionCommand | None = None
    key: RequestKey | None = None
    deadline_ns: int | None = None
    """Of a prompt; a request has its own."""
    order: int | None = None
    is_over: bool = False
    """It was cancelled, or is too late: its answer is of no interest."""
    is_asked: bool = False
    """The captioner has it now."""
    asks: int = 0
    """How often it was asked."""
    rids: frozenset[str] = frozenset()
    """The regions that it named."""
    told_ns: int | None = None
    _seen: frozenset[str] = frozenset()
    _since: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it wants to be asked, now or later."""
        return not self.is_over and not self.rids

    @property
    def asked_of(self) -> tuple[str, Where, Level | None]:
        """Questions with the same are asked together."""
        return self.stream, self.where, self.level

    def is_late(self, now_ns: int) -> bool:
        """Whether its deadline has passed."""
        limit_ns = self.deadline_ns if self.request is None else self.request.deadline_ns
        return limit_ns is not None and now_ns > limit_ns

    def tell_absent(self, now_ns: int) -> bool:
        """Whether subscribers are to hear that it is absent; they then count as told."""
        is_due = self.told_ns is None or now_ns - self.told_ns >= _TELL_NS
        self.told_ns = now_ns if is_due else self.told_ns
        return is_due

    def watch(self, visible: frozenset[str], *, every: int) -> bool:
        """One more frame has come; True when the standing text is to be asked of its regions."""
        self._since += 1
        if not visible - self._seen and self._since < every:
            return False
        self._seen, self._since = visible, 0
        return True


@dataclass(frozen=True, slots=True)
class KeyframeMasks:
    """A keyframe and all that the segmenter cut out of it."""

    frame: Frame
    masks: tuple[RegionMask, ...]

    def candidates(self) -> tuple[GroundingCandidate, ...]:
        """What a text is asked of; masks of followed regions count as sure."""
        return tuple(
            GroundingCandidate(one.mask, one.rid, 1.0 if one.rid else one.presence)
            for one in self.masks
        )


@dataclass(slots=True)
class StreamTexts:
    """The questions of one stream, and what a segmenter cut out of its newest keyframe for them."""

    config: GroundingConfig
    max_texts: int
    questions: list[TextQuestion] = field(default_factory=list)
    keyframe: Frame | None = None
    """The keyframe that the segmenter is cutting for texts."""
    keyframe_ns: int = 0
    """When the segmenter got it."""
    masks: KeyframeMasks | None = None

    def ask(self, question: TextQuestion, order: Iterator[int]) -> None:
        """Take a question. A standing one that is there already is not taken twice. Raises
        `RequestError` (LIMIT) when too many texts without a client stand or wait.
        """
        own = [one for one in self.questions if one.request is None]
        if question.standing and any(_is_same(one, question) for one in own):
            return
        if question.request is None and len(own) >= self.max_texts:
            raise RequestError(
                f"{self.max_texts} texts stand or wait on {question.stream} (limits.max_texts)",
                code="LIMIT",
            )
        if question.where == "tracks":
            question.order = next(order)
        self.questions.append(question)

    def follow(self, tracks: TrackSet, order: Iterator[int]) -> None:
        """A frame has come: standing texts may be due again."""
        live = {track.rid for track in tracks.tracks if track.state is not TrackState.ENDED}
        visible = frozenset(track.rid for track in tracks.tracks if track.mask is not None)
        for one in self.questions:
            if not one.standing:
                continue
            if one.rids and not one.rids & live:
                one.rids, one.told_ns = frozenset(), None
            waits = one.is_open and one.order is None and not one.is_asked
            if (
                waits
                and one.where == "tracks"
                and one.watch(visible, every=self.config.every_frames)
            ):
                one.order = next(order)

    def take_masks(self, masks: tuple[RegionMask, ...], order: Iterator[int]) -> Frame | None:
        """The segmenter has cut the keyframe: its questions are due. Returns the keyframe that is
        of no interest any more.
        """
        if self.keyframe is None:
            return None
        old = self.masks
        self.masks, self.keyframe = KeyframeMasks(self.keyframe, masks), None
        for one in self.waiting():
            one.order = next(order)
        return None if old is None else old.frame

    def waiting(self) -> list[TextQuestion]:
        """The questions that wait for the masks of a keyframe."""
        return [
            one
            for one in self.questions
            if one.where == "frame" and one.is_open and one.order is None and not one.is_asked
        ]

    def due(self, *, with_standing: bool) -> Iterable[TextQuestion]:
        """The questions that may be asked now."""
        return (
            one
            for one in self.questions
            if one.order is not None and one.is_open and (with_standing or not one.standing)
        )

    def wants_masks(self) -> tuple[bool, bool]:
        """Whether a keyframe's masks are wanted for texts, and whether at once."""
        waiting = self.waiting()
        return bool(waiting), any(not one.standing for one in waiting)

    def drop(self, question: TextQuestion) -> None:
        """Ask it no more."""
        question.is_over = True
        self.questions = [one for one in self.questions if one is not question]


def question_of(prompt: TextPrompt, stream: str, where: Where) -> TextQuestion:
    """The question of a frame's prompt or of the configuration."""
    return TextQuestion(
        stream=stream,
        text=prompt.text,
        where=where,
        level=prompt.level,
        label=prompt.label,
        standing=prompt.standing,
    )


def _is_same(one: TextQuestion, other: TextQuestion) -> bool:
    return one.standing and (one.text, one.where, one.level) == (
        other.text,
        other.where,
        other.level,
    )
