"""A small closed grammar of what people ask for: relations, sides, counts, parts and groups.

It reads words, not meanings. What it does not know stays part of the text that the engine scores,
so nothing is lost. Function words never count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["part", "thing", "group"]
Relation = Literal[
    "left", "right", "above", "below", "on", "in", "front", "behind", "near", "with", "of", "and"
]
_PLACES: Final[frozenset[Relation]] = frozenset(
    ("left", "right", "above", "below", "on", "in", "front", "behind", "near")
)
"""Relations that geometry answers: a caption names the thing alone, so the rest of the text is not
scored."""
Extreme = Literal["left", "right", "above", "below", "large", "small", "front", "back"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS: Final = _words(
    "a an the of in on at to with and or his her its their my your our this that these those some "
    "is are was were be being by for from into onto it he she they one who which as there"
)
"""Words that say nothing about a region."""

NUMBERS: Final = {
    word: number
    for number, word in enumerate("two three four five six seven eight nine ten".split(), 2)  # noqa: SIM905
}
MANY: Final = _words("several many few some all both multiple various these those")
GROUPS: Final = _words(
    "group pair couple crowd bunch team row lot set pile stack flock herd family people children "
    "men women kids friends onlookers spectators band audience"
)
_THING_PARTS: Final = _words(
    "handle lid spout leg arm back wheel door window seat blade base rim cap stem drawer knob "
    "button cord strap pocket tread label cover page top neck body shade bulb trigger jaw shaft "
    "switch bristle prong bumper headlight mirror hood trunk"
)
PARTS: Final = _THING_PARTS | _words(
    "hand head face hair eye ear nose mouth foot tail paw wing shirt t-shirt jacket hat pants "
    "jeans shorts shoe dress coat skirt sock glove helmet glasses sunglasses goggles scarf tie "
    "vest sweater sweatshirt hoodie boot belt sleeve collar uniform suit outfit costume clothes "
    "clothing jersey wetsuit swimsuit bikini robe headband bandanna necklace backpack purse "
    "leash harness finger shoulder beard fur tooth tongue lip chin cheek ankle knee muzzle "
    "snout"
)
"""Nouns of parts: of things, bodies, and what people wear. From the training phrases: the nouns of
which at least two thirds are said of parts.
"""
SCENES: Final = _words(
    "water grass field snow wall street pool tree building beach mountain hill road ocean lake "
    "sidewalk path sand sky river ground floor forest park yard sea lawn dirt table background "
    "area city track trail shore pond stream mud slope ice pavement cliff park woods house room"
)
"""Nouns of scenery and backdrops."""

COLOURS: Final = _words(
    "red blue green yellow white black brown orange pink purple gray grey tan gold silver beige"
)
LOOKS: Final = COLOURS | _words("wooden metal marble brick striped spotted polka")
"""Colours, materials and patterns: of a kind of thing, what tells one from another."""

_DETERMINERS: Final = _words("a an the his her its their my your our this that these those") | {
    *NUMBERS,
    *MANY,
    "one",
    "another",
}
_GENERIC: Final = _words("thing things object objects item items something anything stuff one ones")
"""Nouns that say nothing about a region."""
_LIVING: Final = _words(
    "man woman boy girl child person kid baby toddler player rider lady guy skier surfer biker dog "
    "cat horse bird cow men women boys girls children people kids"
)
"""Owners of which captions say "a man's hat", not "the hat of a man"."""
_ARTICLES: Final = _words("a an the his her its their my your our this that")
_ENDS: Final = _words(
    "of in on at with by for from to into onto over under near behind beside between above below "
    "through across along around against off out up down toward towards inside outside next that "
    "wearing holding carrying riding is are was were being has have having who which while as and "
    "or but playing standing sitting running walking jumping looking left right"
)
"""Words before which a noun phrase has ended."""
_RELATIONS: Final[tuple[tuple[str, Relation], ...]] = (
    ("to the left of", "left"),
    ("on the left of", "left"),
    ("left of", "left"),
    ("to the right of", "right"),
    ("on the right of", "right"),
    ("right of", "right"),
    ("in front of", "front"),
    ("on top of", "on"),
    ("next to", "near"),
    ("close to", "near"),
    ("behind", "behind"),
    ("beside", "near"),
    ("near", "near"),
    ("above", "above"),
    ("over", "above"),
    ("below", "below"),
    ("beneath", "below"),
    ("under", "below"),
    ("inside", "in"),
    ("of", "of"),
    ("with", "with"),
    ("wearing", "with"),
    ("holding", "with"),
    ("carrying", "with"),
    ("on", "on"),
    ("in", "in"),
)
_EXTREMES: Final[dict[str, Extreme]] = {
    "leftmost": "left",
    "rightmost": "right",
    "topmost": "above",
    "uppermost": "above",
    "highest": "above",
    "lowest": "below",
    "biggest": "large",
    "largest": "large",
    "smallest": "small",
    "nearest": "front",
    "closest": "front",
    "farthest": "back",
    "furthest": "back",
}
_SIDES: Final[dict[str, Extreme]] = {"left": "left", "right": "right"}
_TAILS: Final[dict[str, Extreme]] = {**_SIDES, "top": "above", "bottom": "below"}
_SIDE_TAIL = re.compile(
    r"\b(?:on|at|to) the (?:far |very )?(left|right|top|bottom)(?: side)?(?! (?:of|side of))$"
)
_DISTANCE_TAIL = re.compile(
    r" (?:(nearest|closest) to|(?:farthest|furthest)(?: away)? from) (?:the camera|me|us|you)$"
)
_NO_NOUNS: Final = LOOKS | _EXTREMES.keys() | _TAILS.keys()
_REQUEST = re.compile(
    r"^(?:please |can you |could you )*"
    r"(?:where(?: is|'s| are)|is there|are there|find(?: me)?|locate|look for|search for|"
    r"show(?: me)?|point (?:at|to)|(?:pick|lift) up|grab|fetch|bring(?: me)?|give me|go to) "
)
"""What people say to a robot before the thing itself."""
_OWNER = re.compile(r"^((?:the|a|an|my|your|his|her|its|their) )?(.+?)'s (.+)$")
_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?(?:-[a-z0-9]+)*")
_SINGULAR: Final = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "shelves": "shelf",
}
_UNCOUNTED: Final = _words(
    "water grass snow sand ice dirt mud sky hair skin fur fire smoke rain traffic lawn clothing "
    "clothes food gear equipment luggage furniture broccoli rice bread meat lettuce juice milk "
    "pants jeans shorts glasses sunglasses goggles scissors skis tights pajamas overalls"
)
"""Nouns that stand without an article."""
_SOUNDS_OPEN: Final = re.compile(r"(?!uni|use|eu|one\b|once)[aeiou]|hour|honest|x-ray")
_NO_PLURAL: Final = _words(
    "pants jeans shorts glasses sunglasses goggles clothes scissors skis grass dress glass bus "
    "this his its is was as has gas canvas tennis lens class moss cross mattress across"
)


@dataclass(frozen=True, slots=True)
class ParsedPhrase:
    """One request. `scored` is the text without what geometry answers, as a caption says it; `head`
    is the noun phrase of the thing that is looked for, `noun` its last word, empty where the text
    says looks alone.
    """

    text: str
    scored: str
    head: str
    noun: str
    colours: str = ""
    looks: tuple[str, ...] = ()
    """Colours, materials and patterns that `head` says."""
    is_generic: bool = False
    """Whether it says looks alone: "something red", "the red thing"."""
    relation: Relation | None = None
    anchor: str = ""
    anchor_looks: tuple[str, ...] = ()
    """Colours, materials and patterns that `anchor` says."""
    extreme: Extreme | None = None
    """What decides among the regions that fit: the leftmost, the largest."""
    side: Extreme | None = None
    """Where it lies, one hint among others: "on the left"."""
    count: int = 1
    """How many things are asked for; 0: several, an unknown number."""
    definite: bool = False
    level: Level | None = None
    scenery: bool = False


def tokens(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _TOKEN.findall(text.lower())


def content_words(text: str) -> list[str]:
    """The words that say something about a region; all words if there are none of these."""
    words = tokens(text)
    return [word for word in words if word not in FUNCTION_WORDS] or words


def singular(word: str) -> str:
    """The singular of a lower-case noun, by rule and a short list."""
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word in _NO_PLURAL or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]


def split_conjunction(text: str) -> list[str]:
    """Two requests in "the cup and the plate"; one in "a brown and black dog"."""
    words = text.split()
    for place, word in enumerate(words[1:-1], 1):
        if word.lower() == "and" and words[place + 1].lower() in _DETERMINERS:
            before = " ".join(words[:place])
            if not any(w.lower() in _ENDS for w in words[:place]):
                return [before, *split_conjunction(" ".join(words[place + 1 :]))]
    return [text]


def parse(text: str) -> ParsedPhrase:
    """Read one request; `split_conjunction` comes before."""
    words, extreme = _cut_extreme(_cut_request(tokens(text)))
    side = _side(words)
    head_words, rest = _noun_phrase(_put_owner_last(_cut_side(words)))
    relation, anchor = _relation(rest)
    noun = _noun(head_words)
    count = _count(head_words, noun)
    said = head_words if relation in _PLACES else words
    looks = tuple(word for word in head_words if word in LOOKS)
    is_generic = bool(looks) and any(word in _GENERIC for word in head_words)
    return ParsedPhrase(
        text=text,
        scored=" ".join(looks) if is_generic else _say(said, noun, relation) or text,
        head=" ".join(looks if is_generic else head_words) or text,
        noun="" if is_generic else noun,
        colours=" ".join(word for word in words if word in COLOURS),
        looks=looks,
        is_generic=is_generic,
        relation=relation,
        anchor=anchor,
        anchor_looks=tuple(word for word in anchor.split() if word in LOOKS),
        extreme=extreme,
        side=side,
        count=count,
        definite=bool(words[:1] == ["the"] or extreme),
        level=_level(noun, count),
        scenery=singular(noun) in SCENES,
    )


def _say(words: Sequence[str], noun: str, relation: Relation | None) -> str:
    """The words as a caption has them: "red mug" and "the red mug" as "a red mug", "the mug's
    handle" as "the handle of a mug". Captions say articles: without one, the likelihood of a text
    would be that of another manner of speaking.
    """
    owned = _put_owner_last(words)
    said = list(words) if owned and owned[-1] in _LIVING else owned
    place = said.index("of") if relation == "of" and "of" in said else len(said)
    first, rest = said[:place], said[place + 1 :]
    if not rest:
        is_known_part = noun in _THING_PARTS and said[:1] != ["a"]
        return " ".join(_put_article(said, noun, "the" if is_known_part else "a"))
    owner = " ".join(_put_article(rest, _noun(_noun_phrase(rest)[0]), "a"))
    return f"{' '.join(_put_article(first, noun, 'the'))} of {owner}"


def _put_article(words: Sequence[str], noun: str, article: Literal["a", "the"]) -> list[str]:
    """The words with the article of a caption; unchanged where they begin with a number, "some",
    or what is no article.
    """
    bare = list(words[1:]) if words[:1] and words[0] in _ARTICLES else list(words)
    if not bare or bare[0] in _DETERMINERS or not noun or noun in _NO_NOUNS:
        return list(words)
    if article == "the":
        return ["the", *bare]
    if "of" in bare and singular(bare[bare.index("of") - 1]) in GROUPS:
        return ["a", *bare]
    if singular(noun) in SCENES and len(bare) < len(words):
        return list(words)  # "the sky": captions say it so
    if noun in _UNCOUNTED or singular(noun) != noun:
        return bare
    return ["an" if _SOUNDS_OPEN.match(bare[0]) else "a", *bare]


def asks_for_part(text: str) -> bool:
    """Whether a request is about a part of a thing: "the handle of the mug", "a lid"."""
    phrases = [parse(one) for one in split_conjunction(text)]
    return any(one.level == "part" or one.relation == "of" for one in phrases)


def _cut_request(words: Sequence[str]) -> list[str]:
    """Without "where is", "find" and the like before what is asked for."""
    joined = " ".join(words)
    return _REQUEST.sub("", joined).split() or list(words)


def _cut_extreme(words: Sequence[str]) -> tuple[list[str], Extreme | None]:
    joined = " ".join(words)
    tail = _DISTANCE_TAIL.search(joined)
    if tail is not None:
        return joined[: tail.start()].split(), "front" if tail[1] else "back"
    found = next((word for word in words[:3] if word in _EXTREMES), None)
    if found is None and len(words) > 2 and words[0] == "the" and words[1] in _SIDES:
        found = words[1] if words[2] not in _ENDS else None  # "the left cup"
    if found is None and len(words) > 1 and words[0] in _SIDES and words[1] not in _ENDS | PARTS:
        found = words[0]  # "left cup"
    if found is None or len(words) < 2:
        return list(words), None
    kept = [word for word in words if word != found]
    return kept, {**_SIDES, **_EXTREMES}[found]


def _side(words: Sequence[str]) -> Extreme | None:
    found = _SIDE_TAIL.search(" ".join(words))
    return _TAILS[found[1]] if found else None


def _cut_side(words: Sequence[str]) -> list[str]:
    """Without "on the left" at the end: no relation to a thing."""
    return _SIDE_TAIL.sub("", " ".join(words)).split() or list(words)


def _put_owner_last(words: Sequence[str]) -> list[str]:
    """Words of "the mug's handle" become those of "the handle of the mug"."""
    found = _OWNER.match(" ".join(words))
    if found is None:
        return list(words)
    article = found[1] or ""
    return f"{article}{found[3]} of {article}{found[2]}".split()


def _noun_phrase(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the first noun phrase, what follows); "a group of dogs" is one."""
    begin = next((i for i, word in enumerate(words) if word not in _DETERMINERS), len(words))
    for end in range(begin + 1, len(words)):
        if words[end] == "of" and singular(words[end - 1]) in GROUPS:
            inner, rest = _noun_phrase(words[end + 1 :])
            return [*words[: end + 1], *inner], rest
        joined = words[end] == "and" and end + 1 < len(words) and words[end + 1] not in _DETERMINERS
        if words[end] in _ENDS and not joined:
            return list(words[:end]), list(words[end:])
    return list(words), []


