"""Says "a person" and "people" instead of words of sex and age.

The captioner is wrong about the sex of one person in four for whom it says it, and about the age of
one in six (`models/pretrained/ureca-nano/MODEL_CARD.md`). Clothes and activities stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec.structs import replace

from ureca.attributes import AttributeAnswer


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ONE = _words("""
    man woman boy girl lady guy gentleman kid child toddler teenager teen youth infant baby male
    female adult son daughter mother father mom dad lad youngster
    """)
_SEVERAL = _words("""
    men women boys girls ladies guys gentlemen kids children toddlers teenagers teens youths infants
    babies males females adults sons daughters lads youngsters
    """)
_DESCRIBING = _words("""
    young old older younger elderly little teenage adult middle-aged aged male female
    """)
"""Left out when they describe a person; "an old car" stays."""
_ALSO_DESCRIBING = _words("baby male female adult teen youth child")
"""Describe what follows them ("a baby elephant", "a child seat"), unless nothing does."""
_AFTER_A_PERSON = _words("""
    in on at with and or of to is are who that wearing holding sitting standing walking riding
    running playing looking carrying jumping by near from over under behind beside as while
    """)
_PRONOUNS = {
    "his": "their",
    "her": "their",
    "he": "they",
    "she": "they",
    "him": "them",
    "himself": "themself",
    "herself": "themself",
}
_NEUTRAL = frozenset({"person", "people", "persons"})
_WORDS_BEFORE = 3
"""How far before the noun words that describe a person are looked for."""
_TOKEN = re.compile(r"[\w-]+(?:'s?)?|[^\w\s]")
_PAIR = re.compile(r"\b(?:a|one) person(?: and (?:a |one |another )?person)\b")
_ARTICLE = re.compile(r"\b(an?) (?=(\w+))")


def neutralise(text: str) -> str:
    """Return a caption without words that say a person's sex or age. Other texts are unchanged."""
    words = _TOKEN.findall(text)
    said = [_replace(word, words[n + 1 : n + 2]) for n, word in enumerate(words)]
    people = [n for n, word in enumerate(said) if word.partition("'")[0] in _NEUTRAL]
    dropped = {n for place in people for n in _list_describing(words, place)}
    if said == words and not dropped:
        return text
    kept = " ".join(word for n, word in enumerate(said) if n not in dropped)
    kept = re.sub(r" ([,.;:!?])", r"\1", kept)
    return _PAIR.sub("two people", _ARTICLE.sub(_choose_article, kept))


def neutralise_answers(answers: Iterable[AttributeAnswer]) -> tuple[AttributeAnswer, ...]:
    """Say "person" and "people" in answers, too, instead of words of sex and age."""
    return tuple(replace(one, text=neutralise(one.text)) if one.text else one for one in answers)


def _replace(word: str, after: list[str]) -> str:
    bare, mark, rest = word.partition("'")
    describes = bare in _ALSO_DESCRIBING and not mark and after and after[0].isalpha()
    if describes and after[0] not in _AFTER_A_PERSON:
        return word
    if bare in _ONE:
        return "person" + mark + rest
    if bare in _SEVERAL:
        return "people" + mark + ("s" if mark else "")
    return _PRONOUNS.get(word, word)


def _list_describing(words: list[str], place: int) -> list[int]:
    found = []
    for n in range(place - 1, max(-1, place - 1 - _WORDS_BEFORE), -1):
        if words[n] in _AFTER_A_PERSON or not words[n][0].isalpha():
            break
        if words[n] in _DESCRIBING:
            found.append(n)
    return found


def _choose_article(match: re.Match[str]) -> str:
    """Choose "a" or "an" by the next word, because the old one may have fitted a word that is gone.
    Doubtful letters keep it.
    """
    article, word = match.groups()
    if word[0] in "uhe" or word.startswith("one"):
        return f"{article} "
    return "an " if word[0] in "aio" else "a "
