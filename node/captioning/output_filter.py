"""The output filter of captions: text that is no caption becomes a typed failure, counted by kind,
and is stored for inspection.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any, Literal, NamedTuple

from ureca.datatypes import RegionRequest, RowDone
from ureca.node.config import CaptionConfig

_LONGEST_PHRASE = 3
_MIN_LETTERS = 0.5
"""Of what is not blank, this share must be letters or digits."""
_REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no text."""
_KEPT = 16
_KEPT_CHARS = 200

RejectionReason = Literal["non_finite", "empty", "length", "charset", "score", "repetition"]


class Rejection(NamedTuple):
    """Why a text is rejected: the kind of fault, and its description."""

    fault: RejectionReason
    words: str


def find_rejection(done: RowDone, config: CaptionConfig) -> Rejection | None:
    """Why `done` must not be published as a caption; None if it is valid."""
    text = done.text.strip()
    if done.stop == "non_finite":
        return Rejection("non_finite", "the network's output was not finite")
    if not text:
        return Rejection("empty", "the caption is empty")
    if len(text) > config.max_chars:
        words = f"the caption has {len(text)} characters, at most {config.max_chars} are published"
        return Rejection("length", words)
    if (strange := _charset(text)) is not None:
        return Rejection("charset", strange)
    if not done.score >= config.min_score:  # a score that is no number fails, too
        return Rejection("score", f"the score {done.score:.2f} is below {config.min_score:.2f}")
    repeated = _repetition(text.split(), config.max_repeat)
    return None if repeated is None else Rejection("repetition", repeated)


def _charset(text: str) -> str | None:
    if not text.isprintable():
        return "the caption contains characters that cannot be printed"
    if _REPLACEMENT in text:
        return "the caption contains bytes that are no text"
    marks = [char for char in text if not char.isspace()]
    if sum(char.isalnum() for char in marks) < _MIN_LETTERS * len(marks):
        return "the caption is mostly neither letters nor digits"
    return None


def _repetition(words: list[str], allowed: int) -> str | None:
    for length in range(1, _LONGEST_PHRASE + 1):
        for start in range(len(words)):
            phrase = words[start : start + length]
            run = 1
            while words[start + run * length : start + (run + 1) * length] == phrase:
                run += 1
            if len(phrase) == length and run > allowed:
                return f"{' '.join(phrase)!r} is repeated {run} times"
    return None


class RejectedCaptions:
    """The latest texts that were kept back, and how many of each fault there were. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[RejectionReason] = Counter()
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def put(self, request: RegionRequest, done: RowDone, why: Rejection) -> None:
        """Keep a text back."""
        kept = {
            "stream": request.stream,
            "rid": request.rid,
            "request_id": request.request_id,
            "seq": request.frame_seq,
            "fault": why.fault,
            "text": done.text[:_KEPT_CHARS].encode("utf-8", "replace").decode("utf-8"),
        }
        with self._lock:
            self._counts[why.fault] += 1
            self._kept.append(kept)

    def counters(self) -> dict[str, int]:
        """How many of each fault, for the heartbeat; all are in `caption_error`, too."""
        with self._lock:
            return {f"gate_{fault}": count for fault, count in sorted(self._counts.items())}

    def latest(self) -> list[dict[str, Any]]:
        """The latest texts, for `stats`."""
        with self._lock:
            return list(self._kept)
