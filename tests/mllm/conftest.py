"""These tests need torch and transformers; without them nothing of `ureca-mllm` is proven."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

NEEDED = ("torch", "transformers", "safetensors", "tokenizers", "cv2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_[!a]*.py"] if MISSING else []  # test_anything.py says so


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from a second thread and lose much on a busy machine."""
    if MISSING:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """No progress bars between the dots; tqdm's monitor is a thread that is meant to stay."""
    if MISSING:
        return
    import transformers
    from tqdm import tqdm

    tqdm.monitor_interval = 0

    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A random InternVL of the package's own classes."""
    from worlds import internvl_base

    return internvl_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_base, tmp_path_factory):
    """The same, wrapped."""
    from worlds import tiny_config

    from ureca.models.mllm.checkpoints.wrap import wrap_base

    return wrap_base(tiny_base, tmp_path_factory.mktemp("wrapped") / "checkpoint", tiny_config())


@pytest.fixture(scope="session")
def fine_parts(tmp_path_factory):
    """Folders of FineCaption's tiny parts by name."""
    from fine_parts import tiny_parts

    return tiny_parts(tmp_path_factory.mktemp("fine-parts"))


@pytest.fixture(scope="session")
def fine_checkpoint(fine_parts, tmp_path_factory):
    """FineCaption of these parts with both large encoders, wrapped and untrained."""
    from fine_parts import joined

    from ureca.models.mllm.checkpoints.wrap import wrap_base

    folder = tmp_path_factory.mktemp("fine")
    return wrap_base(joined(folder / "base", fine_parts), folder / "checkpoint")


@pytest.fixture
def tiny_engine(tiny_checkpoint):
    """An engine over it."""
    from ureca.models.mllm.mllm_engine import open_checkpoint

    return open_checkpoint(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Eighteen regions of six pictures with words."""
    from worlds import data_folder

    return data_folder(tmp_path_factory.mktemp("data") / "set")
