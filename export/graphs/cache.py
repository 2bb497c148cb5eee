"""Caches exported float graphs. Tracing takes a minute, and its result depends only on its inputs.

The key of a graph is a hash of everything that it depends on: weights, configuration, opset, the
versions of torch and onnx, and our own source files. The folder (`URECA_CACHE`) can be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import onnx
import torch

import ureca.export
import ureca.models
from ureca.export.graphs.onnx_export import save_graph

_SOURCES = (
    ("models", "nano/**/*.py"),
    ("models", "config.py"),
    ("models", "runtime/segmentation/mask_*.py"),
    ("export", "**/*.py"),
)


def find_cache_folder() -> Path:
    """Return `URECA_CACHE`, or `ureca` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("URECA_CACHE") or Path(home) / "ureca") / "graphs"


def load_or_make_graph(
    name: str,
    make: Callable[[], onnx.ModelProto],
    *,
    checkpoint_sha256: str,
    opset: int,
    sources: Sequence[tuple[str, str]] = _SOURCES,
) -> onnx.ModelProto:
    """Return the graph from the cache. If it is missing, make it and store it there.

    `checkpoint_sha256` identifies weights and configuration, on which the shapes depend; `sources`
    are the files of ours that it comes from. If the folder cannot be written, the next export makes
    the graph again.
    """
    path = find_cache_folder() / f"{name}-{_hash_inputs(checkpoint_sha256, opset, sources)}.onnx"
    try:
        return onnx.load(str(path))
    except Exception:  # noqa: BLE001  (absent, cut short or damaged: make it again)
        proto = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_graph(proto, path)
    except OSError:
        with suppress(OSError):
            path.with_suffix(".part").unlink()
    return proto


def _hash_inputs(checkpoint_sha256: str, opset: int, sources: Sequence[tuple[str, str]]) -> str:
    digest = hashlib.sha256(f"{checkpoint_sha256} {opset} {torch.__version__}".encode())
    digest.update(onnx.__version__.encode())
    packages = {"models": Path(ureca.models.__path__[0]), "export": Path(ureca.export.__path__[0])}
    for package, pattern in sources:
        for path in sorted(packages[package].glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
