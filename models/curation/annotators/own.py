"""Our own captioner as annotator: it needs no download and no server.

It gets a region and nothing else: neither drawn views nor prompts. A long or refined caption is its
long style. A caption counts as true if a second caption, of the region cut out with a margin, names
the same kind of object or part.
"""

from __future__ import annotations

import re
import threading

import numpy as np

from ureca.datatypes import Image, Mask, RegionInput, RowDone, Style
from ureca.engine import Engine
from ureca.models.curation.prompts import AnnotatorQuestion, Answer
from ureca.models.runtime.server.views import compute_box_with_margin

_LOOK_MARGIN = 1.0
_SMALL = re.compile(
    r"\b(an?|the|of|in|on|at|to|with|and|or|by|from|near|next|its?|his|her|their|there|is|are|this|"
    r"that|some|two|three|left|right|front|behind|above|below|top|bottom)\b"
)


class OwnAnnotator:
    """Annotates with an `Engine`, one question at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._last: tuple[Image | None, object] = (None, None)

    @property
    def model(self) -> str:
        """Name of captioner and bundle."""
        info = self._engine.info
        return f"{info.model}@{info.bundle_sha[:16]}"

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """Return a caption, or `True` or `False` for `verify`."""
        with self._lock:
            if question.kind == "verify":
                return Answer(str(self._verify(question)))
            style: Style = "short" if question.kind == "short" else "long"
            return Answer(self._generate(question.image, question.mask, style))

    def _verify(self, question: AnnotatorQuestion) -> bool:
        part = compute_box_with_margin(question.mask, _LOOK_MARGIN)
        image = np.ascontiguousarray(question.image[part])
        again = self._generate(image, np.ascontiguousarray(question.mask[part]), "short")
        return bool(_list_content_words(again) & _list_content_words(question.said))

    def _generate(self, image: Image, mask: Mask, style: Style) -> str:
        if self._last[0] is not image:  # questions about one image follow each other
            self._last = (image, self._engine.encode(image))
        region = RegionInput(mask, style, self._engine.info.max_new_tokens)
        events = self._engine.caption(self._last[1], [region])
        return next(event.text for event in events if isinstance(event, RowDone))


def _list_content_words(text: str) -> set[str]:
    """Return the words with meaning, without their plural."""
    return {word.removesuffix("s") for word in re.findall(r"\w+", _SMALL.sub("", text.lower()))}
