"""Parses captions of the worlds' own kind with a small grammar.

    caption  := phrase
    phrase   := ("a" | "an" | "the" | "two" | ...) adjective* noun tail*
              | "a stack of" phrase
    tail     := "of" thing | "with" part ("and" part)* | "with" thing ("in it" | "on it")
              | relation thing | side | superlative | "lying on its side" | "and" phrase
    thing    := article adjective* noun ["with" part]

An unknown word makes the whole caption unreadable, which counts as not true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ureca.models.data.synthetic.language import vocabulary
from ureca.models.data.synthetic.language.vocabulary import PART_NAMES
from ureca.models.data.synthetic.objects.kinds import KINDS

_COUNTS: Final = {"a": 1, "an": 1, "the": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_LEFT: Final = ("left of", "to the left of", "on the left of", "on the left side of")
_RIGHT: Final = ("right of", "to the right of", "on the right of", "on the right side of")
RELATIONS: Final = {
    **dict.fromkeys(_LEFT, "left of"),
    **dict.fromkeys(_RIGHT, "right of"),
    "in front of": "in front of",
    "before": "in front of",
    "behind": "behind",
    "in back of": "behind",
    "in": "in",
    "inside": "in",
    "inside of": "in",
    "on": "on",
    "on top of": "on",
    "under": "under",
}
SIDES: Final = {
    "on the left": "on the left",
    "to the left": "on the left",
    "on the left side": "on the left",
    "on the right": "on the right",
    "to the right": "on the right",
    "on the right side": "on the right",
}
SUPERLATIVES: Final = {
    "closest to the camera": "closest",
    "nearest to the camera": "closest",
    "farthest from the camera": "farthest",
    "furthest from the camera": "farthest",
}
_STATES: Final = {
    "lying on its side": "lying",
    "on its side": "lying",
    "lying down": "lying",
    "standing upright": "standing",
}
_BACKDROPS: Final = ("table", "floor", "wall", "tablecloth")


class UnreadableError(ValueError):
    """A caption that the grammar does not cover."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A parsed caption. relations hold (name, anchor or None), inside (prep, things)."""

    noun: str
    count: int = 1
    adjectives: tuple[str, ...] = ()
    stack: bool = False
    owner: Phrase | None = None
    features: tuple[Phrase, ...] = ()
    inside: tuple[tuple[str, tuple[Phrase, ...]], ...] = ()
    relations: tuple[tuple[str, Phrase | None], ...] = ()
    superlative: str = ""
    joined: tuple[Phrase, ...] = ()


def _make_table(entries: dict[str, str]) -> dict[tuple[str, ...], str]:
    """Return word sequences and their meanings, the longest first."""
    split = {tuple(text.split()): meaning for text, meaning in entries.items()}
    return dict(sorted(split.items(), key=lambda pair: -len(pair[0])))


def _list_nouns() -> dict[str, tuple[str, int]]:
    """Every noun, singular and plural, as (singular, least count)."""
    kinds = {noun for kind in (*KINDS, *_BACKDROPS) for noun in vocabulary.list_nouns(kind)}
    parts = {noun for part in PART_NAMES for noun in vocabulary.list_part_nouns(part)}
    found = {vocabulary.make_plural(noun): (noun, 2) for noun in kinds}
    return found | {noun: (noun, 1) for noun in kinds | parts}


_NOUNS: Final = _list_nouns()
_NOUN_TABLE: Final = _make_table({noun: noun for noun in _NOUNS})
_ADJECTIVE_TABLE: Final = _make_table(
    {name: name for name in vocabulary.ADJECTIVES} | dict(vocabulary.SYNONYMS)
)
_TAILS: Final = {
    "side": _make_table(SIDES),
    "superlative": _make_table(SUPERLATIVES),
    "state": _make_table(_STATES),
    "relation": _make_table(RELATIONS),
}
_PART_NOUNS: Final = frozenset(n for part in PART_NAMES for n in vocabulary.list_part_nouns(part))


@dataclass
class _PhraseBuilder:
    """A phrase whose tails are not complete yet."""

    noun: str
    count: int
    adjectives: list[str]
    owner: Phrase | None = None
    features: list[Phrase] = field(default_factory=list)
    inside: list[tuple[str, tuple[Phrase, ...]]] = field(default_factory=list)
    relations: list[tuple[str, Phrase | None]] = field(default_factory=list)
    superlative: str = ""
    joined: list[Phrase] = field(default_factory=list)

    def done(self, *, stack: bool = False) -> Phrase:
        """The finished phrase."""
        return Phrase(
            noun=self.noun,
            count=self.count,
            adjectives=tuple(self.adjectives),
            stack=stack,
            owner=self.owner,
            features=tuple(self.features),
            inside=tuple(self.inside),
            relations=tuple(self.relations),
            superlative=self.superlative,
            joined=tuple(self.joined),
        )


