"""Attribute heads of a bundle: what they answer, and that captions do not change by them."""

import json

import msgspec
import numpy as np
import pytest

from tests.models.test_eval_attributes import write_folder
from ureca.attributes import ATTRIBUTES
from ureca.bundle import AttributeHead, AttributeWeights, bundle_sha, load_manifest, write_manifest
from ureca.datatypes import RegionInput, RowDone
from ureca.engine import supports_attributes
from ureca.errors import BundleError, WeightsError
from ureca.export.attributes import add_attributes
from ureca.models.evaluation.cli import main
from ureca.models.runtime.attributes import (
    ARRAYS,
    AttributeReader,
    answer_category,
    answer_location,
    save_arrays,
)
from ureca.models.runtime.load import load_engine
from ureca.testing import SyntheticSource

COLOURS = ("", "red", "green", "blue")


@pytest.fixture(scope="module")
def heads(tiny_model):
    """Two heads of random weights: one that says what it sees, one that never dares."""
    config, rng = tiny_model.config, np.random.default_rng(8)
    inputs = config.regions.count_tokens(1) * config.language.width
    names = ("colour", "material")
    weights = {name: rng.normal(size=(inputs, 4)).astype(np.float32) for name in names}
    bias = dict.fromkeys(names, np.array([-50, 0, 0, 0], np.float32))
    words = AttributeWeights(
        heads={
            "colour": AttributeHead(words=COLOURS, min_probability=0.0),
            "material": AttributeHead(words=COLOURS, min_probability=1.1),
        }
    )
    return words, weights, bias


@pytest.fixture
def bundle(scoring_bundle, scoring_checkpoint, heads, tmp_path):
    """The bundle with scores and attributes, added by the exporter."""
    import shutil

    checkpoint, out = tmp_path / "checkpoint", tmp_path / "bundle"
    shutil.copytree(scoring_checkpoint, checkpoint)
    shutil.copytree(scoring_bundle, out)
    with pytest.raises(WeightsError, match=r"attributes\.json"):
        add_attributes(checkpoint, out)
    save_arrays(checkpoint / ARRAYS, *heads[1:])
    (checkpoint / "attributes.json").write_bytes(msgspec.json.encode(heads[0]))
    add_attributes(checkpoint, out)
    return out


def ends(engine, picture, regions):
    outs = engine.caption(engine.encode(picture), regions)
    return sorted((o for o in outs if isinstance(o, RowDone)), key=lambda o: o.row)


def test_answers_stand_beside_captions_that_stay_the_same(bundle, scoring_bundle, picture, regions):
    before = load_engine(scoring_bundle, threads=1)
    assert not supports_attributes(before)
    engine = load_engine(bundle, threads=1)
    assert supports_attributes(engine)
    assert engine.attributes == ("category", "colour", "material", "location")
    assert engine.info.bundle_sha == bundle_sha(load_manifest(bundle)) != before.info.bundle_sha
    asked = ("location", "material", "category", "colour", "hair")
    asking = [ask(region, asked if row % 2 else ()) for row, region in enumerate(regions)]
    plain, told = ends(before, picture, regions), ends(engine, picture, asking)
    assert [(a.text, a.score, a.confidence) for a in plain] == [
        (b.text, b.score, b.confidence) for b in told
    ]
    read = engine.read_attributes(engine.encode(picture), asking)
    for row, done in enumerate(told):
        answers = {one.name: one for one in done.attributes}
        assert set(answers) == (
            {"location", "material", "category", "colour"} if row % 2 else set()
        )
        assert {one for one in done.attributes if one.name != "category"} == set(read[row])
        if answers:
            assert answers["colour"].status == "said"
            assert answers["colour"].text in COLOURS[1:]
            assert answers["material"].status == "abstained"
            assert answers["material"].text is None
            assert 1 / 3 <= answers["material"].probability <= 1
    chances = {one.probability for row in read for one in row if one.name == "colour"}
    assert len(chances) > 1, "all alike would prove nothing"


def ask(region, asked):
    return RegionInput(region.mask, region.style, region.max_new_tokens, attributes=asked)


