"""Opens a bundle. Every file is checked against the manifest before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ureca.bundle import BundleManifest, bundle_sha, load_manifest, verify_files
from ureca.config import from_plain
from ureca.datatypes import EngineInfo, RegionInput
from ureca.engine import Engine
from ureca.errors import BundleError, ConfigError, UrecaError
from ureca.extras import require
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.attributes import AttributeReader, check_heads
from ureca.models.runtime.batch_engine import BatchEngine
from ureca.models.runtime.buckets import BucketBackend
from ureca.models.runtime.compatibility import (
    FIXED_RUNTIMES,
    TRANSFORMERS,
    check_compatibility,
    get_runtime_version,
    list_graph_names,
    open_runner,
)
from ureca.models.runtime.gpu.static_backend import FixedRunner, StaticBackend
from ureca.models.runtime.graph_backend import GraphBackend, PictureValues, Values
from ureca.models.runtime.graph_names import LM, LM_STATIC, REGIONS, SCORE, VISION
from ureca.models.runtime.ort import count_default_threads
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.scoring import ScoringArrays, ScoringBatchEngine
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_query_captioner,
    open_query_captioner,
)
from ureca.models.runtime.self_test import GOLDEN, run_self_test
from ureca.models.runtime.server import is_server_file
from ureca.models.runtime.shape_ranges import count_own_slots
from ureca.models.tokenizer import EOS_ID, LONG_ID, PAD_ID, SHORT_ID, Tokenizer

BundleEngine = BatchEngine[PictureValues, Values]


def load_engine(folder: Path | str, *, threads: int | None = None) -> Engine:
    """Verify the bundle in `folder`, open it in its runtime, warm it up and test it.

    A YAML file instead of a folder describes a server as captioner; nothing is sent to it yet. A
    checkpoint of `ureca mllm pix2cap` runs as it is, in torch.
    `threads` applies to every graph; default: the process's cores, at most 4. Raises `BundleError`
    with the remedy when a file is missing or altered, when the bundle was made for another runtime,
    version or device, when it does not fit this version, or when its self-test gives other captions
    than at export. Raises `MissingExtraError` when its runtime is not installed.
    """
    folder = Path(folder)
    if is_server_file(folder):
        return _open_server(folder, threads=threads)
    if is_query_captioner(folder):
        captioner: Engine = open_query_captioner(folder)
        return captioner
    manifest = load_manifest(folder)
    if manifest.runtime == TRANSFORMERS:
        return _open_mllm("ureca.models.mllm.mllm_engine", "mllm", folder, threads=threads)
    if manifest.language:
        return _open_mllm("ureca.models.mllm.graphs.engine", "node", folder, threads=threads)
    backend = load_backend(folder, manifest, threads=threads)
    engine = make_engine(backend, folder, manifest)
    _warm_up(engine, folder)
    if any(spec.file == GOLDEN for spec in manifest.extra_files):
        run_self_test(engine, folder)
    return engine


def _open_server(path: Path, *, threads: int | None) -> Engine:
    """Open the captioner of a YAML file, over a bundle's where the file has a `fallback`."""
    from ureca.models.runtime.server.engine import open_server_engine
    from ureca.models.runtime.server.fallback import FallbackEngine

    remote = open_server_engine(path)
    name = remote.config.fallback
    if name == "none":
        return remote
    folder = require_bundle() if name == "shipped" else path.parent / name
    if not folder.is_dir():
        raise ConfigError(f"{path}: fallback: expected none, shipped or a folder, got {name!r}")
    return FallbackEngine(load_engine(folder, threads=threads), remote)


def _open_mllm(module: str, extra: str, folder: Path, *, threads: int | None) -> Engine:
    """Open a full-size captioner: its graphs, or a model of `transformers`. torch is loaded only
    for the latter.
    """
    opener = require(module, extra=extra)
    engine: Engine = opener.open_bundle(folder, load_manifest(folder), threads=threads)
    return engine


def make_engine(backend: GraphBackend, folder: Path, manifest: BundleManifest) -> BundleEngine:
    """Make the engine over a bundle's graphs, without warm-up and self-test. Export needs this."""
    given: dict[str, Any] = {
        "config": read_captioner_config(manifest),
        "tokenizer": _load_tokenizer(folder, manifest),
        "info": _make_info(manifest),
    }
    given["attributes"] = _load_attributes(folder, manifest, given["config"])
    if not _list_scoring_graphs(manifest):
        return BatchEngine(backend, **given)
    assert manifest.grounding
    assert manifest.grounding.arrays
    arrays = ScoringArrays.load(folder / manifest.grounding.arrays.file, given["config"])
    confidence = manifest.grounding.confidence
    return ScoringBatchEngine(backend, scoring=arrays, confidence=confidence, **given)


