"""WorldsRES: the judge decides what a text means; the published queries are made again."""

from collections import Counter
from dataclasses import replace

from ureca.models.data.queries import read_queries
from ureca.models.data.regions import RegionRecord
from ureca.models.data.synthetic.language.judge import find_holders
from ureca.models.data.synthetic.language.queries import ABSENT_PER_VIEW, write_queries
from ureca.models.data.synthetic.language.truth import NodeTruth, Relation, ViewTruth
from ureca.models.data.synthetic.worlds_res import PUBLISHED, SPLITS, make_worlds_res, queries_of
from ureca.models.evaluation.res.cases import read_pictures


def node(name, kind, colour="", **fields):
    words = frozenset({colour}) if colour else frozenset()
    given = {"type": "object", "nouns": (kind,), "words": words, **fields}
    return NodeTruth(node=name, kind=kind, look=colour, **given)


def part(name, owner, noun, colour, **fields):
    nouns = (noun,)
    return node(
        name, "mug", colour, type="part", nouns=("mug",), part=noun, part_nouns=nouns, owner=owner,
        **fields,
    )  # fmt: skip


def view(key, *nodes):
    return ViewTruth(key, "dev", {one.node: one for one in nodes})


def record(key, name, *short, long=()):
    return RegionRecord(
        f"{key}_{name}", key, "", "ureca-worlds", 4, 4, "", (0, 0, 4, 4), short=short, long=long
    )


TABLE = view(
    "t",
    node("o0", "mug", "red", relations=(Relation(name="on the left", anchor="", margin=1.2),)),
    node("o1", "mug", "red", relations=(Relation(name="on the left", anchor="", margin=-0.2),)),
    part("o0p0", "o0", "handle", "white"),
    part("o1p0", "o1", "handle", "white", held_back=True),
    node("g0", "mug", "", type="group", group="set", members=("o0", "o1")),
    node("o2", "plate", "blue"),
    node("o3", "apple", "green", host="o2", prep="on"),
    node(
        "g1", "plate", "blue", type="group", group="holding", members=("o2", "o3"),
        nouns=("plate",),
    ),
)  # fmt: skip


def asked(*texts, extra=(), seen=TABLE):
    records = {
        seen.image_key: [record(seen.image_key, "o0", *texts)],
        "u": [record("u", "x", *extra)],
    }
    found = write_queries([seen], records)
    return {query.text: query for query in found}


def nodes(query):
    return [target.removeprefix("t_") for target in query.targets]


def test_what_a_text_means_is_judged_and_not_who_it_was_written_for():
    found = asked("a red mug", "a blue plate", "a mug on the left", "the handle of a red mug")
    assert (nodes(found["a red mug"]), found["a red mug"].kind) == (["o0", "o1"], "several")
    assert (nodes(found["a blue plate"]), found["a blue plate"].kind) == (["o2"], "thing")
    assert nodes(found["the handle of a red mug"]) == ["o0p0", "o1p0"]
    assert found["the handle of a red mug"].held_back
    # The other mug is a little left of the middle: nobody can say that the text is wrong of it.
    assert find_holders(TABLE, "a mug on the left").possibly == {"o0", "o1"}
    assert "a mug on the left" not in found


def test_bare_names_are_asked_for_where_they_are_wanted():
    records = {
        "t": [record("t", "o0", "a red mug", "two red mugs", "the handle of a red mug")],
        "u": [record("u", "x", "a blue bowl")],
    }
    plain = list(write_queries([TABLE], records))
    found = list(write_queries([TABLE], records, names=True))
    assert found[: len(plain)] == plain
    named = {query.text: query for query in found[len(plain) :]}
    assert {query.style for query in named.values()} == {"name"}
    assert nodes(named["a mug"]) == ["o0", "o1"]
    assert nodes(named["the handle of a mug"]) == ["o0p0", "o1p0"]
    assert named["a bowl"].kind == "none"
    assert nodes(named["a green thing"]) == ["o3"]
    assert sum(query.kind == "none" for text, query in named.items() if "thing" in text) == 1


def test_groups_may_be_answered_by_their_members_and_contents_by_their_vessel():
    found = asked("two red mugs", "a blue plate with a green apple on it")
    mugs, plate = found["two red mugs"], found["a blue plate with a green apple on it"]
    assert (nodes(mugs), mugs.kind) == (["g0"], "several")
    assert mugs.alternatives == (("t_o0", "t_o1"),)
    assert (nodes(plate), plate.kind) == (["g1"], "thing")
    assert plate.alternatives == (("t_o2",),)


def test_texts_about_what_is_hardly_seen_are_left_out():
    hidden = replace(TABLE.nodes["o2"], annotated=False)
    seen = ViewTruth("t", "dev", {**TABLE.nodes, "o2": hidden})
    assert "a blue plate" not in asked("a blue plate", seen=seen)
    # Nor does it count as absent.
    assert "a blue plate" not in asked("a red mug", extra=("a blue plate",), seen=seen)


def test_absent_texts_hold_nowhere_and_some_name_a_thing_that_is_there():
    others = ("a green mug", "a red bowl", "a red mug", "the red handle of a red mug")
    found = asked("a red mug", extra=others)
    absent = {text: query for text, query in found.items() if query.kind == "none"}
    assert {text: query.near for text, query in absent.items()} == {
        "a green mug": True,
        "a red bowl": False,
        "the red handle of a red mug": True,
    }
    assert all(query.targets == () for query in absent.values())


def test_the_same_views_give_the_same_queries_with_other_ids():
    first, again = (list(asked("a red mug", "two red mugs").values()) for _ in range(2))
    assert first == again
    assert [query.query_id for query in first] == ["t_q0", "t_q1"]


def test_the_benchmark_is_made_by_one_command_and_read_by_the_evaluation(gl, tmp_path):
    said = make_worlds_res(tmp_path, workers=1, scenes=1)
    assert said.count("queries (") == len(SPLITS)
    assert "repository" not in said
    written = list(read_queries(tmp_path / "queries-dev.jsonl.gz"))
    assert written == queries_of(tmp_path, "dev")
    pictures = read_pictures(tmp_path, every=16, texts="both")
    assert len(pictures) == 4
    tags = Counter(tag for picture in pictures for case in picture.cases for tag in case.tags)
    assert {"split=thing", "split=none", "style=short", "style=long"} <= tags.keys()
    assert tags["split=none"] <= ABSENT_PER_VIEW * len(pictures)
    # Without its queries the folder is judged when it is read, to the same effect.
    for split in SPLITS:
        (tmp_path / f"queries-{split}.jsonl.gz").unlink()
    assert {p.image_key for p in read_pictures(tmp_path, every=16)} == {
        p.image_key for p in pictures
    }


def test_the_published_queries_are_whole():
    for split in SPLITS:
        queries = list(read_queries(PUBLISHED / f"queries-{split}.jsonl.gz"))
        assert len({query.query_id for query in queries}) == len(queries) > 3000
        assert {query.kind for query in queries} == {"part", "thing", "several", "none"}
        assert all(bool(query.targets) == (query.kind != "none") for query in queries)
        assert {query.split for query in queries} == {split}
        assert any(query.held_back for query in queries) == (split == "test")
