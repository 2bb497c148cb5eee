"""`ureca eval res --statements`: accuracy by kind, and chance said to be chance."""

import numpy as np
import pytest

from tests.models.res_pictures import FRAMES, options, rig, source, write_lines, write_pictures
from ureca.datatypes import RegionInput
from ureca.errors import ConfigError, SourceError
from ureca.models.data.statements import StatementRecord
from ureca.models.evaluation.res.cases import in_half
from ureca.models.evaluation.res.cli import measure
from ureca.models.evaluation.res.statements import JudgedStatement, statement_figures
from ureca.models.evaluation.res.tables import tables
from ureca.testing import describe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    write_pictures(folder)
    return folder


def whole_colour(seq):
    """What the scripted engine calls a whole picture."""
    return describe(source().image(seq), RegionInput(np.ones((120, 160), np.bool_)))[1]


@pytest.fixture
def statements(tmp_path):
    rows = [{"image_key": "elsewhere", "kind": "right", "caption": "a", "negative": "b"}]
    for seq in range(0, FRAMES, 2):
        own, other = f"a {whole_colour(seq)} thing", "a white thing"
        assert own != other
        rows += [
            {"image_key": f"view{seq}", **row}
            for row in (
                {"kind": "right", "caption": own, "negative": other},
                {"kind": "wrong", "caption": other, "negative": own},
                {"kind": "tied", "caption": "a storm", "negative": "a calm"},
                {"kind": "vsr", "caption": own, "label": 1},
                {"kind": "vsr", "caption": other, "label": 0},
            )
        ]
    write_lines(tmp_path / "statements-test.jsonl.gz", rows)
    return tmp_path / "statements-test.jsonl.gz"


def test_statements_are_judged_by_kind_and_chance_is_said(root, statements):
    chosen = options("--data", root, "--statements", statements)
    report = measure(rig(chosen), chosen)
    found = report["statements"]
    assert {kind: one["accuracy"] for kind, one in found.items() if kind != "vsr"} == {
        "right": 1.0,
        "wrong": 0.0,
        "tied": 0.5,
        "all pairs": 0.5,
    }
    assert {kind: one["verdict"] for kind, one in found.items() if kind != "vsr"} == {
        "right": "above chance",
        "wrong": "below chance",
        "tied": "chance",
        "all pairs": "chance",
    }
    assert (found["right"]["n"], found["vsr"]["n"]) == (FRAMES / 2, FRAMES)
    assert (found["vsr"]["auc"], found["vsr"]["chance"]) == (1.0, 0.5)
    assert "below chance" in tables(report)


def test_a_threshold_is_chosen_on_the_other_half_of_the_pictures():
    keys = {half: [] for half in ("first", "second")}
    for key in (f"p{n}" for n in range(40)):
        keys["first" if in_half(key, "first", 16) else "second"].append(key)

    def judged(key, fit, label):
        record = StatementRecord(key, "vsr", "x", label=label)
        return JudgedStatement(record, (fit, fit), (0.0, 0.0))

    # In one half "true" begins at 0, in the other one at 10.
    rows = [judged(key, side, side > 0) for key in keys["first"] for side in (-1.0, 1.0)]
    rows += [judged(key, 10 + side, side > 0) for key in keys["second"] for side in (-1.0, 1.0)]
    found = statement_figures(rows, seed=0)["vsr"]
    assert found["accuracy"] == 0.5
    assert found["auc"] == pytest.approx(0.75, abs=0.02)


def test_statements_without_a_picture_or_a_truth_are_refused(root, tmp_path):
    rows = [{"image_key": "elsewhere", "caption": "a", "negative": "b"}]
    write_lines(tmp_path / "statements-test.jsonl.gz", rows)
    chosen = options("--data", root, "--statements", tmp_path / "statements-test.jsonl.gz")
    with pytest.raises(ConfigError, match="no statement is about a held-out picture"):
        measure(rig(chosen), chosen)
    write_lines(tmp_path / "statements-bad.jsonl.gz", [{"image_key": "view0", "caption": "a"}])
    chosen = options("--data", root, "--statements", tmp_path / "statements-bad.jsonl.gz")
    with pytest.raises(SourceError, match="neither `negative` nor `label`"):
        measure(rig(chosen), chosen)
