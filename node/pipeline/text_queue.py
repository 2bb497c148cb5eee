"""The texts of all streams that wait to be asked, and the masks that they are asked of. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ureca.datatypes import Frame, TextPrompt, TrackState
from ureca.errors import RequestError
from ureca.models.runtime.grounding.phrases import asks_for_part
from ureca.node.captioning.grounding import GroundingCandidate
from ureca.node.config import NodeConfig
from ureca.node.pipeline.step import RequestKey
from ureca.node.pipeline.stream import Stream
from ureca.node.pipeline.text_questions import (
    NOTHING_TO_ASK,
    StreamTexts,
    TextQuestion,
    question_of,
)
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest, KeyframeResult
from ureca.protocol.requests import Where

MAX_TEXTS = 16
"""Texts of one grounding; more wait for the next."""
_STUCK_NS = 30_000_000_000
"""The end of a run waits no longer for the masks of a keyframe."""
_NO_SEGMENTER = (
    "this node has no segmenter, so there are no masks of the whole frame: ask with where=tracks, "
    "or start it with --config configs/node/segmenter.yaml"
)


class TextQueue:
    """Questions by stream; those that have waited longest are asked first."""

    def __init__(self, config: NodeConfig, streams: Mapping[str, Stream]) -> None:
        self._config = config
        self._has_segmenter = config.segmenter.is_on
        self._streams = streams
        self._order = itertools.count(1)
        self._texts: dict[str, StreamTexts] = {}

    def __iter__(self) -> Iterator[TextQuestion]:
        """All questions; they may be dropped on the way."""
        return iter([one for texts in self._texts.values() for one in texts.questions])

    @property
    def where(self) -> Where:
        """What texts are asked of if nobody says it."""
        return "frame" if self._has_segmenter else "tracks"

    def ask(self, question: TextQuestion) -> None:
        """Take a question. Raises `RequestError` when there is nothing to ask, or no room."""
        stream = self._streams.get(question.stream)
        if stream is None:
            known = sorted(self._streams) or "none yet"
            message = f"no stream {question.stream!r}; there are {known}"
            raise RequestError(message, code="NO_STREAM")
        if question.where == "frame" and not self._has_segmenter:
            raise RequestError(_NO_SEGMENTER, code="NO_MODEL")
        if question.where == "tracks" and not _has_regions(stream):
            raise RequestError(NOTHING_TO_ASK, code="NO_MODEL")
        self._of(question.stream).ask(question, self._order)

    def drop(self, question: TextQuestion) -> None:
        """Ask it no more."""
        question.is_over = True
        if question.stream in self._texts:
            self._texts[question.stream].drop(question)

    def forget(self, name: str) -> None:
        """The stream has ended."""
        self._texts.pop(name, None)

    def follow(self, stream: Stream) -> None:
        """A frame has come: standing texts of the configuration begin, others may be due again."""
        name = stream.frame.stream
        if name not in self._texts:
            for text in dict.fromkeys(self._config.grounding.texts):
                question = question_of(TextPrompt(text, standing=True), name, self.where)
                self._of(name).ask(question, self._order)
        self._of(name).follow(stream.tracks, self._order)

    def of_key(self, key: RequestKey) -> list[TextQuestion]:
        """What a request asked for."""
        return [one for one in self if one.key == key]

    def due(self, *, with_standing: bool) -> list[TextQuestion]:
        """The questions that may be asked now, the longest waiting first."""
        found = [
            one
            for texts in self._texts.values()
            for one in texts.due(with_standing=with_standing)
            if self._can_ask(one)
        ]
        return sorted(found, key=lambda one: one.order or 0)

    def next_group(self, *, with_standing: bool) -> list[TextQuestion]:
        """The questions that have waited longest and are asked of the same masks; at most
        `MAX_TEXTS`.
        """
        due = self.due(with_standing=with_standing)
        alike = [one for one in due if one.asked_of == due[0].asked_of]
        return alike[:MAX_TEXTS]

    def candidates(self, question: TextQuestion) -> tuple[Frame, tuple[GroundingCandidate, ...]]:
        """The frame and the masks that the question is asked of; there may be none."""
        stream, masks = self._streams[question.stream], self._of(question.stream).masks
        if question.where == "frame" and masks is not None:
            return masks.frame, masks.candidates()
        tracks = stream.tracks.tracks
        return stream.frame, tuple(
            GroundingCandidate(track.mask, track.rid) for track in tracks if track.mask is not None
        )

    # --- keyframes -------------------------------------------------------------------------------

    def wants_masks(self, stream: str) -> tuple[int, bool]:
        """How many masks of the next keyframe texts are to be asked of, and whether at once."""
        texts = self._texts.get(stream)
        if texts is None or not self._has_segmenter:
            return 0, False
        is_wanted, at_once = texts.wants_masks()
        return self._config.grounding.max_candidates if is_wanted else 0, at_once

    def asks_for_parts(self, stream: str) -> bool:
        """Whether a text that waits is about a part of a thing."""
        texts = self._texts.get(stream)
        return texts is not None and any(
            one.level == "part" or asks_for_part(one.text) for one in texts.waiting()
        )

    def keyframe_taken(self, keyframe: KeyframeRequest, now_ns: int) -> None:
        """The segmenter has it now."""
        if keyframe.candidates:
            texts = self._of(keyframe.frame.stream)
            texts.keyframe, texts.keyframe_ns = keyframe.frame, now_ns

    def awaits_masks(self, now_ns: int) -> bool:
        """Whether a text that was never asked waits for a segmenter that is not stuck."""
        return any(
            texts.keyframe is not None
            and now_ns - texts.keyframe_ns < _STUCK_NS
            and any(not one.asks for one in texts.waiting())
            for texts in self._texts.values()
        )

    def take_masks(
        self, results: Sequence[KeyframeResult], in_flight: Frame | None
    ) -> list[tuple[TextQuestion, str]]:
        """Keyframes were cut; returns the questions that failed with it, and why. `in_flight` is
        the frame that the captioner is asked about.
        """
        failed: list[tuple[TextQuestion, str]] = []
        for result in results:
            texts = self._texts.get(result.stream)
            if texts is None or texts.keyframe is None or texts.keyframe.seq != result.seq:
                continue
            if result.candidates is not None:
                seen = texts.take_masks(result.candidates, self._order)
                if seen is not None and seen is not in_flight:
                    self._streams[result.stream].end_texts(seen.seq)
                continue
            texts.keyframe = None
            self._streams[result.stream].end_texts(result.seq)
            failed += [(one, str(result.failure)) for one in texts.waiting() if not one.standing]
        return failed

    def end_masks(self, question: TextQuestion, frame: Frame) -> None:
        """A grounding has ended: let go of its keyframe if nobody asks it any more."""
        texts = self._of(question.stream)
        if question.where != "frame":
            return
        is_newest = texts.masks is not None and texts.masks.frame is frame
        if is_newest and any(one.where == "frame" and one.order for one in texts.questions):
            return
        self._streams[question.stream].end_texts(frame.seq)
        if is_newest:
            texts.masks = None

    def _of(self, name: str) -> StreamTexts:
        if name not in self._texts:
            limit = self._config.limits.max_texts
            self._texts[name] = StreamTexts(self._config.grounding, limit)
        return self._texts[name]

    def _can_ask(self, question: TextQuestion) -> bool:
        """A standing text waits where there is nothing to ask; requests were refused before."""
        stream = self._streams[question.stream]
        return question.where == "frame" or not question.standing or _has_regions(stream)


def _has_regions(stream: Stream) -> bool:
    """Whether there is, or at any time may be, a region: a sender that makes masks counts."""
    live = any(track.state is not TrackState.ENDED for track in stream.tracks.tracks)
    return live or stream.frame.regions is not None
