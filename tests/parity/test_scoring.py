"""The captioner read backwards: the graph `score`, its proof, and the engine over it."""

import dataclasses
import itertools
import json
import shutil

import msgspec
import numpy as np
import pytest

from ureca.bundle import load_manifest
from ureca.engine import supports_scoring
from ureca.errors import BundleError
from ureca.models.runtime.grounding import Candidate, Grounder, load_weights
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.scoring import ScoringArrays
from ureca.models.tokenizer import EOS_ID, SHORT_ID, Tokenizer

TEXTS = ["a red cup", "two dogs and a white plate", "the blue mug of a man on the table", "cup"]


@pytest.fixture(scope="module")
def engines(scoring_bundle, scoring_checkpoint, tiny_model):
    """The bundle's engine, and the network's own with so few regions a call that scoring splits."""
    from ureca.models.runtime.eager import make_eager_engine

    arrays = ScoringArrays.load(scoring_checkpoint / "grounding.npz", tiny_model.config)
    tokenizer = Tokenizer.load(scoring_checkpoint / "tokenizer.json")
    own = make_eager_engine(tiny_model, tokenizer, max_regions=4, scoring=arrays)
    return load_engine(scoring_bundle, threads=1), own


def test_its_graph_is_proven_like_the_others(scoring_bundle):
    report = json.loads((scoring_bundle / "parity.json").read_text())
    proof = report["scoring"]
    assert report["failures"] == []
    assert proof["float32"]["max_abs_diff"] < 1e-3
    assert proof["float32"]["max_abs_step_diff"] < 1e-3
    assert proof["float32"]["same_best"] == 1.0
    assert proof["control"]["mean_abs_diff"] > 0.1
    assert load_manifest(scoring_bundle).graphs["score"].precision == "fp32"


def test_a_graph_that_reads_otherwise_fails_its_proof(scoring_bundle):
    from ureca.export.parity.scoring_report import ScoringProof, failures

    report = json.loads((scoring_bundle / "parity.json").read_text())
    proof = msgspec.convert(report["scoring"], ScoringProof)
    bounds = report["tolerances"]
    assert failures(proof, bounds) == []
    other = dataclasses.replace(proof, bundle=proof.control, float32=proof.control)
    assert len(failures(other, bounds)) == 4


def test_the_bundle_scores_as_the_network_does(engines, picture, regions):
    ours, own = (e.score(e.encode(picture), regions, TEXTS, max_fit=4) for e in engines)
    np.testing.assert_allclose(ours.bag, own.bag, atol=1e-3)
    np.testing.assert_allclose(ours.fit, own.fit, atol=1e-3)
    assert ours.tokens.tolist() == own.tokens.tolist()
    assert np.ptp(ours.bag, axis=1).min() > 0.01


def test_fit_is_what_decoding_says_step_by_step(engines, picture, regions):
    """log P by steps of the cached network, P0 by the null regions' own keys and values."""
    import torch

    _, engine = engines
    backend, frame = engine._backend, engine.encode(picture)
    ids = [SHORT_ID, *engine._tokenizer.encode(TEXTS[0]), EOS_ID]

    def told(picture, own):
        total = 0.0
        for now, after in itertools.pairwise(ids):
            logits, own = backend.logits(picture, backend.embed(np.array([[now]])), own)
            total += float(torch.log_softmax(torch.from_numpy(logits[0]), -1)[after])
        return total

    tokens = engine._read_regions(frame, regions).tokens
    _, own = backend.step(frame.inner, tokens[1:2], None)
    nulls = backend.own(engine._scoring.null_kv)
    bare = backend.drop_prefix(frame.inner)
    usual = [told(bare, backend.keep(nulls, np.array([row]))) for row in range(4)]
    expected = (told(frame.inner, own) - np.log(np.exp(usual).mean())) / (len(ids) - 1)
    scores = engine.score(frame, regions, TEXTS[:1], max_fit=5)
    assert scores.fit[0, 1] == pytest.approx(expected, abs=1e-4)


def test_only_the_best_by_words_are_read(engines, picture, regions):
    engine = engines[0]
    scores = engine.score(engine.encode(picture), regions, TEXTS, max_fit=2)
    assert np.isfinite(scores.fit).sum(axis=1).tolist() == [2] * len(TEXTS)
    for bag, fit in zip(scores.bag, scores.fit, strict=True):
        assert set(np.flatnonzero(np.isfinite(fit))) == set(np.argsort(-bag)[:2])
    none = engine.score(engine.encode(picture), regions, TEXTS, max_fit=0)
    assert np.isnan(none.fit).all()
    assert engine.score(engine.encode(picture), [], TEXTS).bag.shape == (4, 0)


def test_function_words_never_count(engines, picture, regions):
    engine = engines[0]
    frame = engine.encode(picture)
    bag = engine.score(frame, regions, ["red cup", "the red cup of a", "a of the"]).bag
    np.testing.assert_allclose(bag[0], bag[1], atol=1e-5)
    assert np.isfinite(bag[2]).all()


def test_a_grounder_answers_over_a_bundle(engines, scoring_bundle, picture, regions):
    engine, weights = engines[0], load_weights(scoring_bundle)
    grounder = Grounder(engine, weights)
    candidates = [Candidate(region.mask) for region in regions]
    results = grounder.find(engine.encode(picture), candidates, TEXTS)
    assert [result.text for result in results] == TEXTS
    assert all(0 <= result.none_probability <= 1 for result in results)


def test_a_bundle_without_weights_scores_nothing(tiny_bundle):
    assert load_weights(tiny_bundle) is None
    assert not supports_scoring(load_engine(tiny_bundle, threads=1))
    assert "grounding" not in json.loads((tiny_bundle / "manifest.json").read_text())


def test_weights_of_unknown_features_are_refused(scoring_bundle, tmp_path):
    folder = shutil.copytree(scoring_bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["grounding"]["place"] = {"smell": 1.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="smell"):
        load_weights(folder)


def test_arrays_of_another_model_are_refused(scoring_bundle, tiny_model, tmp_path):
    np.savez(tmp_path / "grounding.npz", norm=np.ones(3), word_means=np.ones(5), null_kv=[[1]])
    with pytest.raises(BundleError, match="does not fit"):
        ScoringArrays.load(tmp_path / "grounding.npz", tiny_model.config)
