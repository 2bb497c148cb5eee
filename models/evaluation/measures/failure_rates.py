"""The faults that the pilot named, one figure each, to put before and after side by side.

Every figure comes with its count. All rules look at words only; the lists are in `lexicon`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ureca.models.evaluation.measures.scores import Figures, Scored
from ureca.models.evaluation.test_set import (
    EvaluationCase,
    References,
    Training,
    by_picture,
    category_name,
)
from ureca.models.evaluation.text import lexicon
from ureca.models.evaluation.text.phrase_parsing import (
    head_nouns,
    is_headed_by,
    noun_phrase,
    singular,
    tokens,
)

COMMON_CATEGORIES = 100
COMMON_CAPTIONS = 10

Reading = Callable[[str], frozenset[str]]
"""What a text commits to: genders, ages, colours or numbers; empty when it does not."""


def short_faults(
    scored: Sequence[Scored],
    pool: Sequence[EvaluationCase],
    training: Training,
    *,
    references: References,
) -> Figures:
    """Neighbours, gender and age, rare nouns, colour, number: of short captions."""
    single = [item for item in scored if item.case.people and not item.case.record.group]
    return {
        **_neighbour(scored, pool, references),
        **_garment(scored),
        **_either_wrong(single),
        **_wrong("gender", single, genders),
        **_wrong("age", single, ages),
        **_rare(scored, training),
        **_right("colour", scored, colours),
        **_right("number", scored, numbers),
        **_right("number_plural", [i for i in scored if _agreed(i, numbers) == {"many"}], numbers),
    }


def long_faults(scored: Sequence[Scored]) -> Figures:
    """Collapse of long captions to one template; people's own sentences beside it."""
    captions = [item.caption for item in scored]
    people = [item.references[0] for item in scored if item.references]
    return {
        "long_distinct": _distinct(captions),
        "long_template": _template_share(captions),
        "long_template_people": _template_share(people),
        "n_long": len(captions),
    }


def commonest_template(captions: Iterable[str]) -> tuple[str, int]:
    """The commonest sentence when people, colours and garments are blanked, and its count."""
    counted = Counter(template(caption) for caption in captions)
    return counted.most_common(1)[0] if counted else ("", 0)


def template(caption: str) -> str:
    """A caption with its people, colours and garments blanked: "a PERSON in a COLOUR GARMENT"."""
    return " ".join(_blanked(word) for word in tokens(caption))


def _blanked(word: str) -> str:
    if singular(word) in lexicon.PERSON_WORDS:
        return "PERSON"
    if word in lexicon.PLAIN_COLOURS:
        return "COLOUR"
    return "GARMENT" if word in lexicon.GARMENTS or singular(word) in lexicon.GARMENTS else word


def genders(text: str) -> frozenset[str]:
    """Genders that the head nouns tell."""
    return _sorts(text, {"male": lexicon.MALE, "female": lexicon.FEMALE})


def ages(text: str) -> frozenset[str]:
    """Whether the head nouns tell a grown person or a child."""
    return _sorts(text, {"grown": lexicon.GROWN, "child": lexicon.CHILD})


def colours(text: str) -> frozenset[str]:
    """Plain colours before the head noun."""
    words = noun_phrase(text).words
    return frozenset("gray" if w == "grey" else w for w in words if w in lexicon.PLAIN_COLOURS)


def numbers(text: str) -> frozenset[str]:
    """Whether one or many are meant, by the head noun and the words before it.

    Empty for "pants", which are one and many.
    """
    phrase = noun_phrase(text)
    if phrase.head is None or phrase.head in lexicon.PAIRED:
        return frozenset()
    counted = bool(set(phrase.counted) & lexicon.COUNTS_ABOVE_ONE)
    crowd = singular(phrase.head) in lexicon.MANY_OF and phrase.rest[:1] == ("of",)
    plural = singular(phrase.head) != phrase.head
    return frozenset({"many" if counted or crowd or plural else "one"})


def _sorts(text: str, kinds: dict[str, frozenset[str]]) -> frozenset[str]:
    heads = set(head_nouns(text))
    return frozenset(name for name, words in kinds.items() if heads & words)


