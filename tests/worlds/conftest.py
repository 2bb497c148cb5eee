"""Fixtures for the world tests: one small run that several tests read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tqdm import tqdm

from tests.once import build_once

# Not mujoco itself: it must first be imported with a renderer that needs no screen.
pytest.importorskip("ureca.models.data.synthetic.scenes.mujoco_import", reason="worlds need mujoco")
pytest.importorskip("pycocotools", reason="worlds write COCO masks")


def _gl_problem() -> str | None:
    """Why no picture can be drawn here, or None if one can."""
    from ureca.models.data.synthetic.scenes.mujoco_import import mujoco

    try:
        mujoco.GLContext(8, 8).free()
    except Exception as error:  # noqa: BLE001 - any failure of a GL stack means: skip, with its words.
        return f"no off-screen OpenGL: {error}"
    return None


@pytest.fixture(scope="session", autouse=True)
def _no_progress_thread() -> None:
    """Progress bars must not start the thread that watches over them."""
    tqdm.monitor_interval = 0


@pytest.fixture(scope="session")
def gl() -> None:
    """Skip the test where nothing can be rendered."""
    problem = _gl_problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def small_run(gl: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scenes of two views."""
    from ureca.models.data.synthetic.cli import make_worlds

    make = partial(make_worlds, scenes=2, views=2, seed=3, workers=1)
    return build_once(tmp_path_factory, "worlds", make)


@pytest.fixture(scope="session")
def held_back_run(gl: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two test scenes of one view."""
    from ureca.models.data.synthetic.cli import make_worlds

    make = partial(make_worlds, scenes=2, views=1, seed=3, workers=1, split="test")
    return build_once(tmp_path_factory, "worlds-test", make)
