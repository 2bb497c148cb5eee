"""One tiny checkpoint and its float32 bundle, exported once per session by the command itself."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.once import build_once, common_folder
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
    """Graphs of earlier runs must not answer for today's exporter; those of this run may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("URECA_CACHE", str(common_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A seeded checkpoint whose captions differ from region to region."""
    return build_once(tmp_path_factory, "tiny-checkpoint", _build_checkpoint)


def _build_checkpoint(folder):
    import torch

    from ureca.models.config import make_tiny_config
    from ureca.models.nano.checkpoint import save_checkpoint
    from ureca.models.nano.network import Captioner
    from ureca.models.tokenizer import train_tokenizer

    torch.manual_seed(0)
    model = Captioner(make_tiny_config())
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
    from ureca.export.parity.parity_inputs import make_synthetic_cases

    def build(folder):
        export_bundle(
            tiny_checkpoint,
            folder,
            config=ExportConfig(precision="fp32", parity_regions=12),
            cases=make_synthetic_cases(limit=12),
            source="synthetic",
        )

    return build_once(tmp_path_factory, "tiny-bundle", build)


@pytest.fixture(scope="session")
def tiny_export(tiny_bundle):
    """(bundle folder, parity report) of the float32 export."""
    from ureca.export.report import ParityReport

    written = json.loads((tiny_bundle / "parity.json").read_text())
    return tiny_bundle, msgspec.convert(written, ParityReport)


@pytest.fixture(scope="session")
def scoring_checkpoint(tiny_checkpoint, tiny_model, tmp_path_factory):
    """The tiny checkpoint with weights of grounding, fitted on nothing."""

    from ureca.bundle import GroundingWeights
    from ureca.models.runtime.scoring import ScoringArrays

    def build(folder):
        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        language, rng = tiny_model.config.language, np.random.default_rng(3)
        shape = (2 * language.layers, language.heads, 4, 9, language.head_dim)
        arrays = ScoringArrays(
            norm=tiny_model.language.norm.weight.detach().numpy(),
            word_means=rng.normal(-6, 1, language.vocab_size).astype(np.float32),
            null_kv=rng.normal(size=shape).astype(np.float16).astype(np.float32),
        )
        arrays.save(folder / "grounding.npz")
        weights = GroundingWeights(
            place={"bag": 1.0, "fit": 1.0},
            presence={"fit": 1.0},
            confidence={"bias": 1.0, "score": 0.4, "bag": 0.3, "clarity_word": 0.1, "area": 0.2},
        )
        (folder / "grounding.json").write_bytes(msgspec.json.encode(weights))

    return build_once(tmp_path_factory, "scoring-checkpoint", build)


@pytest.fixture(scope="session")
def scoring_bundle(scoring_checkpoint, tmp_path_factory):
    """Its float32 export."""
    from ureca.export.cli import export_bundle
    from ureca.export.config import ExportConfig
    from ureca.export.parity.parity_inputs import make_synthetic_cases

    def build(folder):
        export_bundle(
            scoring_checkpoint,
            folder,
            config=ExportConfig(precision="fp32", parity_regions=12),
            cases=make_synthetic_cases(limit=12),
            source="synthetic",
        )

    return build_once(tmp_path_factory, "scoring-bundle", build)


@pytest.fixture(scope="session")
def mask_checkpoint(tmp_path_factory):
    """A seeded mask head whose scores and masks differ from place to place."""
    return build_once(tmp_path_factory, "mask-checkpoint", _build_mask_checkpoint)


def _build_mask_checkpoint(folder):
    import torch

    from ureca.models.nano.masks.checkpoint import save_mask_checkpoint
    from ureca.models.nano.masks.config import MaskHeadConfig
    from ureca.models.nano.masks.network import MaskNetwork

    torch.manual_seed(4)
    model = MaskNetwork(MaskHeadConfig(canvas_px=(64, 96), channels=16, map_channels=8))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "heads" not in name:
                scale = 1.5 if "trunk" in name else 0.7  # SiLU halves what goes through it
                weight.normal_(std=scale / weight[0].numel() ** 0.5)
    save_mask_checkpoint(folder, model)


@pytest.fixture(scope="session")
def masked_bundle(tiny_bundle, mask_checkpoint, tmp_path_factory):
    """The float32 export with that mask head, added by the command."""
    from ureca.export.cli import main

    def build(folder):
        shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("URECA_DATA", "nowhere")
            assert main(["masks", str(mask_checkpoint), "--bundle", str(folder)]) == 0

    return build_once(tmp_path_factory, "masked-bundle", build)


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