def test_a_row_is_answered_by_its_own_tokens_when_another_is_aborted(bundle, picture, regions):
    engine = load_engine(bundle, threads=1)
    asking = [ask(region, ("colour",)) for region in regions]
    outs = engine.caption(engine.encode(picture), asking, aborted=lambda row: row == 0)
    found = {o.row: o.attributes for o in outs if isinstance(o, RowDone)}
    read = engine.read_attributes(engine.encode(picture), asking)
    assert found[0] == ()
    assert [found[row] for row in range(1, 5)] == read[1:]


@pytest.mark.long
def test_the_command_prints_figures_and_refuses_bundles_without_attributes(
    bundle, scoring_bundle, tmp_path, capsys
):
    data = tmp_path / "data"
    data.mkdir()
    write_folder(data, SyntheticSource(things=3), pictures=2)
    asked = ["--data", str(data), "--half", "both"]
    assert main(["attributes", *asked, "--bundle", str(bundle), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["photographs"]
    assert figures["colour"]["n"] == 6
    assert 0 <= figures["colour"]["all"] <= 1
    assert main(["attributes", *asked, "--bundle", str(bundle)]) == 0
    assert "said_falsely" in capsys.readouterr().out
    with pytest.raises(BundleError, match="no such section"):
        main(["attributes", *asked, "--bundle", str(scoring_bundle)])


@pytest.mark.parametrize("fault", ["words", "unknown", "nan"])
def test_heads_that_do_not_fit_are_refused(bundle, fault):
    manifest = load_manifest(bundle)
    section, head = manifest.attributes, manifest.attributes.heads["colour"]
    if fault == "words":
        changed = {**section.heads, "colour": msgspec.structs.replace(head, words=COLOURS[:2])}
    elif fault == "unknown":
        changed = {**section.heads, "mood": head}
    else:
        with np.load(bundle / ARRAYS) as file:
            arrays = {name: file[name].copy() for name in file}
        arrays["colour.bias"][0] = np.nan
        np.savez(bundle / ARRAYS, **arrays)
        from ureca.bundle import file_spec

        section = msgspec.structs.replace(section, arrays=file_spec(bundle, ARRAYS))
        changed = section.heads
    write_manifest(
        bundle,
        msgspec.structs.replace(
            manifest, attributes=msgspec.structs.replace(section, heads=changed)
        ),
    )
    words = {"words": "the model and its words need", "unknown": "mood", "nan": "not finite"}
    with pytest.raises(BundleError, match=words[fault]):
        load_engine(bundle)


@pytest.mark.parametrize(
    ("rows", "columns", "text"),
    [
        ((0, 20), (0, 20), "at the upper left"),
        ((40, 60), (40, 60), "in the middle"),
        ((80, 99), (45, 55), "at the bottom"),
        ((45, 55), (90, 99), "on the right"),
        ((70, 99), (70, 99), "at the lower right"),
        ((0, 10), (0, 100), "at the top"),
    ],
)
def test_the_location_is_that_of_the_mask(rows, columns, text):
    mask = np.zeros((100, 100), np.bool_)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert answer_location(mask).text == text


def test_int8_weights_are_near_those_that_were_fitted(tmp_path):
    rng = np.random.default_rng(2)
    weights = {"colour": rng.normal(size=(500, 4)) * rng.uniform(0.01, 10, (500, 1))}
    save_arrays(tmp_path / ARRAYS, weights, {"colour": np.arange(4)})
    heads = {"colour": AttributeHead(words=COLOURS, min_probability=0.5)}
    reader = AttributeReader.load(tmp_path / ARRAYS, heads, inputs=500)
    gap = (
        np.abs(reader.weights - weights["colour"]) / np.abs(weights["colour"]).max(axis=1)[:, None]
    )
    assert gap.max() < 0.03
    assert reader.bias.tolist() == [0, 1, 2, 3]


def test_the_category_is_the_captions_noun_with_its_confidence():
    said = answer_category("a red mug on a table", 0.7)
    assert (said.status, said.text, said.probability) == ("said", "mug", 0.7)
    assert answer_category("a red mug", 0.2).status == "abstained"
    assert answer_category("a red mug", None).status == "abstained"
    assert "category" in ATTRIBUTES
