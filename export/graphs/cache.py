"""Float graphs that were exported before: tracing takes a minute, and only its inputs matter.

A graph is kept under a key of everything that it depends on: weights, configuration, opset, the
versions of torch and onnx, and our own source files. The folder (`URECA_CACHE`) can be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import torch

import ureca.export
import ureca.models
from ureca.export.graphs.onnx_export import save

_SOURCES = (("models", "nano/*.py"), ("models", "config.py"), ("export", "**/*.py"))


def cache_folder() -> Path:
    """`URECA_CACHE`, or `ureca` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("URECA_CACHE") or Path(home) / "ureca") / "graphs"


def cached_graph(
    name: str, make: Callable[[], onnx.ModelProto], *, checkpoint_sha256: str, opset: int
) -> onnx.ModelProto:
    """The graph from the cache, else from `make`, and then in the cache.

    `checkpoint_sha256` stands for its weights and its configuration, on which shapes depend.

    A folder that cannot be written costs only the next export's time.
    """
    path = cache_folder() / f"{name}-{_key(checkpoint_sha256, opset)}.onnx"
    try:
        return onnx.load(str(path))
    except Exception:  # noqa: BLE001  (absent, cut short or damaged: make it again)
        proto = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(proto, path)
    except OSError:
        with suppress(OSError):
            path.with_suffix(".part").unlink()
    return proto


def _key(checkpoint_sha256: str, opset: int) -> str:
    digest = hashlib.sha256(f"{checkpoint_sha256} {opset} {torch.__version__}".encode())
    digest.update(onnx.__version__.encode())
    rooms = {"models": Path(ureca.models.__path__[0]), "export": Path(ureca.export.__path__[0])}
    for room, pattern in _SOURCES:
        for path in sorted(rooms[room].glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
