"""The path-traced look; its packages are optional."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ureca.errors import MissingExtraError
from ureca.models.data.synthetic.cli import draw_camera
from ureca.models.data.synthetic.rendering import path_tracer
from ureca.models.data.synthetic.rendering.render import paint_views
from ureca.models.data.synthetic.scenes.scene import draw_scene
from ureca.models.data.synthetic.scenes.world import build_world


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    path_tracer.import_mitsuba.cache_clear()
    with pytest.raises(MissingExtraError, match="pip install mitsuba pyoidn"):
        path_tracer.import_mitsuba()


def test_both_looks_show_the_same_things_in_the_same_places(gl: None) -> None:
    pytest.importorskip("mitsuba", reason="the path-traced look needs mitsuba")
    pytest.importorskip("pyoidn", reason="the path-traced look needs pyoidn")
    world = build_world(draw_scene(3), shadow=512, samples=0)
    camera = draw_camera(np.random.default_rng(0), world, close=False)
    size = (45, 60)
    plain = paint_views(world, [camera], size)[0][0].astype(np.float64).ravel()
    traced = path_tracer.trace_views(world, [camera], size)[0]
    assert traced.shape == (*size, 3)
    assert np.corrcoef(plain, traced.astype(np.float64).ravel())[0, 1] > 0.7
