"""Opens a bundle: every file is checked against the manifest before anything of it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bundle import BundleManifest, bundle_sha, load_manifest, verify_files
from ureca.config import from_plain
from ureca.datatypes import EngineInfo, RegionInput
from ureca.engine import Engine
from ureca.errors import BundleError, ConfigError, UrecaError
from ureca.extras import require
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.buckets import BucketBackend
from ureca.models.runtime.compatibility import (
    TRANSFORMERS,
    check_home,
    graph_names,
    open_runner,
    version,
)
from ureca.models.runtime.engine import BatchEngine
from ureca.models.runtime.graph_backend import GraphBackend, PictureValues, Values
from ureca.models.runtime.graph_names import LM, REGIONS, VISION
from ureca.models.runtime.ort import default_threads
from ureca.models.runtime.self_test import GOLDEN, self_test
from ureca.models.tokenizer import EOS_ID, LONG_ID, PAD_ID, SHORT_ID, Tokenizer

BundleEngine = BatchEngine[PictureValues, Values]


def load_engine(folder: Path | str, *, threads: int | None = None) -> Engine:
    """Verify the bundle in `folder`, open it in its runtime, warm it up and test it.

    `threads` is for every graph; by default the process's cores, at most 4. Raises
    `BundleError` with the remedy when a file is missing or altered, the bundle was made for another
    runtime, version or device, it does not fit this version, or it says other words than when it
    was made; `MissingExtraError` when its runtime is not installed.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    if manifest.runtime == TRANSFORMERS:
        return _mllm(folder, manifest, threads=threads)
    backend = load_backend(folder, manifest, threads=threads)
    engine = engine_over(backend, folder, manifest)
    _warm_up(engine, folder)
    if any(spec.file == GOLDEN for spec in manifest.extra_files):
        self_test(engine, folder)
    return engine


def _mllm(folder: Path, manifest: BundleManifest, *, threads: int | None) -> Engine:
    """A captioner over a model of `transformers`: only now, and only here, is torch loaded."""
    opener = require("ureca.models.mllm.engine", extra="mllm")
    engine: Engine = opener.open_bundle(folder, manifest, threads=threads)
    return engine


def engine_over(backend: GraphBackend, folder: Path, manifest: BundleManifest) -> BundleEngine:
    """The engine over a bundle's graphs that nobody has asked anything yet: what export needs."""
    return BatchEngine(
        backend,
        config=captioner_config(manifest),
        tokenizer=_tokenizer(folder, manifest),
        info=_info(manifest),
    )


def load_backend(
    folder: Path, manifest: BundleManifest, *, threads: int | None = None
) -> GraphBackend:
    """Only the graphs and the embedding table, verified: what parity reports drive directly."""
    check_home(folder, manifest)
    paths = verify_files(folder, manifest)
    names = graph_names(manifest.runtime)
    absent = [name for name in names if name not in manifest.graphs]
    if absent:
        raise BundleError(f"{folder} lacks the graphs {absent}: export the checkpoint again")
    config = captioner_config(manifest)
    table = _embeddings(paths[manifest.embeddings.file])
    expected = (config.language.vocab_size, config.language.width)
    if table.shape != expected:
        raise BundleError(f"{folder}: embeddings are {table.shape}, the model needs {expected}")
    graphs = {name: paths[manifest.graphs[name].file] for name in names}
    runner = open_runner(manifest, graphs, config, threads=threads or default_threads())
    if not manifest.limits.buckets:
        return GraphBackend(runner, embeddings=table, language=config.language)
    return BucketBackend(
        runner, embeddings=table, language=config.language, buckets=manifest.limits.buckets
    )


def captioner_config(manifest: BundleManifest) -> CaptionerConfig:
    """The network's description from the manifest. Raises `BundleError` when it does not fit."""
    try:
        return from_plain(CaptionerConfig, manifest.model, where="manifest.json: model")
    except ConfigError as error:
        raise BundleError(f"the bundle's model does not fit this version: {error}") from error


def _tokenizer(folder: Path, manifest: BundleManifest) -> Tokenizer:
    tokens = manifest.tokens
    if (tokens.pad, tokens.short, tokens.long, tokens.eos) != (PAD_ID, SHORT_ID, LONG_ID, EOS_ID):
        raise BundleError(f"expected pad, short, long, eos = 0, 1, 2, 3, the bundle says {tokens}")
    return Tokenizer.load(folder / manifest.tokenizer.file)


def _embeddings(path: Path) -> npt.NDArray[Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not a table of numbers: {error}") from error
    if table.dtype not in (np.float16, np.float32):
        raise BundleError(f"{path}: expected float16 or float32, got {table.dtype}")
    return np.asarray(table)


def _info(manifest: BundleManifest) -> EngineInfo:
    kinds = [manifest.graphs[name].precision for name in (VISION, REGIONS, LM)]
    return EngineInfo(
        model=manifest.name,
        runtime=f"{manifest.runtime} {version(manifest.runtime)}",
        precision="/".join(dict.fromkeys(kinds)),
        bundle_sha=bundle_sha(manifest),
        max_regions=manifest.limits.max_regions,
        max_new_tokens=manifest.limits.max_new_tokens,
    )


def _warm_up(engine: BundleEngine, folder: Path) -> None:
    """The first run allocates and selects kernels; it also proves that the graphs fit together."""
    try:
        frame = engine.encode(np.full((64, 64, 3), 128, np.uint8))
        list(engine.caption(frame, [RegionInput(np.ones((64, 64), np.bool_), max_new_tokens=2)]))
    except UrecaError as error:
        raise BundleError(f"the bundle {folder} does not run: {error}") from error
