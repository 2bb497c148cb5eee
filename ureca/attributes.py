"""Attributes of regions: which there are, what is answered to each, and captions made of them.

The names are FineCaption's (arXiv 2411.15411, CompositionCap) and five of our own. `describe`
asks for them (`docs/attributes.md`). A bundle says which of them it can answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

Support = Literal["supported", "experimental", "tabletop", "off"]
"""`off`: answered only with `person_words: full`, because it is often wrong about people."""
AttributeStatus = Literal["said", "abstained", "not_supported"]
MAX_ATTRIBUTES = 32
"""The most names in one request."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: how far it is supported, and what an answer says."""

    support: Support
    about: str


ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType(
    {
        "category": Attribute("supported", "what it is: a head noun"),
        "colour": Attribute("supported", "its main colour"),
        "material": Attribute("supported", "what it is made of"),
        "clothing": Attribute("supported", "what a person wears"),
        "location": Attribute("supported", "where in the image it is, computed from the mask"),
        "interaction": Attribute("supported", "what a person or animal does with another thing"),
        "hair": Attribute("supported", "hair colour, a beard, a bald head"),
        "pattern": Attribute("supported", "striped, spotted, chequered ..."),
        "count": Attribute("supported", "how many things the region has"),
        "state": Attribute("supported", "open, closed, lying, wet, dirty ..."),
        "size": Attribute("supported", "small, large ... as people say it"),
        "pose": Attribute("experimental", "sitting, standing, running ..."),
        "texture": Attribute("experimental", "banded, bubbly, cracked ... of a surface"),
        "shape": Attribute("tabletop", "round, flat, tall ..."),
        "viewing_angle": Attribute("tabletop", "from how high the camera sees it"),
        "age": Attribute("off", "a person's age range"),
        "expression": Attribute("off", "a facial expression"),
    }
)
"""The attributes that may be asked for, by name."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "body_shape": "people's words for bodies are too few and too often wrong",
        "skin": "its words are mostly about ethnicity",
    }
)
"""Attributes of FineCaption that are refused on purpose, and why. (Four of its eighteen names are
known to nobody outside.)
"""

OFF_BY_DEFAULT = frozenset(name for name, one in ATTRIBUTES.items() if one.support == "off")
_NOT_IN_CAPTIONS = frozenset({"category", "count", "size", "location", "shape", "viewing_angle"})


class AttributeAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one attribute of one region. `probability` 0..1 is calibrated: that of `text`,
    or with `abstained` that of the best word, which is not told because it is below the
    attribute's threshold. `not_supported`: this bundle cannot answer, or it is off.
    """

    name: str
    status: AttributeStatus
    text: str | None = None
    probability: float | None = None


def check_attributes(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. Raises `ValueError` for an unknown, a refused or one name too many."""
    kept = tuple(dict.fromkeys(names))
    for name in kept:
        if name in REFUSED:
            raise ValueError(f"the attribute {name!r} is refused: {REFUSED[name]}")
        if name not in ATTRIBUTES:
            raise ValueError(f"expected attributes of {', '.join(ATTRIBUTES)}; got {name[:40]!r}")
    if len(kept) > MAX_ATTRIBUTES:
        raise ValueError(f"expected at most {MAX_ATTRIBUTES} attributes, got {len(kept)}")
    return kept


def complete_answers(
    names: Sequence[str], answers: Iterable[AttributeAnswer], *, off: frozenset[str] = frozenset()
) -> tuple[AttributeAnswer, ...]:
    """One answer for each of `names`, in their order; `not_supported` where there is none, or where
    it is in `off`.
    """
    told = {one.name: one for one in answers if one.name not in off}
    return tuple(told.get(n) or AttributeAnswer(name=n, status="not_supported") for n in names)


def compose_dense(caption: str, answers: Iterable[AttributeAnswer]) -> str:
    """The short caption, then a clause for each attribute that was said and adds a word: "a mug,
    red, made of metal". The caption stays as it is, so text that was streamed stays true.
    """
    clauses: list[str] = []
    words = set(caption.lower().replace(",", " ").split())
    for one in answers:
        if one.status != "said" or not one.text or one.name in _NOT_IN_CAPTIONS:
            continue
        # "a wooden table" says "wood" already
        if not any(word.startswith(new) for word in words for new in one.text.split()):
            clauses.append(_CLAUSES.get(one.name, "{}").format(one.text))
            words |= set(one.text.split())
    return ", ".join([caption.strip(), *clauses])


_CLAUSES = {
    "material": "made of {}",
    "clothing": "wearing {}",
    "hair": "with {}",
    "expression": "looking {}",
    "texture": "with a {} surface",
}
