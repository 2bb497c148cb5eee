"""Fitting and judging attributes on tokens and answers whose truth is known."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.attributes import AttributeAnswer
from ureca.models.data.attributes import NOT_APPLICABLE
from ureca.models.data.regions import RegionRecord
from ureca.models.evaluation.attributes.cases import AttributeCase, find_half, read_cases
from ureca.models.evaluation.attributes.fitting import choose_threshold, fit, list_words, save
from ureca.models.evaluation.attributes.measures import JudgedAnswer, calibration_error, judge
from ureca.models.evaluation.attributes.run import answer_cases, summarise
from ureca.models.runtime.attributes import ARRAYS, AttributeReader, checkpoint_attributes
from ureca.protocol import rle
from ureca.testing import ScriptedEngine, SyntheticSource

WORDS = ("red", "green", "blue")
torch = pytest.importorskip("torch", reason="fitting needs torch")


def record(number: int, source: str = "flickr") -> RegionRecord:
    return RegionRecord(str(number), f"picture-{number}-0", "s", source, 2, 2, "04", (0, 0, 2, 2))


def answer(text: str | None, probability: float = 0.9) -> AttributeAnswer:
    status = "said" if text else "abstained"
    return AttributeAnswer(name="colour", status=status, text=text, probability=probability)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Heads of tokens that say the colour in their first numbers, with noise, and of age nothing;
    every fifth region has no colour.
    """
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3000, 12)).astype(np.float32)
    colour = rng.integers(0, 3, 3000)
    tokens[np.arange(3000), colour] += 2.5
    without = np.arange(3000) % 5 == 0
    tokens[without, :4] = [0, 0, 0, 4]
    cases = []
    for row in range(3000):
        words = frozenset({NOT_APPLICABLE if without[row] else WORDS[colour[row]]})
        mined = {"colour": words, "age": frozenset({str(rng.integers(3))})}
        cases.append(AttributeCase(record(row), mined, find_half(record(row), few=True)))
    section, arrays = fit(cases, tokens)
    folder = tmp_path_factory.mktemp("checkpoint")
    save(section, arrays, folder)
    return cases, tokens, folder


def test_fitted_heads_are_right_calibrated_and_leave_out_what_is_not_there(fitted):
    cases, tokens, folder = fitted
    section = checkpoint_attributes(folder)
    assert set(section.heads) == {"colour"}, "nothing says the age, so its head is left out"
    assert section.heads["colour"].words[0] == NOT_APPLICABLE
    reader = AttributeReader.load(folder / ARRAYS, section.heads, inputs=12)
    rows = [row for row, case in enumerate(cases) if case.half == "report"]
    chances = reader.estimate(tokens[rows][:, None])["colour"]
    judged = [
        JudgedAnswer(reader._answer("colour", chance), cases[row].mined["colour"])
        for row, chance in zip(rows, chances, strict=True)
    ]
    figures = judge(judged)
    assert figures["committed"] > 0.8
    assert figures["coverage"] > 0.7
    assert figures["all"] > figures["commonest"] + 0.2
    assert figures["ece"] < 0.1
    assert figures["said_falsely"] < 0.1


def test_words_that_are_too_rare_are_not_in_the_list(fitted):
    cases, _, _ = fitted
    rare = AttributeCase(record(1), {"colour": frozenset({"mauve"})}, "train")
    assert set(list_words([*cases, rare], "colour")) == {NOT_APPLICABLE, *WORDS}


def test_a_threshold_reaches_its_accuracy_or_there_is_none():
    chances = np.array([[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 20, np.float32)
    truth = np.array([[1, 0]] * 20 + [[0, 1]] * 20, np.float32)
    assert choose_threshold(chances, truth, none=False) == pytest.approx(0.9, abs=0.301)
    assert choose_threshold(chances, truth[::-1], none=False) is None


def test_figures_count_abstaining_as_wrong_in_all_and_leave_it_out_of_committed():
    red, other = frozenset({"red", "pink"}), frozenset({"blue"})
    judged = [
        JudgedAnswer(answer("red"), red),
        JudgedAnswer(answer("red"), other),
        JudgedAnswer(answer(None, 0.2), red),
        JudgedAnswer(answer("blue"), frozenset({NOT_APPLICABLE})),
        JudgedAnswer(answer(None, 0.2), frozenset({NOT_APPLICABLE})),
    ]
    figures = judge(judged)
    assert (figures["n"], figures["committed_n"], figures["not_applicable_n"]) == (3, 2, 2)
    assert figures["all"] == pytest.approx(1 / 3)
    assert (figures["committed"], figures["coverage"]) == (0.5, pytest.approx(2 / 3))
    assert figures["commonest"] == pytest.approx(2 / 3)
    assert (figures["said_falsely"], figures["ece"]) == (0.5, pytest.approx(0.4))
    assert math.isclose(figures["rouge_l"], 1 / 3)
    assert calibration_error(np.full(50, 0.5), np.tile([0.0, 1.0], 25)) < 0.3


def test_views_of_a_rendered_scene_are_on_one_side():
    halves = {}
    for scene in range(200):
        names = [f"worlds-1-{scene:05d}-{view}" for view in range(3)]
        views = [
            RegionRecord("r", name, "s", "ureca-worlds", 2, 2, "04", (0, 0, 2, 2)) for name in names
        ]
        found = {find_half(view, few=True) for view in views}
        assert len(found) == 1
        halves[scene] = found.pop()
    assert set(halves.values()) == {"train", "calibrate", "report"}
    held_out = RegionRecord("r", "k", "s", "flickr", 2, 2, "04", (0, 0, 2, 2))
    assert find_half(held_out, few=False, trained=False) != "train"


def test_held_out_regions_of_a_folder_are_asked_and_judged(tmp_path):
    source = SyntheticSource(things=3)
    write_folder(tmp_path, source, pictures=4)
    cases = read_cases(tmp_path)
    assert {case.half for case in cases} <= {"calibrate", "report"}
    judged = answer_cases(ScriptedEngine(), tmp_path, cases, half=None)
    figures = summarise(judged)["photographs"]
    assert (figures["colour"]["n"], figures["colour"]["committed"]) == (12, 1.0)
    assert (figures["age"]["n"], figures["age"]["said_falsely"]) == (0, 1.0), "things have no age"
    assert "material" not in figures, "nobody said what these are made of"
    halves = [answer_cases(ScriptedEngine(), tmp_path, cases, half=half) for half in HALVES]
    asked = sum(len(one.get(("photographs", "colour"), ())) for one in halves)
    assert asked == 12


HALVES = ("calibrate", "report")


def write_folder(root: Path, source: SyntheticSource, *, pictures: int) -> None:
    """A data folder of pictures of the synthetic camera whose regions say their colour."""
    (root / "images").mkdir()
    rows = []
    for seq in range(pictures):
        cv2.imwrite(str(root / "images" / f"p{seq}.png"), source.image(seq)[..., ::-1])
        for colour, mask in source.masks(seq).items():
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            code = rle.encode(mask)
            rows.append(
                {
                    "region_id": f"p{seq}-{colour}",
                    "image_key": f"p{seq}",
                    "bbox": [int(number) for number in box],
                    "rle": {"size": list(code.size), "counts": code.counts},
                    "expressions": [f"a {colour} thing"],
                    "category": "thing",
                }
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "regions-test.jsonl").write_text(lines, "utf-8")
