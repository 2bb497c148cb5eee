"""How sure a caption is: what the engine says, what an evaluation reads, and how it is fitted."""

import msgspec
import numpy as np
import pytest

from ureca.bundle import load_manifest
from ureca.client.region_cache import CaptionRecord
from ureca.confidence import tell_confidence
from ureca.datatypes import RowDone
from ureca.errors import BundleError
from ureca.models.evaluation.confidence import fit, measure, predict
from ureca.models.runtime.confidence import CaptionEvidence, estimate_confidence
from ureca.models.runtime.grounding import load_weights
from ureca.models.runtime.load import load_engine


def caption(engine, picture, regions):
    outs = engine.caption(engine.encode(picture), regions)
    return sorted((o for o in outs if isinstance(o, RowDone)), key=lambda o: o.row)


def test_a_captions_confidence_is_that_of_its_scores(scoring_bundle, picture, regions):
    engine = load_engine(scoring_bundle, threads=1)
    weights = load_manifest(scoring_bundle).grounding.confidence
    ends = caption(engine, picture, regions)
    scores = engine.score(engine.encode(picture), regions, [end.text for end in ends], max_fit=0)
    for row, end in enumerate(ends):
        evidence = CaptionEvidence(
            end.text,
            end.score,
            end.n_tok,
            bag=float(scores.bag[row, row]),
            clarity=tuple(scores.clarity[row].tolist()),
            area=float(regions[row].mask.mean()),
        )
        assert end.confidence == pytest.approx(estimate_confidence(weights, evidence), abs=1e-4)
    assert len({end.confidence for end in ends}) > 1, "all alike would prove nothing"


def test_without_weights_a_caption_has_none(tiny_bundle, picture, regions):
    assert {end.confidence for end in caption(load_engine(tiny_bundle), picture, regions)} == {None}


def test_an_aborted_row_has_none(scoring_bundle, picture, regions):
    engine = load_engine(scoring_bundle, threads=1)
    outs = engine.caption(engine.encode(picture), regions, aborted=lambda row: row == 0)
    ends = {o.row: o.confidence for o in outs if isinstance(o, RowDone)}
    assert ends[0] is None
    assert ends[1] is not None


def test_an_unknown_feature_is_refused(scoring_bundle, tmp_path):
    manifest = load_manifest(scoring_bundle)
    changed = msgspec.structs.replace(
        manifest, grounding=msgspec.structs.replace(manifest.grounding, confidence={"moon": 1.0})
    )
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(changed))
    with pytest.raises(BundleError, match="moon"):
        load_weights(tmp_path)


def test_the_fit_is_calibrated_and_ranks(monkeypatch):
    rng = np.random.default_rng(0)
    features = np.stack([np.ones(4000), rng.normal(3, 2, 4000), rng.normal(size=4000)], axis=1)
    chance = 1 / (1 + np.exp(-(0.8 * features[:, 1] - 2)))
    right = (rng.random(4000) < chance).astype(float)
    weights = fit(features[:2000], right[:2000])
    assert weights == pytest.approx([-2, 0.8, 0], abs=0.2)
    figures = measure(predict(weights, features[2000:]), right[2000:])
    assert figures["auc"] > 0.75
    assert figures["ece"] < 0.04
    assert measure(np.full(100, 0.9), np.zeros(100))["ece"] == pytest.approx(0.9)
    shuffled = measure(rng.random(2000), right[2000:])
    assert shuffled["auc"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("score", "confidence", "words"),
    [(0.5, 0.62, "62 %"), (0.5, 0.31, "unsure, 31 %"), (0.5, None, "score 0.50"), (None, None, "")],
)
def test_it_is_told_in_words(score, confidence, words):
    unsure = confidence is not None and confidence < 0.4
    said = CaptionRecord("a cup", 1, 0, "mono", 1, score, "new", confidence, unsure)
    assert tell_confidence(said) == words
