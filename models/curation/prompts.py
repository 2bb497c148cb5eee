"""The prompts of an annotator, in our own words, and the check of its answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ureca.datatypes import Image, Mask

Kind = Literal["short", "long", "refine", "verify", "judge"]
_TRUTH = re.compile(r"\b(true|false|yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotatorQuestion:
    """One question about one region.

    `views` and `prompt` are for models that look and read. `image`, `mask` and `said` (the words in
    question, of `refine` and `verify`) are for those that take regions as they are.
    """

    kind: Kind
    region_id: str
    image: Image
    mask: Mask
    views: tuple[Image, ...]
    prompt: str
    said: str = ""

    def make_key(self, model: str) -> str:
        """Return a key that is equal for equal questions to the same model only."""
        digest = hashlib.sha256(f"{model}\0{self.kind}\0{self.prompt}\0{self.said}".encode())
        for view in (*self.views, self.image):
            digest.update(repr(view.shape).encode())
            digest.update(view.tobytes())
        digest.update(np.packbits(self.mask).tobytes())
        return digest.hexdigest()


def make_text_question(
    kind: Kind, region_id: str, prompt: str, *, said: str = ""
) -> AnnotatorQuestion:
    """Return a question without views."""
    nothing = np.zeros((1, 1, 3), np.uint8)
    mask = np.zeros((1, 1), np.bool_)
    return AnnotatorQuestion(
        kind=kind, region_id=region_id, image=nothing, mask=mask, views=(), prompt=prompt, said=said
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, and its cost in tokens if known."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class Annotator(Protocol):
    """Answers questions. Raises `AnnotatorError` after its own retries."""

    @property
    def model(self) -> str:
        """Name, version and settings; answers are stored under it."""

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """May be called from several threads."""


def parse_verdict(text: str) -> bool | None:
    """Return the first truth value in an answer; None if there is none."""
    found = _TRUTH.search(text)
    return None if found is None else found[1].lower() in {"true", "yes"}


def make_short_prompt(parent: str, siblings: Sequence[str]) -> str:
    """Return the prompt for one sentence about an object, or about a part of the object that
    `parent` describes.
    """
    if not parent:
        return (
            "The first picture has a line around one thing. The second shows that thing by itself. "
            "Write one sentence that begins with what the thing is and goes on with its colour, "
            "material, shape or what it does. What lies around it may only serve to place it. Do "
            "not mention the line or that anything is out of focus."
        )
    others = "".join(f"\n- {text}" for text in siblings)
    beside = f"\nOther parts of it were described as:{others}" if siblings else ""
    return (
        f"The first picture shows this thing: {parent}\nA line runs around one part of it; the "
        f"second picture shows that part by itself, the third the whole scene.{beside}\nWrite one "
        "sentence about the part inside the line. Begin with its name, then say which of the "
        "thing's parts it is, and what can be seen of its colour, material, shape or lettering. "
        "If a sentence above would fit this part, too, say what is different, but only what is "
        "there: being right matters more than being different. Do not mention the line."
    )


def make_long_prompt(short: str, parts: Sequence[str]) -> str:
    """Return the prompt for a paragraph about an object from the texts of its parts."""
    listed = "".join(f"\n- {text}" for text in parts)
    return (
        f"The thing inside the line was described as: {short}\nOf its parts somebody wrote:{listed}"
        "\nSome of this may be wrong or said twice. Write one paragraph about the thing inside the "
        "line from it. Keep only what you can see, join what belongs together, write no list, and "
        "do not mention the line."
    )


def make_refine_prompt(said: str, others: Sequence[str]) -> str:
    """Return the prompt for a text that fits the first of several similar regions and none of the
    others.
    """
    listed = "".join(f"\n{number}. {text}" for number, text in enumerate((said, *others)))
    return (
        "The picture shows things that look alike, each inside a line with a number. They were "
        f"described as:{listed}\nRewrite description 0 so that a reader without the numbers would "
        "pick thing 0 and none of the others: by its place, its neighbours, or a detail that only "
        "it has. Do not write numbers or colours of lines, and do not say that it is different. "
        "Answer with the new description only."
    )


def make_verify_prompt(said: str) -> str:
    """Return the prompt that checks a caption."""
    return (
        f"Is this true of the thing inside the line? {said}\nWording does not matter. A wrong "
        "thing, a wrong property or wrong surroundings do. Answer with True or False."
    )


def make_segment_prompt(number: int, category: str) -> str:
    """Return the prompt for one caption of a segment of a picture in which all are marked."""
    hint = f" People labelled it: {category}." if category else ""
    return (
        "In the first picture every segment has a line around it and a number. The second shows "
        f"segment {number} by itself.{hint} Write one caption of that segment in one or two "
        "sentences: begin with what it is, go on with its look, then where it is and what it does "
        "beside its neighbours, so that nobody takes it for another segment. Say only what can be "
        "seen. Do not mention numbers, lines or that anything is out of focus."
    )
