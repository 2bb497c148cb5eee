"""The prompts of the server engine, in our own words."""

from __future__ import annotations

from typing import Literal

from ureca.datatypes import Style

Pictures = Literal["both", "outlined", "crop"]

STYLE_PROMPTS: dict[Style, str] = {
    "short": (
        "Write one short noun phrase of at most 12 words for each: what it is, with the colour, "
        "material or state that can be seen."
    ),
    "long": (
        "Write one sentence for each: what it is, its colour, material, shape or lettering, and "
        "what it belongs to or does."
    ),
}


def make_prompt(wanted: str, *, count: int, pictures: Pictures) -> str:
    """Return the prompt about `count` things; `wanted` says what to write about each."""
    form = ", ".join(f'"{number}": "..."' for number in range(1, count + 1))
    return (
        f"{_introduce(count, pictures)} {wanted} Say only what can be seen in the pictures. Do not "
        "mention the lines, the numbers or the pictures. Answer with one JSON object and nothing "
        f"else, with each number once: {{{form}}}"
    )


def _introduce(count: int, pictures: Pictures) -> str:
    if count == 1:
        return {
            "both": "The first picture has a line around one thing, number 1. The second shows it "
            "from close up.",
            "outlined": "The picture has a line around one thing, number 1.",
            "crop": "The picture shows one thing, number 1, and a little of what lies around it.",
        }[pictures]
    closely = f"{count} pictures that show them from close up, in the order of their numbers."
    marked = f"has lines around {count} things, with the numbers 1 to {count}."
    return {
        "both": f"The first picture {marked} Then there are {closely}",
        "outlined": f"The picture {marked}",
        "crop": f"There are {count} things, with the numbers 1 to {count}, and {closely}",
    }[pictures]
