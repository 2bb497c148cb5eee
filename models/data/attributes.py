"""Mines attributes of regions from the words that people, classes and generators gave them.

Nothing here is a label that somebody set: a rule reads a phrase, so it is wrong where the phrase
is read wrongly (`docs/attributes.md` has its error). An attribute that no word says is not known,
which is not the same as absent. Adjectives count only before the head noun of a phrase and never
across "and". Some attributes do not apply to some regions, and that is known: `NOT_APPLICABLE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ureca.attributes import ATTRIBUTES
from ureca.models.data.regions import RegionRecord
from ureca.models.evaluation.text.phrase_parsing import make_singular

NOT_APPLICABLE: Final = ""
"""Stands among the words of an attribute that a region cannot have, as the hair of a car."""

Mined = dict[str, frozenset[str]]
"""By attribute: the words that are true, or only `NOT_APPLICABLE`."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _table(text: str) -> dict[str, str]:
    """Read "word: form form", one a line -> the word of every form, itself included."""
    lines = (line.partition(":") for line in text.strip().splitlines())
    return {f.replace("_", " "): w.strip() for w, _, fs in lines for f in (w.strip(), *fs.split())}


ADJECTIVES: Final[Mapping[str, Mapping[str, str]]] = {
    "colour": _table("""red: maroon
        blue: navy
        green:
        yellow:
        white:
        black:
        brown:
        orange:
        pink:
        purple:
        grey: gray silver
        tan: beige"""),
    "material": _table("""wood: wooden
        metal: steel iron metallic
        plastic:
        brick:
        stone:
        concrete: cement
        leather:
        glass:
        denim:
        marble:"""),
    "pattern": _table("""striped:
        spotted: polka_dot polka_dotted
        plaid:
        checkered: checked chequered
        floral: flowered flowery
        camouflage: camo"""),
    "state": _table("""open:
        closed:
        wet:
        muddy: dirty
        snowy: snow-covered
        lying:
        standing: upright
        parked:"""),
    "size": _table("""small: tiny
        large: big huge giant
        long:
        tall:
        short:"""),
}
"""By attribute: the form that people use -> the word of the answer."""
_RENAMED: Final = {"color": "colour"}
_MOST_WORDS: Final = 3
_THINGS_ONLY: Final = frozenset({"colour", "material", "pattern", "state", "size", "shape"})
_PEOPLE_ONLY: Final = frozenset({"clothing", "hair", "age"})
_ANIMATE_ONLY: Final = frozenset({"interaction", "pose"})
_GARMENTS: Final = _table("""shirt: t-shirt tshirt tee blouse
    jacket: coat parka
    dress: gown
    hat: cap
    helmet:
    jeans:
    pants: trousers
    shorts:
    skirt:
    suit: tuxedo
    uniform: jersey
    sweater: sweatshirt hoodie
    vest:
    swimsuit: bikini trunks
    wetsuit:
    glasses: sunglasses goggles
    costume:
    scarf:""")
_POSES: Final = _table("""sitting: sits seated
    standing: stands
    running: runs
    walking: walks
    jumping: jumps leaping leaps
    lying: laying lies
    swimming: swims
    climbing: climbs
    kneeling: crouching""")
_ACTIONS: Final = _table("""holding: holds
    carrying: carries
    riding: rides
    throwing: throws
    catching: catches
    kicking: kicks
    pulling: pulls
    pushing: pushes
    chasing: chases""")
_PEOPLE: Final = _set("""
    man men woman women boy boys girl girls person people child children kid kids baby babies guy
    guys lady ladies player players toddler toddlers adult adults male males female females rider
    skier surfer snowboarder skateboarder cyclist biker climber couple crowd family team worker
    runner swimmer hiker group""")
_ONE, _MANY = (
    _set("a an one another"),
    _set("several many some group crowd"),
)
_COUNTS: Final = {"two": "two", "three": "three", "four": "four", "couple": "two", "pair": "two"}
_AGES: Final = {
    "baby": _set("baby toddler infant babies toddlers"),
    "child": _set("boy girl child kid boys girls children kids"),
    "old": _set("old elderly older"),
    "young": _set("young teenage teenager teenagers"),
    "adult": _set("man woman men women lady guy ladies guys gentleman"),
}
_SHAPES: Final = {
    **dict.fromkeys(_set("apple orange ball lemon pear"), "round"),
    **dict.fromkeys(_set("plate tray"), "flat"),
    **dict.fromkeys(_set("spoon fork knife marker screwdriver wrench banana"), "long"),
    **dict.fromkeys(("box", "book", "cube", "drawer cabinet", "sponge"), "box-shaped"),
    **dict.fromkeys(("bottle", "can", "vase", "cylinder"), "cylindrical"),
    **dict.fromkeys(("bowl", "mug", "pot", "pan", "teapot"), "hollow"),
}
_ENDS: Final = _set("""
    of in on at with by for from to into near behind beside between wearing holding carrying
    riding is are who that which and or but playing standing sitting running walking jumping while
    as over under""")
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_WORN = re.compile(r"\b(?:wearing|dressed in|in|with)\b(.*)")
_HAIR: Final = (
    ("blond hair", re.compile(r"\bblonde?\b|\bblond-hair")),
    ("dark hair", re.compile(r"\b(?:dark|black)(?:-| )hair")),
    ("brown hair", re.compile(r"\b(?:brown|brunette)(?:-| )hair|\bbrunette\b")),
    ("red hair", re.compile(r"\bred(?:-| )?hair|\bredhead")),
    ("grey hair", re.compile(r"\b(?:gr[ae]y|white)(?:-| )hair")),
    ("a bald head", re.compile(r"\bbald\b")),
    ("a beard", re.compile(r"\bbeard")),
    ("curly hair", re.compile(r"\bcurly\b")),
    ("a ponytail", re.compile(r"\bponytail|\bpigtail")),
    ("long hair", re.compile(r"\blong(?:-| )hair")),
)


