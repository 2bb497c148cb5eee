"""Measures known failures of captions, one figure each, for comparisons of models.

Every figure comes with its count. All rules look at words only; the lists are in `lexicon`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ureca.models.evaluation.measures.scores import Figures, ScoredCaption
from ureca.models.evaluation.test_set import (
    EvaluationCase,
    References,
    Training,
    group_by_picture,
    normalise_category,
)
from ureca.models.evaluation.text import lexicon
from ureca.models.evaluation.text.phrase_parsing import (
    find_head_nouns,
    is_headed_by,
    make_singular,
    parse_noun_phrase,
    split_words,
)

COMMON_CATEGORIES = 100
COMMON_CAPTIONS = 10

Reading = Callable[[str], frozenset[str]]
"""What a text commits to: genders, ages, colours or numbers; empty if nothing."""


def measure_short_faults(
    scored: Sequence[ScoredCaption],
    pool: Sequence[EvaluationCase],
    training: Training,
    *,
    references: References,
) -> Figures:
    """Measure neighbours, gender and age, rare nouns, colour and number of short captions."""
    single = [item for item in scored if item.case.people and not item.case.record.group]
    return {
        **_names_neighbour(scored, pool, references),
        **_names_garment(scored),
        **_measure_either_wrong(single),
        **_measure_wrong("gender", single, find_genders),
        **_measure_wrong("age", single, find_ages),
        **_measure_rare(scored, training),
        **_measure_right("colour", scored, find_colours),
        **_measure_right("number", scored, find_numbers),
        **_measure_right(
            "number_plural",
            [i for i in scored if _find_agreed(i, find_numbers) == {"many"}],
            find_numbers,
        ),
    }


def measure_long_faults(scored: Sequence[ScoredCaption]) -> Figures:
    """Measure how many long captions follow one template, for captions and for people's own
    sentences.
    """
    captions = [item.caption for item in scored]
    people = [item.references[0] for item in scored if item.references]
    return {
        "long_distinct": _measure_distinct(captions),
        "long_template": _measure_template_share(captions),
        "long_template_people": _measure_template_share(people),
        "n_long": len(captions),
    }


def find_commonest_template(captions: Iterable[str]) -> tuple[str, int]:
    """Return the most frequent sentence with people, colours and garments replaced, and its
    count.
    """
    counted = Counter(make_template(caption) for caption in captions)
    return counted.most_common(1)[0] if counted else ("", 0)


def make_template(caption: str) -> str:
    """Replace people, colours and garments in a caption: "a PERSON in a COLOUR GARMENT"."""
    return " ".join(_blank(word) for word in split_words(caption))


def _blank(word: str) -> str:
    if make_singular(word) in lexicon.PERSON_WORDS:
        return "PERSON"
    if word in lexicon.PLAIN_COLOURS:
        return "COLOUR"
    return (
        "GARMENT" if word in lexicon.GARMENTS or make_singular(word) in lexicon.GARMENTS else word
    )


def find_genders(text: str) -> frozenset[str]:
    """Return the genders of the head nouns."""
    return _find_kinds(text, {"male": lexicon.MALE, "female": lexicon.FEMALE})


def find_ages(text: str) -> frozenset[str]:
    """Return whether the head nouns mean adults or children."""
    return _find_kinds(text, {"grown": lexicon.GROWN, "child": lexicon.CHILD})


def find_colours(text: str) -> frozenset[str]:
    """Return plain colours before the head noun."""
    words = parse_noun_phrase(text).words
    return frozenset("gray" if w == "grey" else w for w in words if w in lexicon.PLAIN_COLOURS)


def find_numbers(text: str) -> frozenset[str]:
    """Return whether the head noun and the words before it mean one or many.

    Empty for "pants", which are one and many.
    """
    phrase = parse_noun_phrase(text)
    if phrase.head is None or phrase.head in lexicon.PAIRED:
        return frozenset()
    counted = bool(set(phrase.counted) & lexicon.COUNTS_ABOVE_ONE)
    crowd = make_singular(phrase.head) in lexicon.MANY_OF and phrase.rest[:1] == ("of",)
    plural = make_singular(phrase.head) != phrase.head
    return frozenset({"many" if counted or crowd or plural else "one"})


def _find_kinds(text: str, kinds: dict[str, frozenset[str]]) -> frozenset[str]:
    heads = set(find_head_nouns(text))
    return frozenset(name for name, words in kinds.items() if heads & words)


def _names_neighbour(
    scored: Sequence[ScoredCaption], pool: Sequence[EvaluationCase], references: References
) -> Figures:
    """Wrong for its own region, but the head noun names another region of the image."""
    names = {case.region_id: case.find_accepted_names(references) for case in pool}
    pictures = group_by_picture(case for case in pool if names[case.region_id])
    asked = wrong = 0
    for item in scored:
        others = [c for c in pictures.get(item.case.image_key, ()) if c is not item.case]
        if "head" not in item.figures or not others:
            continue
        asked += 1
        other = any(is_headed_by(item.caption, names[case.region_id]) for case in others)
        wrong += not item.figures["head"] and other
    return _make_figure("neighbour_named", wrong, asked)


def _names_garment(scored: Sequence[ScoredCaption]) -> Figures:
    """The head noun is a garment, and no reference or category names one."""
    asked = [i for i in scored if "head" in i.figures and "clothing" not in i.case.record.types]
    asked = [
        i
        for i in asked
        if not any(set(find_head_nouns(t)) & lexicon.GARMENTS for t in _list_words(i))
    ]
    wrong = sum(bool(set(find_head_nouns(item.caption)) & lexicon.GARMENTS) for item in asked)
    return _make_figure("garment_named", wrong, len(asked))


def _list_words(item: ScoredCaption) -> tuple[str, ...]:
    return (*item.references, item.case.record.category)


def _find_agreed(item: ScoredCaption, reading: Reading) -> frozenset[str]:
    """Return what the references commit to, empty if they contradict each other."""
    found = frozenset[str]().union(*(reading(text) for text in item.references))
    return found if len(found) == 1 else frozenset()


def _compare_readings(items: Iterable[ScoredCaption], reading: Reading) -> list[bool]:
    """Compare caption and references wherever both commit."""
    pairs = [(reading(item.caption), _find_agreed(item, reading)) for item in items]
    return [said == meant for said, meant in pairs if len(said) == 1 and meant]


def _measure_wrong(name: str, items: Sequence[ScoredCaption], reading: Reading) -> Figures:
    right = _compare_readings(items, reading)
    return _make_figure(f"{name}_wrong", len(right) - sum(right), len(right))


def _measure_right(name: str, items: Sequence[ScoredCaption], reading: Reading) -> Figures:
    if reading is not find_colours:
        right = _compare_readings(items, reading)
        return _make_figure(f"{name}_right", sum(right), len(right))
    # People may name two colours of one object: either is right.
    pairs = [
        (find_colours(i.caption), frozenset().union(*map(find_colours, i.references)))
        for i in items
    ]
    both = [bool(said & meant) for said, meant in pairs if said and meant]
    return _make_figure(f"{name}_right", sum(both), len(both))


def _measure_either_wrong(items: Sequence[ScoredCaption]) -> Figures:
    """Share of captions with wrong gender or age, among those for which caption and people
    commit.
    """
    asked = wrong = 0
    for item in items:
        agreed = [*_compare_readings([item], find_genders), *_compare_readings([item], find_ages)]
        asked += bool(agreed)
        wrong += not all(agreed)
    return _make_figure("gender_or_age_wrong", wrong, asked)


def _measure_rare(scored: Sequence[ScoredCaption], training: Training) -> Figures:
    """Return names outside the most frequent of training, and the share of the most frequent
    captions.
    """
    captions = Counter(item.caption for item in scored)
    top = sum(count for _, count in captions.most_common(COMMON_CAPTIONS))
    share = _make_figure("ten_commonest_captions", top, len(scored))
    if not training.categories:
        return {"rare_head": None, "n_rare_head": 0, **share}
    common = training.list_common(COMMON_CATEGORIES)
    rare = [
        item.figures["head"]
        for item in scored
        if "head" in item.figures and _is_rare(item.case, common)
    ]
    return {**_make_figure("rare_head", sum(rare), len(rare)), **share}


def _is_rare(case: EvaluationCase, common: frozenset[str]) -> bool:
    return bool(case.record.category) and normalise_category(case.record.category) not in common


def _measure_distinct(captions: Sequence[str]) -> float | None:
    return len(set(captions)) / len(captions) if captions else None


def _measure_template_share(captions: Sequence[str]) -> float | None:
    return find_commonest_template(captions)[1] / len(captions) if captions else None


def _make_figure(name: str, part: float, whole: int) -> Figures:
    return {name: part / whole if whole else None, f"n_{name}": whole}
