"""`ureca eval res`: cases of a folder, answers of a scripted engine, and figures by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from tests.models.res_pictures import (
    FRAMES,
    options,
    region_row,
    rig,
    source,
    write_lines,
    write_pictures,
)
from ureca.datatypes import RegionInput
from ureca.errors import BundleError, SourceError
from ureca.models.data.queries import QueryRecord, read_queries
from ureca.models.data.regions import hash_image_key
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.res.answers import (
    Grounders,
    GroundingAnswer,
    answer_at_best,
    answer_from,
    answer_given,
    view,
)
from ureca.models.evaluation.res.candidates import cut_candidates, open_segmenter
from ureca.models.evaluation.res.cases import GroundingCase, in_half, read_pictures
from ureca.models.evaluation.res.cli import measure, run
from ureca.models.evaluation.res.intervals import area_under_curve, auc_interval, mean_interval
from ureca.models.evaluation.res.memo import RememberingEngine
from ureca.models.evaluation.res.metrics import figures, mask_figures
from ureca.models.evaluation.res.tables import tables
from ureca.models.runtime.grounding import FoundRegion, GroundingResult
from ureca.testing import ScriptedEngine


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    """tqdm's monitor is one thread for the whole process, and meant to stay."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def asked(root, tmp_path_factory):
    """The same pictures with queries: one thing, several, and none."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "images").symlink_to(root / "images")
    (folder / "regions-test.jsonl.gz").symlink_to(root / "regions-test.jsonl.gz")
    queries = []
    for seq in range(FRAMES):
        key = f"view{seq}"
        several = [f"{key}_{name}" for name in ("red", "green", "blue")]
        several += [f"{key}_yellow"] if seq % 2 == 0 else []
        queries += [
            QueryRecord(f"{key}_a", key, "a green thing", (f"{key}_green",), kind="thing"),
            QueryRecord(f"{key}_b", key, "things", tuple(several), kind="several"),
            QueryRecord(f"{key}_c", key, "a purple thing", kind="none"),
        ]
    write_lines(folder / "queries-test.jsonl.gz", [query.to_json() for query in queries])
    return folder


def test_expressions_are_texts_and_other_pictures_give_what_is_not_there(root):
    pictures = read_pictures(root, every=16)
    by_key = {picture.image_key: picture for picture in pictures}
    even, odd = by_key["view0"], by_key["view1"]
    assert [case.text for case in even.cases if case.targets] == [
        "a red thing",
        "a green thing",
        "a blue thing",
        "a yellow thing",
    ]
    assert [case.type for case in even.cases] == ["part", "thing", "group", "thing"]
    # "thing" is said of every picture: no text of another one is safe to be absent.
    assert [case for case in odd.cases if not case.targets] == []


def test_texts_said_of_several_regions_mean_them_all_and_absent_nouns_are_not_named(tmp_path):
    masks = source().masks(0)
    said = {"red": ["a dog", "A dog."], "green": ["a dog"], "blue": ["the ball"]}
    rows = [region_row("one", n, masks[n], expressions=texts) for n, texts in said.items()]
    rows += [region_row("two", "red", masks["red"], expressions=["a puppy", "a car", "a kite"])]
    rows[-1]["stuff"] = True
    write_lines(tmp_path / "regions-test.jsonl.gz", rows)
    row = {"image_key": "one", "width": 160, "height": 120, "captions": ["a kite in the sky"]}
    write_lines(tmp_path / "images-test.jsonl.gz", [row])
    one, two = read_pictures(tmp_path, every=16)
    assert [(case.text, case.targets) for case in one.cases] == [
        ("a dog", {0, 1}),
        ("the ball", {2}),
        ("a car", frozenset()),  # not "a puppy", another word for what is there; no kite either
    ]
    assert {case.text for case in two.cases if not case.targets} == {"the ball"}
    assert two.cases[0].type == "stuff"


def test_only_held_out_pictures_of_a_training_file_and_one_half_count(root, tmp_path):
    (tmp_path / "regions-train.jsonl.gz").write_bytes((root / "regions-test.jsonl.gz").read_bytes())
    held = {f"view{n}" for n in range(FRAMES) if hash_image_key(f"view{n}") % 2 == 0}
    assert 0 < len(held) < FRAMES
    assert {p.image_key for p in read_pictures(tmp_path, every=2)} == held
    halves = [read_pictures(root, every=1, half=half) for half in ("first", "second")]
    keys = [{picture.image_key for picture in half} for half in halves]
    assert keys[0] | keys[1] == {f"view{n}" for n in range(FRAMES)}
    assert not keys[0] & keys[1]
    assert all(in_half(key, "first", 1) for key in keys[0])


def test_whole_pictures_are_no_candidates_and_empty_folders_say_so(root, tmp_path):
    row = region_row("view0", "all", np.ones((120, 160), bool), mask_source="full_image")
    write_lines(tmp_path / "regions-test.jsonl.gz", [row])
    with pytest.raises(SourceError, match="no texts of held-out regions"):
        read_pictures(tmp_path, every=16)
    with pytest.raises(SourceError, match="is it a data folder"):
        read_pictures(tmp_path / "nowhere", every=16)


def test_a_scripted_engine_finds_what_has_its_colour(root):
    found = measure(rig(options("--data", root)), options("--data", root))
    assert (found["n"], found["accuracy"], found["n_none"]) == (21, 1.0, 0)
    assert found["none_auc"] is None  # nothing was asked that is not there
    assert {name: one["n"] for name, one in found["by_type"].items()} == {
        "part": 6,
        "thing": 9,
        "group": 6,
    }
    assert found["miou"] == found["oiou"] == found["p@0.9"] == found["t_acc"] == 1.0
    assert found["protocols"]["part"]["n_masks"] == 6
    assert found["protocols"]["obj_and_part"]["n_masks"] == 21
    assert found["chance"] == pytest.approx((12 / 4 + 9 / 3) / 21)


def test_queries_ask_for_several_and_for_what_is_not_there(asked):
    chosen = options("--data", asked, "--texts", "both", "--bag")
    found = measure(rig(chosen), chosen)
    assert (found["n"], found["n_none"]) == (12, 6)
    assert found["n_acc"] == 1.0
    assert found["none_auc"] == 1.0
    one, several = found["by_tag"]["split=thing"], found["by_tag"]["split=several"]
    assert (one["accuracy"], one["miou"], one["set_iou"]) == (1.0, 1.0, 1.0)
    assert several["accuracy"] == 1.0
    assert found["by_tag"]["split=none"]["giou"] == 1.0
    assert found["giou"] == pytest.approx((found["miou"] * 12 + 6) / 18)
    assert found["bag_accuracy"] == found["accuracy"] == 1.0
    assert found["gain_over_bag"] == 0.0


def test_columns_judge_the_masks_and_the_grounder_apart(asked, tmp_path):
    chosen = options(
        *("--data", asked, "--texts", "both", "--segmenter", "scripted"),
        *("--candidates", "given", "segmenter", "oracle", "-o", tmp_path / "out"),
    )
    found = measure(rig(chosen), chosen)
    best = found["columns"]["oracle"]
    assert (best["miou"], best["n_acc"], best["accuracy"]) == (pytest.approx(1.0), 1.0, 1.0)
    cut = found["columns"]["segmenter"]
    assert cut["set_iou" if "set_iou" in cut else "miou"] <= best["miou"]
    assert cut["by_tag"]["split=thing"]["accuracy"] == 1.0
    assert found["candidates"] == "given"
    text = tables(found)
    assert all(name in text for name in ("candidates: given", "candidates: oracle", "mIoU"))
    assert json.loads((tmp_path / "out" / "res.json").read_text())["n"] == found["n"]
    rows = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 18


def test_several_folders_are_counted_together_and_apart(root, asked):
    chosen = options("--data", root, "--data", asked)
    found = measure(rig(chosen), chosen)
    parts = [columns["given"] for columns in found["data"].values()]
    assert found["n"] == sum(part["n"] for part in parts) == 33


def test_pictures_that_are_missing_are_named_and_none_at_all_is_an_error(root, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "regions-test.jsonl.gz").symlink_to(root / "regions-test.jsonl.gz")
    first = (root / "images" / "view0.png").read_bytes()
    (tmp_path / "images" / "view0.png").write_bytes(first)
    chosen = options("--data", tmp_path)
    assert measure(rig(chosen), chosen)["n"] == 4
    assert f"{FRAMES - 1} of {FRAMES} pictures" in capsys.readouterr().err
    (tmp_path / "images" / "view0.png").rename(tmp_path / "images" / "other.png")
    with pytest.raises(SourceError, match="none of these pictures"):
        measure(rig(chosen), chosen)


def test_a_folder_that_is_no_bundle_is_refused(root):
    with pytest.raises(BundleError):
        main(["res", "--data", str(root), "--bundle", str(root)])


def test_the_last_line_is_one_json_object(root, capsys):
    chosen = options("--data", root, "--json")
    assert run(rig(chosen), chosen) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"n", "accuracy", "none_auc", "by_type"} <= found.keys()
    chosen = options("--data", root)
    assert run(rig(chosen), chosen) == 0
    assert capsys.readouterr().out.startswith("Choice, candidates: given")


# --- answers and figures by hand ------------------------------------------------------------------


class Answering:
    """A grounder that says what it was told to."""

    def __init__(self, answers, none_probability=0.25):
        self._answers, self._none = answers, none_probability

    def find(self, frame, candidates, texts):
        return [
            GroundingResult(
                text, self._none, tuple(FoundRegion(i, 0.5) for i in self._answers.get(text, ()))
            )
            for text in texts
        ]


def seen(asked, number=0):
    picture = next(p for p in read_pictures(asked, every=16) if p.image_key == f"view{number}")
    return view(picture, source().image(number), None)


def answered(asked, decided, forced=None):
    pair = Grounders(Answering(decided), Answering(decided if forced is None else forced))
    return {answer.case.text: answer for answer in answer_given(seen(asked), pair)}


def test_an_empty_answer_is_no_answer_but_its_best_guess_counts(asked):
    found = answered(asked, {}, {"a green thing": [1]})["a green thing"]
    assert (found.empty, found.right, found.set_iou) == (True, True, 0.0)
    assert found.intersection_px == 0
    assert mask_figures([found])["t_acc"] == mask_figures([found])["miou"] == 0.0
    wrong = answered(asked, {"a green thing": [0, 1]})["a green thing"]
    assert (wrong.right, wrong.set_iou) == (False, 0.5)
    assert 0 < wrong.iou < 1


def test_members_of_a_group_are_as_good_an_answer(asked):
    case = GroundingCase("two", frozenset({0}), (frozenset({1, 2}),))
    assert case.accepted == (frozenset({0}), frozenset({1, 2}))
    picture = seen(asked)
    picture = type(picture)(
        type(picture.picture)("view0", picture.picture.regions, (case,)),
        picture.image,
        None,
        picture.masks,
    )
    for chosen, right in (([0], True), ([1, 2], True), ([1], False), ([1, 2, 3], False)):
        grounder = Answering({"two": chosen})
        (found,) = answer_given(picture, Grounders(grounder, grounder))
        assert (found.right, found.set_iou == 1.0) == (right, right)


def test_a_picture_without_candidates_is_answered_by_nothing(asked):
    pair = Grounders(Answering({}), Answering({}))
    assert all(answer.empty and not answer.right for answer in answer_from(seen(asked), [], pair))
    best = list(answer_at_best(seen(asked), []))
    assert [answer.empty for answer in best] == [True, True, True]


def test_a_segmenters_grid_cuts_each_thing_once():
    image, masks = source().image(0), source().masks(0)
    found = cut_candidates(open_segmenter("scripted", bundle=Path("none")), image)
    ious = [max(np.mean(one.mask == mask) for one in found) for mask in masks.values()]
    assert min(ious) > 0.99
    assert len(found) <= len(masks) + 1  # and the background


def test_masks_of_another_size_are_refused(asked):
    picture = next(iter(read_pictures(asked, every=16)))
    with pytest.raises(SourceError, match="160x120, the picture 80x60"):
        view(picture, np.zeros((60, 80, 3), np.uint8), None)


def answer(present, *, targets=(0,), right=True, empty=False, area=(1, 2), key="a", **fields):
    case = GroundingCase("x", frozenset(targets), (), "thing" if targets else None)
    return GroundingAnswer(key, case, 4, empty, present, right, *area, **fields)


def test_figures_follow_their_definitions():
    answers = [
        answer(0.9, area=(6, 10)),
        answer(0.8, area=(90, 100), key="b"),
        answer(0.2, area=(0, 50), empty=True, right=False),
        answer(0.3, targets=(), area=(0, 40), right=False),  # answered, though nothing is there
        answer(0.1, targets=(), area=(0, 0), empty=True, right=False, key="b"),
    ]
    found = figures(answers, seed=0)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["none_auc"] == pytest.approx(5 / 6)
    assert found["miou"] == pytest.approx((0.6 + 0.9 + 0) / 3)
    assert found["oiou"] == pytest.approx(96 / 160)
    assert found["ciou"] == pytest.approx(96 / 200)
    assert found["giou"] == pytest.approx((0.6 + 0.9 + 0 + 0 + 1) / 5)
    assert (found["n_acc"], found["t_acc"]) == (0.5, pytest.approx(2 / 3))
    assert [found[f"p@{at}"] for at in (0.5, 0.7, 0.9)] == [
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
    ]
    assert found["chance"] == 0.25
    assert found["by_type"].keys() == {"thing"}
    assert found["by_type"]["thing"]["none_auc"] == found["none_auc"]
    assert (found["by_type"]["thing"]["n"], found["by_type"]["thing"]["n_none"]) == (3, 2)


def test_what_cannot_be_measured_is_null():
    found = figures([answer(0.1, targets=(), empty=True, right=False)], seed=0)
    assert (found["n"], found["accuracy"], found["miou"], found["none_auc"]) == (
        0,
        None,
        None,
        None,
    )
    assert (found["giou"], found["accuracy_interval"]) == (1.0, None)
    assert found["by_type"] == {}


def test_a_gain_is_paired():
    answers = [answer(1.0, key=str(n), right=n % 4 > 0, bag_right=n % 2 > 0) for n in range(80)]
    found = figures(answers, seed=0)
    assert found["gain_over_bag"] == pytest.approx(0.25)
    low, high = found["gain_over_bag_interval"]
    assert 0.1 < low < 0.25 < high < 0.4


def test_intervals_are_over_pictures():
    values = [float(n % 2) for n in range(400)]
    narrow = mean_interval([str(n) for n in range(400)], values, seed=0)
    # Both values of a picture stand together: half as many, as wide as that.
    doubled = [float(n // 2 % 2) for n in range(400)]
    wide = mean_interval([str(n // 2) for n in range(400)], doubled, seed=0)
    assert narrow[0] < 0.5 < narrow[1]
    ratio = (wide[1] - wide[0]) / (narrow[1] - narrow[0])
    assert 1.2 < ratio < 1.7  # the square root of two
    assert mean_interval(["a", "a"], [0.0, 1.0], seed=0) is None


def test_area_under_curve_counts_pairs_ties_and_weights():
    assert area_under_curve([3, 2, 1], [True, False, True]) == 0.5
    assert area_under_curve([1, 1], [True, False]) == 0.5
    weights = np.array([3.0, 1.0, 1.0])
    assert area_under_curve([3, 2, 1], [True, False, True], weights) == 0.75
    assert area_under_curve([1, 2], [True, True]) is None
    rng = np.random.default_rng(0)
    kinds = rng.random(300) < 0.5
    values = rng.normal(size=300) + kinds
    low, high = auc_interval([str(n) for n in range(300)], values.tolist(), kinds.tolist(), seed=0)
    assert low < area_under_curve(values, kinds) < high
    assert high - low < 0.15
    assert auc_interval(["a", "b"], [1.0, 2.0], [True, True], seed=0) is None


def test_scores_are_computed_once_for_one_frame():
    class Counting(ScriptedEngine):
        asked = 0

        def score(self, *args, **words):
            self.asked += 1
            return super().score(*args, **words)

    inner = Counting()
    engine = RememberingEngine(inner)
    masks = list(source().masks(0).values())
    frame = engine.encode(source().image(0))
    for _ in range(2):
        scores = engine.score(frame, [RegionInput(mask) for mask in masks], ["a red thing"])
    assert inner.asked == 1
    assert scores.bag.shape == (1, 4)
    engine.score(frame, [RegionInput(masks[0])], ["a red thing"])
    engine.score(engine.encode(source().image(1)), [RegionInput(masks[0])], ["a red thing"])
    assert inner.asked == 3
    assert engine.info.model == "scripted"
    assert len(list(engine.caption(frame, [RegionInput(masks[0])]))) == 4
    assert engine.times == inner.times


def test_queries_come_back_as_they_were_written(tmp_path):
    query = QueryRecord(
        "q", "p", "two cups", ("p_a",), (("p_b", "p_c"),), "several", "short", "dev", True, False
    )
    write_lines(tmp_path / "queries-dev.jsonl.gz", [query.to_json()])
    assert list(read_queries(tmp_path / "queries-dev.jsonl.gz")) == [query]
    for row in ({"query_id": "q"}, {**query.to_json(), "targets": "p_a"}, [], {"kind": "many"}):
        with pytest.raises(SourceError, match="expected query_id"):
            QueryRecord.from_json(row)
    with pytest.raises(SourceError, match="many"):
        QueryRecord.from_json({**query.to_json(), "kind": "many"})
