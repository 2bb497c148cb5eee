"""The judge of captions: by hand on a small view, and against all that the generator writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.errors import SourceError
from ureca.models.data.synthetic import store
from ureca.models.data.synthetic.language import vocabulary
from ureca.models.data.synthetic.language.grammar import UnreadableError, parse_caption
from ureca.models.data.synthetic.language.judge import Judgement, judge_caption, list_rivals
from ureca.models.data.synthetic.language.truth import NodeTruth, Relation, ViewTruth, read_truth
from ureca.models.data.synthetic.objects.kinds import KINDS, draw_item
from ureca.models.data.synthetic.objects.parts import Dice


def _thing(node: str, kind: str, look: str, *relations: tuple[str, str, float]) -> NodeTruth:
    return NodeTruth(
        node=node,
        type="object",
        kind=kind,
        nouns=vocabulary.list_nouns(kind),
        look=look,
        words=vocabulary.list_true_words(look),
        doubtful=vocabulary.list_doubtful_words(look),
        host="table",
        prep="on",
        relations=tuple(Relation(name=n, anchor=a, margin=m) for n, a, m in relations),
    )


def _part(node: str, owner: NodeTruth, name: str, look: str, *states: str) -> NodeTruth:
    return NodeTruth(
        node=node,
        type="part",
        kind=owner.kind,
        nouns=owner.nouns,
        part=name,
        part_nouns=vocabulary.list_part_nouns(name),
        owner=owner.node,
        look=look,
        words=vocabulary.list_true_words(look),
        states=frozenset(states),
    )


def _view() -> ViewTruth:
    """Two red mugs left and right of a bowl that holds an apple, and a cabinet."""
    left = _thing("o0", "mug", "red", ("left of", "o2", 2.0), ("on", "table", 2.0))
    right = _thing("o1", "mug", "red and white striped", ("right of", "o2", 0.6))
    bowl = _thing("o2", "bowl", "blue", ("left of", "o1", 0.6), ("right of", "o0", 2.0))
    apple = replace(_thing("o3", "apple", "green", ("in", "o2", 2.0)), host="o2", prep="in")
    cabinet = _thing("o4", "drawer cabinet", "wooden", ("behind", "o2", 1.2))
    nodes = [
        left,
        right,
        bowl,
        apple,
        cabinet,
        _part("o0p1", left, "handle", "white"),
        _part("o1p1", right, "handle", "black"),
        _part("o4p1", cabinet, "top drawer", "wooden", "open"),
        NodeTruth(
            node="g0",
            type="group",
            kind="mug",
            nouns=left.nouns,
            group="set",
            members=("o0", "o1"),
        ),
        replace(bowl, node="g1", type="group", group="holding", members=("o2", "o3")),
        NodeTruth(
            node="table",
            type="background",
            kind="table",
            nouns=("table",),
            words=vocabulary.list_true_words("wooden"),
        ),
    ]
    return ViewTruth("v", "dev", {node.node: node for node in nodes})


VIEW = _view()


@pytest.mark.parametrize(
    ("node", "caption"),
    [
        ("o0", "a red mug to the left of a blue bowl"),
        ("o0", "A red cup with a white handle."),
        ("o0", "a mug left of a bowl"),
        ("o1", "a red and white striped mug"),
        ("o1", "a striped cup to the right of a bowl"),
        ("o2", "a blue dish"),
        ("o3", "a green apple in a blue bowl"),
        ("o3", "an apple"),
        ("o4", "a wooden cabinet with an open top drawer behind a bowl"),
        ("o0p1", "the white handle of a red mug"),
        ("o0p1", "the grip of a mug to the left of a bowl"),
        ("o4p1", "the open drawer of a brown cabinet"),
        ("g0", "two mugs"),
        ("g0", "two red cups"),
        ("g0", "a striped mug and a red mug"),
        ("g1", "a blue bowl with a green apple in it"),
        ("table", "a wooden table with a red mug and a blue bowl on it"),
    ],
)
def test_any_true_and_unique_phrase_is_right(node: str, caption: str) -> None:
    found = judge_caption(VIEW, node, caption)
    assert (found.true, found.unique) == (True, True), found


@pytest.mark.parametrize(
    ("node", "caption", "slot"),
    [
        ("o0", "a red bowl", "kind_right"),
        ("o0", "the handle of a red mug", "kind_right"),
        ("o0", "two red mugs", "kind_right"),
        ("o0p1", "the lid of a red mug", "part_right"),
        ("o0p1", "a red mug", "part_right"),
        ("o0p1", "the handle of a red bowl", "kind_right"),
        ("o0", "a blue mug to the left of a bowl", "colour_true"),
        ("o0", "a red mug with a black handle", "colour_true"),
        ("o0p1", "the white handle of a green mug", "colour_true"),
        ("o0", "a red mug to the right of a bowl", "relation_true"),
        ("o0", "a red mug to the left of a red bowl", "relation_true"),
        ("o0", "a red mug on the left", "relation_true"),
        ("o3", "a green apple in a red mug", "containment_true"),
        ("o3", "a green apple on a blue bowl", "containment_true"),
        ("g1", "a blue bowl", "containment_true"),
        ("g1", "a blue bowl with a red apple in it", "containment_true"),
        ("o4p1", "the closed top drawer of a cabinet", "state_true"),
        ("g0", "three mugs", "kind_right"),
        ("g0", "a stack of two mugs", "kind_right"),
        ("g0", "a red mug and a green mug", "colour_true"),
    ],
)
def test_a_false_word_is_found_in_its_slot(node: str, caption: str, slot: str) -> None:
    found = judge_caption(VIEW, node, caption)
    assert found.readable
    assert getattr(found, slot) is False
    assert not found.true
    assert not found.unique


def test_true_of_two_is_not_unique() -> None:
    found = judge_caption(VIEW, "o0", "a red mug")
    assert found.true
    assert not found.unique
    hidden = dict(VIEW.nodes, o1=replace(VIEW.nodes["o1"], annotated=False))
    assert judge_caption(ViewTruth("v", "dev", hidden), "o0", "a red mug").unique


def test_slots_that_are_not_said_are_none() -> None:
    found = judge_caption(VIEW, "o0", "a mug")
    assert found == Judgement(readable=True, kind_right=True, true=True)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "mug",
        "a",
        "a shiny mug",
        "a red mug near a bowl",
        "a red",
        "two mug",
        "a mugs",
        "a mug a",
    ],
)
def test_unknown_words_make_a_caption_unreadable(caption: str) -> None:
    with pytest.raises(UnreadableError, match="expected"):
        parse_caption(caption)
    found = judge_caption(VIEW, "o0", caption)
    assert found == Judgement(readable=False, kind_right=False)


def test_superlatives_compare_all_that_could_be_meant() -> None:
    near = replace(VIEW.nodes["o0"], depth=0.5)
    far = replace(VIEW.nodes["o1"], depth=0.8)
    view = ViewTruth("v", "dev", dict(VIEW.nodes, o0=near, o1=far))
    assert judge_caption(view, "o0", "a mug closest to the camera").unique
    assert judge_caption(view, "o1", "a mug nearest to the camera").relation_true is False
    assert judge_caption(view, "o1", "a mug farthest from the camera").unique


@given(st.lists(st.sampled_from(
    ["a", "the", "two", "red", "mug", "bowl", "handle", "of", "with", "and", "on", "in", "it",
     "left", "to", "orange", "light", "blue", "stack", "front", "side", "its", "lying", "nonsense"]
), max_size=14))  # fmt: skip
def test_no_caption_makes_the_judge_stumble(tokens: list[str]) -> None:
    for node in VIEW.nodes:
        found = judge_caption(VIEW, node, " ".join(tokens))
        assert found.true <= found.readable
        assert found.unique <= found.true


def test_the_truth_survives_its_file(small_run: Path) -> None:
    views = list(read_truth(small_run / "scenes-train.jsonl.gz"))
    assert [ViewTruth.from_json(view.to_json()) for view in views] == views
    with pytest.raises(SourceError, match="no_such"):
        list(read_truth(small_run / "no_such.jsonl.gz"))
    with pytest.raises(SourceError, match="image_key"):
        ViewTruth.from_json({"nodes": []})


def _captioned(root: Path, split: str) -> list[tuple[ViewTruth, str, dict[str, Any]]]:
    views = {view.image_key: view for view in read_truth(root / f"scenes-{split}.jsonl.gz")}
    rows = store.read_lines(root / f"regions-{split}.jsonl.gz")
    found = []
    for row in rows:
        view = views[row["image_key"]]
        found.append((view, view.of_region(row["region_id"]).node, row))
    return found


@pytest.mark.parametrize("run", ["small_run", "held_back_run"])
def test_all_that_the_generator_writes_is_judged_right(
    run: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(run)
    captioned = _captioned(root, "train" if run == "small_run" else "test")
    for view, node, row in captioned:
        short, long = row["expressions"], row["expressions_long"]
        assert all(judge_caption(view, node, text).true for text in (*short, *long)), (short, long)
        assert all(judge_caption(view, node, text).unique for text in long), long
        assert judge_caption(view, node, short[0]).unique == row["unique_in_image"]
    written = sum(bool(row["expressions_long"]) for _, _, row in captioned)
    assert written >= 0.85 * len(captioned)


def test_a_sentence_is_false_of_every_other_region(small_run: Path) -> None:
    for view, node, row in _captioned(small_run, "train"):
        others = [other for other in list_rivals(view, view.nodes[node]) if other.annotated]
        for text in row["expressions_long"]:
            assert not any(judge_caption(view, other.node, text).true for other in others), text


def test_every_region_has_its_node_and_every_annotated_node_its_region(small_run: Path) -> None:
    regions = {row["region_id"] for _, _, row in _captioned(small_run, "train")}
    views = list(read_truth(small_run / "scenes-train.jsonl.gz"))
    nodes = {f"{v.image_key}_{n.node}" for v in views for n in v.nodes.values() if n.annotated}
    assert nodes == regions


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_word_of_every_item_can_be_read(kind: str) -> None:
    for seed in range(4):
        item = draw_item(kind, Dice(np.random.default_rng(seed), held_back=seed % 2 == 1))
        for part in item.parts:
            assert part.name == "body" or part.name in vocabulary.PART_NAMES
            assert vocabulary.list_true_words(part.look.word), part.look.word
            assert set(vocabulary.list_adjectives(part.look.word)) <= vocabulary.ADJECTIVES
