"""One tiny checkpoint and its float32 bundle, exported once per session by the command itself."""

import fcntl
import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ureca.datatypes import RegionInput

SIZE = (90, 120)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from a second thread and lose much on a busy machine."""
    torch = pytest.importorskip("torch", reason="exporting needs the extra `export`")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Graphs of earlier runs must not answer for today's exporter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("URECA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A seeded checkpoint whose captions differ from region to region."""
    return build_once(tmp_path_factory, "tiny-checkpoint", _build_checkpoint)


def _build_checkpoint(folder):
    import torch

    from ureca.models.config import tiny_config
    from ureca.models.nano.captioner import Captioner
    from ureca.models.nano.checkpoint import save_checkpoint
    from ureca.models.tokenizer import train_tokenizer

    torch.manual_seed(0)
    model = Captioner(tiny_config())
    with torch.no_grad():
        for name, weight in model.language.named_parameters():
            if weight.ndim == 2:
                scale = 0.3 if "embedding" in name else 2 / weight.shape[1] ** 0.5
                weight.normal_(std=scale)
    words = ["a red cup on the table", "the blue mug of a man", "two dogs and a white plate"]
    tokenizer = train_tokenizer(words * 4, 512)
    tokenizer.save(folder / "given.json")
    text = (folder / "given.json").read_text(encoding="utf8")
    save_checkpoint(folder, model, tokenizer_json=text, half=True)
    (folder / "MODEL_CARD.md").write_text("# tiny\n", encoding="utf8")


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """The network of the checkpoint."""
    from ureca.models.nano.checkpoint import load_checkpoint

    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    """The folder of the float32 export."""
    from ureca.export.cli import export_bundle
    from ureca.export.config import ExportConfig
    from ureca.export.parity.parity_inputs import synthetic_cases

    def build(folder):
        export_bundle(
            tiny_checkpoint,
            folder,
            config=ExportConfig(precision="fp32", parity_regions=12),
            cases=synthetic_cases(limit=12),
            source="synthetic",
        )

    return build_once(tmp_path_factory, "tiny-bundle", build)


@pytest.fixture(scope="session")
def tiny_export(tiny_bundle):
    """(bundle folder, parity report) of the float32 export."""
    from ureca.export.report import ParityReport

    written = json.loads((tiny_bundle / "parity.json").read_text())
    return tiny_bundle, msgspec.convert(written, ParityReport)


def build_once(tmp_path_factory, name, build):
    """The folder that `build` fills: once, though tests run in several processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' common folder
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder, done = root / name, root / f"{name}.done"
        if not done.exists():
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


@pytest.fixture
def picture():
    """A picture u8 [90, 120, 3] of noise."""
    return np.random.default_rng(5).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture
def regions():
    """Five regions of the picture, both styles."""
    rng, made = np.random.default_rng(6), []
    for row in range(5):
        mask = np.zeros(SIZE, np.bool_)
        y, x = rng.integers(0, 50, 2)
        mask[y : y + 15 + 5 * row, x : x + 40 - 5 * row] = True
        made.append(RegionInput(mask, style="long" if row % 2 else "short"))
    return made
