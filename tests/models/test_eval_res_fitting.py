"""Fitting the weights of grounding: samples of given masks and of a segmenter's."""

import numpy as np
import pytest
from tqdm import tqdm

from tests.models.res_pictures import write_pictures
from ureca.models.evaluation.res.fitting import collect, fit
from ureca.models.runtime.grounding import PLAIN_WEIGHTS
from ureca.models.runtime.grounding.features import FEATURES
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.testing import ScriptedEngine


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("colours")
    write_pictures(root)
    patch = pytest.MonkeyPatch()
    patch.setattr(tqdm, "monitor_interval", 0)
    engine, asked = ScriptedEngine(), {"half": "all", "texts": "short"}
    given = collect(engine, PLAIN_WEIGHTS, root, **asked)
    cut = collect(engine, PLAIN_WEIGHTS, root, **asked, segmenter=ScriptedSegmenter())
    yield given, cut
    patch.undo()


def test_a_segmenters_mask_is_meant_if_it_is_the_region(samples):
    given, cut = samples
    assert len(given) == len(cut)
    assert sum(sample.weight for sample in given) == pytest.approx(1.0)
    for one, other in zip(given, cut, strict=True):
        assert (one.case, one.is_cut, other.is_cut) == (other.case, False, True)
        assert set(np.flatnonzero(one.meant)) == set(one.case.targets)
        assert other.meant.any() == bool(other.case.targets)
        assert len(other.meant) >= len(one.meant)  # and the background


def test_fitted_weights_rank_what_is_meant_first_and_know_what_is_not_there(samples):
    given, cut = samples
    weights = fit([*given, *cut], PLAIN_WEIGHTS)
    assert "mask" in weights.presence  # there are masks that are no better than their score
    assert "mask" not in fit(given, PLAIN_WEIGHTS).presence
    for sample in given:
        names = list(weights.place)
        columns = [list(FEATURES).index(name) for name in names]
        place = sample.features[:, columns] @ np.array(list(weights.place.values()))
        if sample.meant.any():
            assert sample.meant[place.argmax()]
