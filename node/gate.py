"""The last look at a caption before it is said: text that is not a caption becomes a typed
failure.
"""

from __future__ import annotations

from ureca.datatypes import RowDone
from ureca.node.config import CaptionConfig

_LONGEST_PHRASE = 3


def complaint(done: RowDone, config: CaptionConfig) -> str | None:
    """Why `done` must not be published as a caption; None when it may."""
    text = done.text.strip()
    if done.stop == "non_finite":
        return "the network's output was not finite"
    if not text:
        return "the caption is empty"
    if len(text) > config.max_chars:
        return f"the caption has {len(text)} characters, at most {config.max_chars} are published"
    if not text.isprintable():
        return "the caption contains characters that cannot be printed"
    if done.score < config.min_score:
        return f"the score {done.score:.2f} is below {config.min_score:.2f}"
    return _repetition(text.split(), config.max_repeat)


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
