"""Opens a captioner: an exported bundle in its runtime, or a checkpoint folder in torch."""

from __future__ import annotations

from pathlib import Path

from ureca.engine import Engine
from ureca.errors import BundleError
from ureca.models.runtime.compatibility import MLLM_CONFIG
from ureca.models.runtime.server import is_server_file

_BUNDLE = "manifest.json"
_CHECKPOINT = ("config.json", "model.safetensors")


def open_engine(folder: Path, *, threads: int | None = None) -> Engine:
    """Open a bundle in its runtime, the server of a YAML file, or a checkpoint or a run that
    contains one in torch.

    Raises `BundleError` for anything else, and what the loaders raise.
    """
    if (folder / _BUNDLE).is_file() or is_server_file(folder):
        from ureca.models.runtime.load import load_engine

        return load_engine(folder, threads=threads)
    for place in (folder, folder / "checkpoint"):
        if all((place / name).is_file() for name in _CHECKPOINT):
            return _open_eager(place, threads)
        if (place / MLLM_CONFIG).is_file():
            return _open_mllm(place, threads)
    raise BundleError(
        f"{folder} is neither a bundle ({_BUNDLE}) nor a checkpoint ({', '.join(_CHECKPOINT)}, or "
        f"{MLLM_CONFIG})"
    )


def _open_mllm(folder: Path, threads: int | None) -> Engine:
    from ureca.extras import require

    torch = require("torch", extra="mllm")
    if threads:
        torch.set_num_threads(threads)
    engine: Engine = require("ureca.models.mllm.mllm_engine", extra="mllm").open_checkpoint(folder)
    return engine


def _open_eager(folder: Path, threads: int | None) -> Engine:
    from ureca.extras import require

    torch = require("torch", extra="train")
    if threads:
        torch.set_num_threads(threads)

    from ureca.models.nano.checkpoint import load_checkpoint
    from ureca.models.runtime.eager import make_eager_engine
    from ureca.models.tokenizer import Tokenizer

    return make_eager_engine(load_checkpoint(folder), Tokenizer.load(folder / "tokenizer.json"))
