"""Augments training texts: texts for mirrored images, and natural phrases for class names.

Both follow rules and do not guess: a text that the rules cannot mirror truthfully is refused, and a
class name that nobody would say ("accessories") has no phrase.
"""

from __future__ import annotations

import re
from typing import Literal


def _split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_MIRROR = {"left": "right", "right": "left"}

# A word that begins with a side and means one. `left-` and `right-` stand for both.
_SIDED = re.compile(
    r"(left|right)(?:-?most|-?hand|-?handed|wards?|-?side|-(?:facing|center|centre|front|back|top"
    r"|bottom|hind|rear|arm|leg|foot))?(?:'s)?$"
)
_HALF_SIDED = re.compile(
    r"(?:far|top|bottom|upper|lower|front|back|mid|middle|center)-(left|right)$"
)
# Not a side although it begins like one; everything else that does so is doubtful.
_NO_SIDE = re.compile(r"(?:leftovers?|left-overs?|leftover-.*|rights|righteous|rightful)(?:'s)?$")
# Mirroring makes these false (writing, times, turns), and no single word makes them true again.
_UNMIRRORED = re.compile(
    r"\b(?:(?:counter-?|anti-?)?clockwise|starboard|port ?side|stage (?:left|right)"
    r"|(?:left|right)-?wing(?:er|ers)?|lett?er(?:s|ing)?|word|words|written|reads|saying"
    r"|that says?|initials|alphabet|numbers?|jersey \d+)\b|\d:\d|# ?\d"
)

_DETERMINERS = _split_words("the a an his her its their my your our far")
_PLACES = _split_words("""
    to on at from toward towards of in near by off off-center facing faces face turning turns turned
    looking looks pointing points leaning leans heading moving going walking running leaning extreme
    far bottom top upper lower front back rear center centre middle mid immediate very hard slightly
    just slight second third fourth first both back side and or
    """)
_SIDED_NOUNS = _split_words("""
    side sides hand hands arm arms leg legs foot feet eye eyes ear ears cheek shoulder wrist wrists
    knee elbow ankle thigh hip fist palm thumb finger fingers forearm calf heel toe toes paw paws
    wing wheel tire tyre half corner edge end lane third front back rear hind bottom top upper lower
    one ones most boot shoe glove sleeve sock pocket headlight handle drawer page bank part portion
    section forepaw foreleg breast lapel nostril sandal skate ski side's temple
    """)
_NEUTRAL_AFTER_RIGHT = _split_words("""
    in behind next now by outside inside after before at beside above below under underneath over
    through into onto up down there here where away near along beneath across against off out
    alongside between around past
    """)
_NEUTRAL_RIGHT_NOUNS = _split_words(
    "direction directions way time place size angle angles moment answer tool thing"
)
_NEUTRAL_AFTER_LEFT = _split_words("""
    open out over behind alone unattended empty uneaten standing a an it them there after abandoned
    """)
_VERBS_BEFORE_LEFT = _split_words("""
    is are was were be been being have has had he she they someone just get gets got who nobody
    people skiers
    """)

_POSSESSIVES = _split_words("his her its their my your our")
_FOLLOWS_SIDE = _split_words(
    "of and or to is are has as in on at with while who that wearing holding next by looking from"
) | {""}

_Sense = Literal["side", "other", "doubt"]


def mirror_text(text: str) -> str | None:
    """Return `text` as it is true of the mirrored image: "left" and "right" are exchanged.

    Words that only resemble a side ("upright", "right in front", "left open") stay. None means "do
    not mirror a region with this text": a doubtful side, writing, digits, turning directions.
    """
    if _UNMIRRORED.search(text.lower()):
        return None
    words = list(_TOKEN.finditer(text))
    plain = [word.group().lower() for word in words]
    pieces, end = [], 0
    for index, word in enumerate(words):
        sense = _find_sense(plain, index)
        if sense == "doubt":
            return None
        said = _swap_sides(word.group()) if sense == "side" else word.group()
        pieces += [text[end : word.start()], said]
        end = word.end()
    return "".join(pieces) + text[end:]


