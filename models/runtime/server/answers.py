"""Reads captions from the answer of a language model: strictly, and never with a guess."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_CHARS = 1200
_MARKS = re.compile(
    r"\b(outlin\w*|contour\w*|(?:yellow|blue|coloured|colored) line|blur\w*|number (?:0|zero))\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def parse_sentence(text: str) -> str | None:
    """Return a caption from an answer; None if there is none."""
    text = " ".join(text.split()).strip(" \"'`*")
    if not text or len(text) > MAX_CHARS or not re.search(r"\w", text) or _MARKS.search(text):
        return None
    return text


class AnswerError(ValueError):
    """An answer, or its text for one region, cannot be used; the message says why."""


def parse_captions(text: str, count: int) -> dict[int, str | AnswerError]:
    """Return the text, or what is wrong with it, for each of the numbers 1 to `count`.

    `text` is one JSON object from numbers to texts, alone or inside one Markdown fence. Raises
    `AnswerError` for anything else, for a number that stands twice and for one that was not asked.
    """
    pairs = _read_object(text)
    numbers = [number for number, _ in pairs]
    wanted = [str(number) for number in range(1, count + 1)]
    if len(set(numbers)) != len(numbers):
        raise AnswerError("the answer holds a number twice")
    strange = [number for number in numbers if number not in wanted]
    if strange:
        raise AnswerError(f"the answer is about {strange[0]!a:.40}, asked were 1 to {count}")
    given = dict(pairs)
    return {number: _check(given.get(str(number)), number) for number in range(1, count + 1)}


def _read_object(text: str) -> list[tuple[str, Any]]:
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is no JSON object: {error}; {text!a:.60}") from error
    if not isinstance(found, _Pairs):
        raise AnswerError(f"the answer is no JSON object: {text!a:.60}")
    return found


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object in their order, doubles included."""


def _check(value: object, number: int) -> str | AnswerError:
    if value is None:
        return AnswerError(f"the answer says nothing about number {number}")
    if not isinstance(value, str):
        return AnswerError(f"the answer has no text for number {number}: {value!a:.60}")
    words = parse_sentence(value)
    if words is None:
        return AnswerError(f"the text for number {number} is empty, too long or about the outlines")
    if not words.isprintable():
        return AnswerError(f"the text for number {number} has characters that cannot be printed")
    return words
