"""Parses phrases: word tokens, singular forms, head nouns, and whether a caption names an object.

A rule finds the head noun (the last word before the first preposition or verb-like word), not a
parser. The rule applies to people's phrases and to captions alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ureca.models.evaluation.text import lexicon

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?(?:-[a-z0-9]+)*")
_ES = ("ches", "shes", "sses", "xes", "zes")


def split_words(text: str) -> list[str]:
    """Return lower-case words without punctuation, the input of every word measure on both
    sides.
    """
    return _TOKEN.findall(text.lower())


def normalise_text(text: str) -> str:
    """Return the tokens joined by single spaces."""
    return " ".join(split_words(text))


def make_singular(word: str) -> str:
    """Return the singular of a lower-case noun, by rule and a list of exceptions."""
    if word in lexicon.IRREGULAR:
        return lexicon.IRREGULAR[word]
    if not _ends_in_plural_s(word):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(_ES) else word[:-1]


def _ends_in_plural_s(word: str) -> bool:
    if word in lexicon.ENDS_IN_S or len(word) < 4:
        return False
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """The first noun phrase of a text: `words` up to its end, and the `rest` from there on."""

    counted: tuple[str, ...]
    """Leading determiners and numbers."""
    words: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def head(self) -> str | None:
        """The last word, None for a bare colour or size."""
        last = self.words[-1] if self.words else ""
        return None if not last or last in lexicon.ADJECTIVES else last


def parse_noun_phrase(text: str) -> NounPhrase:
    """Split a text at the end of its first noun phrase."""
    found = split_words(text)
    start = next((i for i, w in enumerate(found) if w not in lexicon.DETERMINERS), len(found))
    rest = found[start:]
    end = next((i for i in range(len(rest)) if _ends_phrase(rest, i)), len(rest))
    return NounPhrase(tuple(found[:start]), tuple(rest[:end]), tuple(rest[end:]))


def _ends_phrase(words: Sequence[str], i: int) -> bool:
    word, more = words[i], i + 1 < len(words)
    if not i:
        return False  # "holding a stick"
    if word in {"and", "or", "but"} and words[i - 1] in lexicon.ADJECTIVES and more:
        return False  # "a brown and black dog"
    if word in lexicon.PHRASE_ENDS:
        return True
    verb_like = word.endswith("ing") and len(word) > 5
    return bool(more and verb_like and words[i + 1] in lexicon.DETERMINERS)


def find_head_nouns(text: str) -> tuple[str, ...]:
    """Return the singular head noun of a phrase; of "a group of dogs" both "group" and "dog"."""
    phrase = parse_noun_phrase(text)
    if phrase.head is None:
        return ()
    head = make_singular(phrase.head)
    if head in lexicon.COLLECTIVES and phrase.rest[:1] == ("of",):
        return (head, *find_head_nouns(" ".join(phrase.rest[1:])))
    return (head,)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Names that count as right for a region: single words, and names of several words."""

    single: frozenset[str]
    several: tuple[tuple[str, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.single or self.several)


def find_accepted_names(category: str, references: Iterable[str]) -> Accepted:
    """Return the class, its listed synonyms, and the head nouns of the references."""
    name = category.lower()
    words = tuple(make_singular(word) for word in split_words(name))
    single = {make_singular(word) for word in lexicon.SYNONYMS.get(name, ())}
    single.update(words if len(words) == 1 else ())
    single.update(head for text in references for head in find_head_nouns(text))
    several = (words,) if len(words) > 1 else ()
    return Accepted(frozenset(single - lexicon.DETERMINERS), several)


def contains_name(caption: str, accepted: Accepted) -> bool:
    """Whether the caption contains an accepted name anywhere."""
    words = [make_singular(word) for word in split_words(caption)]
    return bool(accepted.single & set(words)) or any(
        _contains_words(n, words) for n in accepted.several
    )


def is_headed_by(caption: str, accepted: Accepted) -> bool:
    """Whether the caption's head noun is an accepted name, which is stricter."""
    heads = set(find_head_nouns(caption))
    if accepted.single & heads:
        return True
    words = [make_singular(word) for word in split_words(caption)]
    hit = any(_contains_words(name, words) for name in accepted.several)
    return hit and any(name[-1] in heads for name in accepted.several)


def _contains_words(name: Sequence[str], words: Sequence[str]) -> bool:
    width = len(name)
    return any(tuple(words[i : i + width]) == tuple(name) for i in range(len(words) - width + 1))
