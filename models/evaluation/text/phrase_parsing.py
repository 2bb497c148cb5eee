"""What a phrase names: word tokens, singular forms, head nouns, and whether a caption hits them.

A head noun is found by a rule (the last word before the first preposition or verb-like word), not
by a parser; the rule is applied to people's phrases and to captions alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ureca.models.evaluation.text import lexicon

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?(?:-[a-z0-9]+)*")
_ES = ("ches", "shes", "sses", "xes", "zes")


def tokens(text: str) -> list[str]:
    """Lower-case words without punctuation: what every word measure sees, on both sides."""
    return _TOKEN.findall(text.lower())


def normal(text: str) -> str:
    """The tokens joined by single spaces."""
    return " ".join(tokens(text))


def singular(word: str) -> str:
    """The singular of a lower-case noun, by rule and a list of exceptions."""
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
        """The last word as it stands, None for a bare colour or size."""
        last = self.words[-1] if self.words else ""
        return None if not last or last in lexicon.ADJECTIVES else last


def noun_phrase(text: str) -> NounPhrase:
    """Split a text at the end of its first noun phrase."""
    found = tokens(text)
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


def head_nouns(text: str) -> tuple[str, ...]:
    """Singular head noun of a phrase; of "a group of dogs" both "group" and "dog"."""
    phrase = noun_phrase(text)
    if phrase.head is None:
        return ()
    head = singular(phrase.head)
    if head in lexicon.COLLECTIVES and phrase.rest[:1] == ("of",):
        return (head, *head_nouns(" ".join(phrase.rest[1:])))
    return (head,)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Names that count as right for a region: single words, and names of several words."""

    single: frozenset[str]
    several: tuple[tuple[str, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.single or self.several)


def accepted_names(category: str, references: Iterable[str]) -> Accepted:
    """The class, its listed synonyms, and the head nouns of the references."""
    name = category.lower()
    words = tuple(singular(word) for word in tokens(name))
    single = {singular(word) for word in lexicon.SYNONYMS.get(name, ())}
    single.update(words if len(words) == 1 else ())
    single.update(head for text in references for head in head_nouns(text))
    several = (words,) if len(words) > 1 else ()
    return Accepted(frozenset(single - lexicon.DETERMINERS), several)


def names_it(caption: str, accepted: Accepted) -> bool:
    """Whether the caption contains an accepted name anywhere."""
    words = [singular(word) for word in tokens(caption)]
    return bool(accepted.single & set(words)) or any(_within(n, words) for n in accepted.several)


def is_headed_by(caption: str, accepted: Accepted) -> bool:
    """The stricter question: whether the caption's own head noun is an accepted name."""
    heads = set(head_nouns(caption))
    if accepted.single & heads:
        return True
    words = [singular(word) for word in tokens(caption)]
    hit = any(_within(name, words) for name in accepted.several)
    return hit and any(name[-1] in heads for name in accepted.several)


def _within(name: Sequence[str], words: Sequence[str]) -> bool:
    width = len(name)
    return any(tuple(words[i : i + width]) == tuple(name) for i in range(len(words) - width + 1))