def _swap_sides(word: str) -> str:
    def other(match: re.Match[str]) -> str:
        side = _MIRROR[match.group().lower()]
        return side.capitalize() if match.group()[0].isupper() else side

    return re.sub("left|right", other, word, flags=re.IGNORECASE)


def _find_sense(words: list[str], index: int) -> _Sense:
    """What the word at `index` means: a side, something else, or nobody can tell."""
    word = words[index]
    if _HALF_SIDED.match(word):
        return "side"
    if not word.startswith(("left", "right")) or _NO_SIDE.match(word):
        return "other"
    if not _SIDED.match(word):
        return "doubt"
    if word not in _MIRROR:
        return "side"
    before = words[index - 1] if index else ""
    after = words[index + 1] if index + 1 < len(words) else ""
    return _find_bare_sense(word, before, after)


def _find_bare_sense(word: str, before: str, after: str) -> _Sense:
    """The sense of a bare "left" or "right" between its neighbours ("" at an end)."""
    pointed = before in _DETERMINERS or before.endswith("'s")
    if pointed and after in _NEUTRAL_RIGHT_NOUNS:
        return "other"
    if after in _SIDED_NOUNS:
        return "side"
    if pointed or before in _PLACES:
        return _find_pointed_sense(before, after)
    if word == "right" and after in _NEUTRAL_AFTER_RIGHT:
        return "other"
    if word == "left" and (before in _VERBS_BEFORE_LEFT or after in _NEUTRAL_AFTER_LEFT):
        return "other"
    return "doubt"


def _find_pointed_sense(before: str, after: str) -> _Sense:
    """After "the", "on", "to his" and the like: a side, unless it describes a thing that follows
    and may mean "correct" ("the right umbrella").
    """
    if before == "just" or (before in {"and", "or"} and after not in {"", "of"}):
        return "doubt"
    if before in _POSSESSIVES and after == "to":  # "their right to protest"
        return "doubt"
    return "side" if after in _FOLLOWS_SIDE else "doubt"


# --- class names --------------------------------------------------------------------------------

_COCO: dict[str, str | None] = {
    "sports ball": "a ball",
    "hair drier": "a hair dryer",
    "mouse": "a computer mouse",
    "remote": "a remote control",
    "tv": "a television",
    "scissors": "a pair of scissors",
    "skis": "skis",
    "broccoli": "broccoli",
    "image": None,  # the whole frame: its captions are its words
}
_CCP: dict[str, str | None] = {
    "null": None,
    "accessories": None,
    "intimate": None,
    "skin": None,  # all bare skin of a person in one mask: face, arms and legs, nothing one names
    "hair": "hair",
    "swimwear": "a swimsuit",
    "flats": "flat shoes",
    "heels": "high heels",
    "wedges": "wedge shoes",
}
_SPOKEN: dict[str, dict[str, str | None]] = {"coco": _COCO, "ccp": _CCP}
_UNCOUNTED = _split_words("""
    hair grass water snow sand ice dirt mud skin clothing people children men women feet teeth food
    gear equipment luggage furniture sky broccoli traffic rain smoke fire
    """)
_SINGULAR_S = re.compile(r"(?:ss|us|is|gas|lens|canvas|christmas|mattress)$")
_VOWEL_LIKE = re.compile(r"(?!uni|use|eu|one\b|once)[aeiou]|hour|honest|x-ray")


def make_class_phrase(category: str, source: str) -> str | None:
    """Return the phrase that a person would say for a class name: "a dog", "a pair of scissors",
    "shoes".

    `source` is the record's (`coco-train2017`, `ccp`, ...). None for names that nobody would say of
    a region, and for an empty name.
    """
    name = " ".join(category.lower().split())
    spoken = _SPOKEN.get(source.split("-", maxsplit=1)[0], {})
    if name in spoken or not name:
        return spoken.get(name)
    last = name.split()[-1]
    plural = last.endswith("s") and len(last) > 3 and not _SINGULAR_S.search(last)
    return name if plural or last in _UNCOUNTED else add_article(name)


def add_article(name: str) -> str:
    """Return the name after "a" or "an", by the sound of its first letters."""
    return f"{'an' if _VOWEL_LIKE.match(name) else 'a'} {name}"