def _relation(rest: Sequence[str]) -> tuple[Relation | None, str]:
    """The first relation of `rest` and the noun phrase behind it."""
    text = " ".join(rest)
    if rest[:1] == ["and"] and rest[1:2] and rest[1] in _DETERMINERS:
        return "and", " ".join(_noun_phrase(rest[1:])[0])
    for spelled, relation in _RELATIONS:
        if text.startswith(spelled + " "):
            anchor, _ = _noun_phrase(text[len(spelled) + 1 :].split())
            worn = relation == "in" and singular(_noun(anchor)) in PARTS  # "a man in a red shirt"
            return ("with" if worn else relation, " ".join(anchor)) if anchor else (None, "")
    return None, ""


def _noun(head: Sequence[str]) -> str:
    if "of" in head:
        return head[-1]
    return next((word for word in reversed(head) if word not in _DETERMINERS), "")


def _count(head: Sequence[str], noun: str) -> int:
    number = next((NUMBERS[word] for word in head[:2] if word in NUMBERS), None)
    if number is not None:
        return number
    many = any(word in MANY for word in head[:1]) or any(word in GROUPS for word in head)
    return 0 if many or singular(noun) != noun else 1


def _level(noun: str, count: int) -> Level | None:
    if singular(noun) in PARTS or noun in PARTS:
        return "part"
    return "group" if count != 1 else None