class _Reader:
    """A recursive-descent parser of one caption."""

    def __init__(self, caption: str) -> None:
        self.words = caption.lower().replace(",", " ").rstrip(" .").split()
        self.at = 0

    def _take(self, table: dict[tuple[str, ...], str]) -> str | None:
        """The meaning of the longest entry that comes next, read; or None."""
        for entry, meaning in table.items():
            if tuple(self.words[self.at : self.at + len(entry)]) == entry:
                self.at += len(entry)
                return meaning
        return None

    def _word(self, *options: str) -> bool:
        """Read the next word if it is one of the options."""
        hit = self.at < len(self.words) and self.words[self.at] in options
        self.at += hit
        return hit

    def _peek(self, *sequence: str) -> bool:
        return tuple(self.words[self.at : self.at + len(sequence)]) == sequence

    def _fail(self, wanted: str) -> UnreadableError:
        rest = " ".join(self.words[self.at :]) or "the end"
        return UnreadableError(f"expected {wanted}, came {rest!r}")

    def caption(self) -> Phrase:
        """The whole caption."""
        phrase = self._phrase()
        if self.at != len(self.words):
            raise self._fail("the end of the caption")
        return phrase

    def _noun(self) -> tuple[str, int]:
        name = self._take(_NOUN_TABLE)
        if name is None:
            raise self._fail("a noun")
        return _NOUNS[name]

    def _adjective(self) -> str | None:
        """The next adjective, unless it is the noun ("an orange")."""
        start = self.at
        found = self._take(_ADJECTIVE_TABLE)
        if found is None or found not in _NOUNS:
            return found
        ahead = self.at
        joins = self._word("and") and self._take(_ADJECTIVE_TABLE) is not None
        more = self._take(_ADJECTIVE_TABLE) or self._take(_NOUN_TABLE)
        self.at = ahead if joins or more else start
        return found if joins or more else None

    def _head(self) -> _PhraseBuilder:
        """Article or number, adjectives and noun."""
        number = self.words[self.at] if self.at < len(self.words) else ""
        if number not in _COUNTS:
            raise self._fail("an article or a number")
        self.at += 1
        adjectives: list[str] = []
        while (name := self._adjective()) is not None:
            adjectives.append(name)
            if self._peek("and") and not self._peek("and", "a") and not self._peek("and", "an"):
                self.at += 1
        noun, least = self._noun()
        count = _COUNTS[number]
        if number != "the" and (count >= 2) != (least == 2):
            raise self._fail("a noun that agrees with its number")
        return _PhraseBuilder(noun, max(count, least), adjectives)

    def _feature(self) -> Phrase:
        """A part in "with ...": "a white handle", "black handles"."""
        if self.at < len(self.words) and self.words[self.at] in _COUNTS:
            return self._head().done()
        self.words.insert(self.at, "the")
        return self._head().done()

    def _thing(self) -> Phrase:
        """A noun phrase inside another one, with at most a telling part."""
        head = self._head()
        if self._peek("with"):
            self.at += 1
            feature = self._feature()
            if feature.noun not in _PART_NOUNS:
                raise self._fail("a part")
            head.features.append(feature)
        return head.done()

    def _with(self, head: _PhraseBuilder) -> None:
        """Parts, or contents if "in it" or "on it" follows."""
        things = [self._feature()]
        while self._peek("and"):
            self.at += 1
            things.append(self._feature())
        for prep in ("in", "on"):
            if self._peek(prep, "it"):
                self.at += 2
                head.inside.append((prep, tuple(things)))
                return
        head.features += things

    def _tail(self, head: _PhraseBuilder) -> bool:
        """Read one more tail; False at the end of the phrase."""
        if self._word("of"):
            head.owner = self._thing()
        elif self._word("with"):
            self._with(head)
        elif self._word("and"):
            head.joined.append(self._thing())
        elif (state := self._take(_TAILS["state"])) is not None:
            head.adjectives.append(state)
        elif (name := self._take(_TAILS["superlative"])) is not None:
            head.superlative = name
        else:
            return self._place(head)
        return True

    def _place(self, head: _PhraseBuilder) -> bool:
        """A relation to another thing, or a side of the picture."""
        start = self.at
        relation = self._take(_TAILS["relation"])
        if relation is not None and self.at < len(self.words) and self.words[self.at] in _COUNTS:
            side_too = self._peek("the", "left") or self._peek("the", "right")
            if not side_too:
                head.relations.append((relation, self._thing()))
                return True
        self.at = start
        side = self._take(_TAILS["side"])
        if side is not None:
            head.relations.append((side, None))
        return side is not None

    def _phrase(self) -> Phrase:
        stack = self._peek("a", "stack", "of")
        self.at += 3 if stack else 0
        head = self._head()
        while self.at < len(self.words) and self._tail(head):
            pass
        return head.done(stack=stack)


def parse_caption(caption: str) -> Phrase:
    """Parse a caption. Raises `UnreadableError` for anything outside the grammar."""
    return _Reader(caption).caption()