def _load_attributes(
    folder: Path, manifest: BundleManifest, config: CaptionerConfig
) -> AttributeReader | None:
    section = manifest.attributes
    if not section or section.arrays is None:
        return None
    heads = check_heads(section, folder).heads
    if config.vision.max_tiles > 1:
        raise BundleError(f"{folder}: attributes need pictures of one tile, this model cuts more")
    inputs = config.regions.count_tokens(1) * config.language.width
    return AttributeReader.load(folder / section.arrays.file, heads, inputs=inputs)


def load_backend(
    folder: Path, manifest: BundleManifest, *, threads: int | None = None
) -> GraphBackend:
    """Verify and open only the graphs and the embedding table. Parity reports run them directly."""
    check_compatibility(folder, manifest)
    paths = verify_files(folder, manifest)
    names = list_graph_names(manifest.runtime)
    absent = [name for name in names if name not in manifest.graphs]
    if absent:
        raise BundleError(f"{folder} lacks the graphs {absent}: export the checkpoint again")
    config = read_captioner_config(manifest)
    table = _load_embeddings(paths[manifest.embeddings.file])
    expected = (config.language.vocab_size, config.language.width)
    if table.shape != expected:
        raise BundleError(f"{folder}: embeddings are {table.shape}, the model needs {expected}")
    static = _has_static_cache(manifest)
    known = (*names, *_list_scoring_graphs(manifest), *((LM_STATIC,) if static else ()))
    graphs = {name: paths[manifest.graphs[name].file] for name in known}
    runner = open_runner(manifest, graphs, config, threads=threads or count_default_threads())
    given: dict[str, Any] = {"embeddings": table, "language": config.language}
    if not manifest.limits.buckets:
        return GraphBackend(runner, **given)
    given["buckets"] = manifest.limits.buckets
    if static:
        return StaticBackend(cast("FixedRunner", runner), slots=count_own_slots(config), **given)
    return BucketBackend(runner, **given)


def _has_static_cache(manifest: BundleManifest) -> bool:
    """Whether steps run in caches of fixed length: in bundles for GPUs that hold the graph."""
    fixed = LM_STATIC in manifest.graphs and bool(manifest.limits.buckets)
    return fixed and manifest.runtime in FIXED_RUNTIMES


def _list_scoring_graphs(manifest: BundleManifest) -> tuple[str, ...]:
    """The graph that scores texts, where the bundle has both it and the weights to read it."""
    whole = bool(manifest.grounding and manifest.grounding.arrays) and SCORE in manifest.graphs
    return (SCORE,) if whole else ()


def read_captioner_config(manifest: BundleManifest) -> CaptionerConfig:
    """Read the network's description from the manifest. Raises `BundleError` when it does not
    fit.
    """
    try:
        return from_plain(CaptionerConfig, manifest.model, where="manifest.json: model")
    except ConfigError as error:
        raise BundleError(f"the bundle's model does not fit this version: {error}") from error


def _load_tokenizer(folder: Path, manifest: BundleManifest) -> Tokenizer:
    tokens = manifest.tokens
    if (tokens.pad, tokens.short, tokens.long, tokens.eos) != (PAD_ID, SHORT_ID, LONG_ID, EOS_ID):
        raise BundleError(f"expected pad, short, long, eos = 0, 1, 2, 3, the bundle says {tokens}")
    return Tokenizer.load(folder / manifest.tokenizer.file)


def _load_embeddings(path: Path) -> npt.NDArray[Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not a table of numbers: {error}") from error
    if table.dtype not in (np.float16, np.float32):
        raise BundleError(f"{path}: expected float16 or float32, got {table.dtype}")
    return np.asarray(table)


def _make_info(manifest: BundleManifest) -> EngineInfo:
    kinds = [manifest.graphs[name].precision for name in (VISION, REGIONS, LM)]
    return EngineInfo(
        model=manifest.name,
        runtime=f"{manifest.runtime} {get_runtime_version(manifest.runtime)}",
        precision="/".join(dict.fromkeys(kinds)),
        bundle_sha=bundle_sha(manifest),
        max_regions=manifest.limits.max_regions,
        max_new_tokens=manifest.limits.max_new_tokens,
    )


def _warm_up(engine: BundleEngine, folder: Path) -> None:
    """Run once. The first run allocates memory, selects kernels and shows that the graphs fit
    together.
    """
    try:
        frame = engine.encode(np.full((64, 64, 3), 128, np.uint8))
        list(engine.caption(frame, [RegionInput(np.ones((64, 64), np.bool_), max_new_tokens=2)]))
    except UrecaError as error:
        raise BundleError(f"the bundle {folder} does not run: {error}") from error
