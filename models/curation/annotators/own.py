"""Our own captioner as annotator: no download, no server, and no better than it is.

It sees a region and nothing else: neither drawn views nor prompts. A long or refined caption is
its long style. A caption is taken as true when a second look, at the region cut out with some
surroundings, names the same kind of thing or part.
"""

from __future__ import annotations

import re
import threading

import numpy as np

from ureca.datatypes import Image, Mask, RegionInput, RowDone, Style
from ureca.engine import Engine
from ureca.models.curation.prompts import AnnotatorQuestion, Answer
from ureca.models.curation.views import box_with_margin

_LOOK_MARGIN = 1.0
_SMALL = re.compile(
    r"\b(an?|the|of|in|on|at|to|with|and|or|by|from|near|next|its?|his|her|their|there|is|are|this|"
    r"that|some|two|three|left|right|front|behind|above|below|top|bottom)\b"
)


class OwnAnnotator:
    """Answers with an `Engine`; one question at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._last: tuple[Image | None, object] = (None, None)

    @property
    def model(self) -> str:
        """Model and bundle."""
        info = self._engine.info
        return f"{info.model}@{info.bundle_sha[:16]}"

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """A caption, or `True` or `False` for `verify`."""
        with self._lock:
            if question.kind == "verify":
                return Answer(str(self._holds(question)))
            style: Style = "short" if question.kind == "short" else "long"
            return Answer(self._caption(question.image, question.mask, style))

    def _holds(self, question: AnnotatorQuestion) -> bool:
        part = box_with_margin(question.mask, _LOOK_MARGIN)
        image = np.ascontiguousarray(question.image[part])
        again = self._caption(image, np.ascontiguousarray(question.mask[part]), "short")
        return bool(_content(again) & _content(question.said))

    def _caption(self, image: Image, mask: Mask, style: Style) -> str:
        if self._last[0] is not image:  # questions about one picture come one after another
            self._last = (image, self._engine.encode(image))
        region = RegionInput(mask, style, self._engine.info.max_new_tokens)
        events = self._engine.caption(self._last[1], [region])
        return next(event.text for event in events if isinstance(event, RowDone))


def _content(text: str) -> set[str]:
    """Words that mean something, without their plural."""
    return {word.removesuffix("s") for word in re.findall(r"\w+", _SMALL.sub("", text.lower()))}