def mine_attributes(record: RegionRecord, captions: Iterable[str] = ()) -> Mined:
    """The attributes that the record's words say. `captions` are of the whole picture: what a
    phrase of the record does there is its pose or interaction.
    """
    found = _read_named(record)
    people, animal = _shows_people(record), "animals" in record.types
    for text in dict.fromkeys((*record.short, *record.long)):
        before, head, counted = _split(text)
        for name, forms in ADJECTIVES.items():
            if not (people and name in _THINGS_ONLY):
                _put(found, name, _find(forms, before))
        _put(found, "count", _count(counted, head))
        if people:
            _put(found, "age", _age((*before, head)))
            _put(found, "hair", {word for word, rule in _HAIR if rule.search(text)})
            _put(found, "clothing", _worn(text, head))
    if record.category == "hair":
        _put(found, "hair", {w for t in record.short for w, rule in _HAIR if rule.search(t)})
    if people or animal:
        acts = [text.removeprefix(short) for text in record.long for short in record.short]
        acts += list(_follow(record.short, captions))
        _put(found, "pose", {_POSES[w] for text in acts for w in _first_words(text) if w in _POSES})
        does = {_ACTIONS[w] for text in acts for w in _first_words(text) if w in _ACTIONS}
        _put(found, "interaction", does)
    if record.source == "ureca-worlds" and not record.part and record.category in _SHAPES:
        _put(found, "shape", {_SHAPES[record.category]})
    if record.category:
        noun = make_singular(record.category.lower())
        _put(found, "category", {"person" if record.category in _PEOPLE else noun})
    mined = {name: frozenset(words) for name, words in found.items() if words}
    return {**mined, **_not_applicable(record, people=people, animate=people or animal)}


def _read_named(record: RegionRecord) -> dict[str, set[str]]:
    """What the source says of attributes in a word or a few; sentences are no closed list."""
    named = ((_RENAMED.get(name, name), words) for name, words in record.attributes)
    short = ((name, {w for w in words if len(w.split()) <= _MOST_WORDS}) for name, words in named)
    return {name: words for name, words in short if name in ATTRIBUTES and words}


def _not_applicable(record: RegionRecord, *, people: bool, animate: bool) -> Mined:
    if not (record.short or record.long or record.category):
        return {}
    none = set() if people or record.category == "hair" else set(_PEOPLE_ONLY)
    none |= set() if animate else _ANIMATE_ONLY
    none |= {"colour", "material", "pattern"} if people else set()
    none |= set() if record.category == "face" else {"expression"}
    return dict.fromkeys(none, frozenset({NOT_APPLICABLE}))


def _shows_people(record: RegionRecord) -> bool:
    return "people" in record.types or record.category in _PEOPLE


def _put(found: dict[str, set[str]], name: str, words: set[str]) -> None:
    if words:
        found.setdefault(name, set()).update(words)


def _split(text: str) -> tuple[tuple[str, ...], str, str]:
    """The words before the head noun of a phrase, the head, and the first word of all."""
    words = _WORD.findall(text.lower())
    end = next((n for n, word in enumerate(words) if n and word in _ENDS), len(words))
    if "and" in words[:end]:
        return (), words[end - 1] if end else "", words[0]
    if end < len(words) and words[end] == "and":
        return (), words[end - 1], words[0]
    kept = words[:end]
    return tuple(kept[:-1]), kept[-1] if kept else "", kept[0] if kept else ""


def _find(forms: Mapping[str, str], before: tuple[str, ...]) -> set[str]:
    text = f" {' '.join(before)} "
    return {word for form, word in forms.items() if f" {form} " in text}


def _count(first: str, head: str) -> set[str]:
    if first in _COUNTS:
        return {_COUNTS[first]}
    if first in _MANY or head in _MANY:
        return {"many"}
    return {"one"} if first in _ONE and not head.endswith("s") else set()


def _age(words: tuple[str, ...]) -> set[str]:
    said = [age for age, forms in _AGES.items() if forms & set(words)]
    return set(said[:1])


def _worn(text: str, head: str) -> set[str]:
    match = _WORN.search(text.partition(head)[2])
    return {_GARMENTS[w] for w in _WORD.findall(match[1]) if w in _GARMENTS} if match else set()


def _follow(phrases: Iterable[str], captions: Iterable[str]) -> Iterable[str]:
    """What follows a phrase in a caption of the picture."""
    lower = [caption.lower() for caption in captions]
    for phrase in phrases:
        if len(phrase.split()) > 1:
            yield from (c.partition(phrase)[2] for c in lower if phrase in c)


def _first_words(text: str) -> list[str]:
    """The first word, or the one behind "is" and "are"."""
    words = _WORD.findall(text)
    return words[1:2] if words[:1] in (["is"], ["are"]) else words[:1]