def _neighbour(
    scored: Sequence[Scored], pool: Sequence[EvaluationCase], references: References
) -> Figures:
    """Wrong for its own region, but headed by a name of another region of the picture."""
    names = {case.region_id: case.accepted(references) for case in pool}
    pictures = by_picture(case for case in pool if names[case.region_id])
    asked = wrong = 0
    for item in scored:
        others = [c for c in pictures.get(item.case.image_key, ()) if c is not item.case]
        if "head" not in item.figures or not others:
            continue
        asked += 1
        other = any(is_headed_by(item.caption, names[case.region_id]) for case in others)
        wrong += not item.figures["head"] and other
    return _share("neighbour_named", wrong, asked)


def _garment(scored: Sequence[Scored]) -> Figures:
    """Headed by a garment where no reference or category names one."""
    asked = [i for i in scored if "head" in i.figures and "clothing" not in i.case.record.types]
    asked = [i for i in asked if not any(set(head_nouns(t)) & lexicon.GARMENTS for t in _words(i))]
    wrong = sum(bool(set(head_nouns(item.caption)) & lexicon.GARMENTS) for item in asked)
    return _share("garment_named", wrong, len(asked))


def _words(item: Scored) -> tuple[str, ...]:
    return (*item.references, item.case.record.category)


def _agreed(item: Scored, reading: Reading) -> frozenset[str]:
    """What the references commit to, empty where they contradict each other."""
    found = frozenset[str]().union(*(reading(text) for text in item.references))
    return found if len(found) == 1 else frozenset()


def _compared(items: Iterable[Scored], reading: Reading) -> list[bool]:
    """Whether caption and references agree, wherever both commit."""
    pairs = [(reading(item.caption), _agreed(item, reading)) for item in items]
    return [said == meant for said, meant in pairs if len(said) == 1 and meant]


def _wrong(name: str, items: Sequence[Scored], reading: Reading) -> Figures:
    right = _compared(items, reading)
    return _share(f"{name}_wrong", len(right) - sum(right), len(right))


def _right(name: str, items: Sequence[Scored], reading: Reading) -> Figures:
    if reading is not colours:
        right = _compared(items, reading)
        return _share(f"{name}_right", sum(right), len(right))
    # People may name two colours of one thing: any of them is right.
    pairs = [(colours(i.caption), frozenset().union(*map(colours, i.references))) for i in items]
    both = [bool(said & meant) for said, meant in pairs if said and meant]
    return _share(f"{name}_right", sum(both), len(both))


def _either_wrong(items: Sequence[Scored]) -> Figures:
    """Gender or age wrong, among captions that commit to one of them where people do, too."""
    asked = wrong = 0
    for item in items:
        agreed = [*_compared([item], genders), *_compared([item], ages)]
        asked += bool(agreed)
        wrong += not all(agreed)
    return _share("gender_or_age_wrong", wrong, asked)


def _rare(scored: Sequence[Scored], training: Training) -> Figures:
    """Names outside the commonest of training, and how much the commonest captions take."""
    captions = Counter(item.caption for item in scored)
    top = sum(count for _, count in captions.most_common(COMMON_CAPTIONS))
    share = _share("ten_commonest_captions", top, len(scored))
    if not training.categories:
        return {"rare_head": None, "n_rare_head": 0, **share}
    common = training.common(COMMON_CATEGORIES)
    rare = [
        item.figures["head"]
        for item in scored
        if "head" in item.figures and _rarely(item.case, common)
    ]
    return {**_share("rare_head", sum(rare), len(rare)), **share}


def _rarely(case: EvaluationCase, common: frozenset[str]) -> bool:
    return bool(case.record.category) and category_name(case.record.category) not in common


def _distinct(captions: Sequence[str]) -> float | None:
    return len(set(captions)) / len(captions) if captions else None


def _template_share(captions: Sequence[str]) -> float | None:
    return commonest_template(captions)[1] / len(captions) if captions else None


def _share(name: str, part: float, whole: int) -> Figures:
    return {name: part / whole if whole else None, f"n_{name}": whole}
