"""The bundle manifest: the only data that the exporter and the runtime share.

A bundle is a folder of graphs, tables and `manifest.json`. The manifest has the sha256 of every
file. A file with another hash is not opened. `models.runtime` reads what `export` wrote; neither
imports the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from ureca.errors import BundleError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_NO_LONGER_WRITTEN = frozenset({"preprocess"})
"""Keys of older manifests, which are skipped: `preprocess` repeated sizes that `model` holds."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]

_RESTORE = (
    "restore the folder (from version control; an installed one: pip install --force-reinstall "
    "ureca-nano-weights), or write it anew: ureca export CHECKPOINT -o FOLDER"
)


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output: numpy dtype name, and a shape of sizes and names of free dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FileSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the bundle: a plain relative name and its sha256 in hex."""

    file: str
    sha256: str


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One graph: its file, its interface and the precision of its weights."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision

    @property
    def spec(self) -> FileSpec:
        """The graph's file alone."""
        return FileSpec(file=self.file, sha256=self.sha256)


class TokenIds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Special tokens: padding, end, and the two instructions (noun phrase, sentence)."""

    pad: int
    short: int
    long: int
    eos: int


class Limits(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The limits of one `Engine.caption` call.

    `buckets` are the batch sizes to which batches are padded, ascending. (Empty ones are not in the
    JSON, so that older bundles keep their sha256.)
    """

    max_regions: int
    max_new_tokens: int
    buckets: tuple[int, ...] = ()


class GroundingWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How scores of texts become decisions (`models.runtime.grounding`), fitted and calibrated.

    `place` and `presence` are weights of named features, two logistic models: `place` ranks the
    regions of one picture, `presence` gives the probability that a text is true of a region. A text
    is absent if no region reaches `min_present`. Further regions are answers if they reach
    `min_several` and their `place` is at most `max_gap` nats below the best one's; two answers
    share at most `max_overlap` of the smaller one. `arrays` is the file of null regions and word
    means that `Engine.score` needs; None where the engine brings its own.

    `confidence` are the weights of the captions' own confidence (`models.runtime.confidence`);
    empty: captions have none.
    """

    place: dict[str, float]
    presence: dict[str, float]
    min_present: float = 0.5
    min_several: float = 0.5
    max_gap: float = 2.0
    max_overlap: float = 0.5
    max_fit: int = 8
    part_words: bool = True
    arrays: FileSpec | None = None
    confidence: dict[str, float] = {}
    figures: dict[str, float] = {}


class AttributeHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attribute: the closed list of words, where "" means that it does not apply, and the
    probability 0..1 below which it abstains. `figures` are of held-out regions.
    """

    words: tuple[str, ...]
    min_probability: float
    figures: dict[str, float] = {}


class AttributeWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The heads of `models.runtime.attributes` by attribute, and the file of their weights; None
    in a checkpoint's own file.
    """

    heads: dict[str, AttributeHead]
    arrays: FileSpec | None = None


class MaskHeadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mask head of a bundle (`models.runtime.segmentation.bundled`): sizes and graphs.

    `canvas_px` is height and width of the canvas, `channels` are those of the maps of places,
    `map_channels` those of the map that masks are drawn on. `proposals` is the number of boxes that
    the trunk detects, 0 where it does not. One call takes `max_points`, `max_boxes` and
    `max_kernels` rows. `graphs` are by name (`segment`, `prompt`, `masks`); ONNX Runtime runs them,
    whatever the bundle's `runtime` is. `checkpoint_sha256` is that of the head's own checkpoint.
    """

    trunk: str
    canvas_px: tuple[int, int]
    channels: int
    map_channels: int
    proposals: int
    max_points: int
    max_boxes: int
    max_kernels: int
    checkpoint_sha256: str
    graphs: dict[str, GraphSpec]


class LanguageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The language model of a full-size captioner (`models.mllm.graphs`) as graphs: its sizes.

    `heads` are those of keys and values. `axes` is 1, or 3 where positions in an image have three
    dimensions. `layout` is how the image block of the prompt is written, `image_tokens` how many a
    tile has in it. `maps` are the outputs of `vision` that `regions` reads.
    """

    layers: int
    heads: int
    head_dim: int
    width: int
    axes: int
    layout: str
    image_tokens: int
    maps: tuple[str, ...]


class BundleManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All data that a runtime needs before it opens a graph.

    `model` is `CaptionerConfig` as plain data (with `language`: `MllmConfig`); `graphs` are by name
    (`vision`, `regions`, `lm`). `tolerances` are the bounds that the parity report was held to
    (`max_abs_logit_diff`, ...).
    `runtime` and `runtime_version` say what made or proved the graphs; `target` is where they may
    run: `any`, a device such as `sm_87`, or what else `models.runtime.compatibility` knows.
    `extra_files` are the parity report, the self-test and the model card. A bundle without
    `grounding` cannot score texts, one without `mask_head` finds nothing by itself, one without
    `attributes` answers none. (None of them is in the JSON of those, so that they keep their
    sha256.)
    With `language` the graphs are those of a
    full-size captioner; the weights of graph `NAME` are in the extra file `NAME.data`.
    """

    schema: int = SCHEMA_VERSION
    model: dict[str, Any]
    checkpoint_sha256: str
    graphs: dict[str, GraphSpec]
    embeddings: FileSpec
    tokenizer: FileSpec
    tokens: TokenIds
    limits: Limits
    runtime: str
    runtime_version: str
    target: str = "any"
    tolerances: dict[str, float] = {}
    extra_files: tuple[FileSpec, ...] = ()
    grounding: GroundingWeights | msgspec.UnsetType = msgspec.UNSET
    mask_head: MaskHeadSpec | msgspec.UnsetType = msgspec.UNSET
    attributes: AttributeWeights | msgspec.UnsetType = msgspec.UNSET
    language: LanguageSpec | msgspec.UnsetType = msgspec.UNSET

    @property
    def name(self) -> str:
        """The model's name, as events report it."""
        return str(self.model.get("name", "unknown"))

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Every file whose sha256 the manifest has."""
        graphs = tuple(graph.spec for graph in self.graphs.values())
        sections = (self.grounding, self.attributes)
        scoring = tuple(one.arrays for one in sections if one and one.arrays)
        head = self.mask_head.graphs.values() if self.mask_head else ()
        masks = tuple(graph.spec for graph in head)
        return (*graphs, self.embeddings, self.tokenizer, *scoring, *masks, *self.extra_files)


def bundle_sha(manifest: BundleManifest) -> str:
    """The sha256 in hex of the canonical JSON: it changes when any file or setting does."""
    return hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()


def file_spec(folder: Path, name: str) -> FileSpec:
    """Hash `folder/name` for a manifest."""
    return FileSpec(file=name, sha256=_sha256(_inside(folder, name)))


def write_manifest(folder: Path, manifest: BundleManifest) -> Path:
    """Verify the files and write `manifest.json` in one step, so that no reader sees half of it."""
    verify_files(folder, manifest)
    path = folder / MANIFEST_NAME
    draft = folder / f".{MANIFEST_NAME}.part"
    text = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
    draft.write_bytes(text + b"\n")
    draft.replace(path)
    return path


def load_manifest(folder: Path | str) -> BundleManifest:
    """Read and check `folder/manifest.json`; the files themselves are checked when they are opened.

    Raises `BundleError` for a missing or malformed manifest, another schema version, or a file name
    that leaves the folder.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"expected a bundle, but {path} is missing; {_RESTORE}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes; {_RESTORE}")
    manifest = _decode(path)
    for spec in manifest.files:
        _inside(Path(folder), spec.file)
    return manifest


def verify_files(folder: Path | str, manifest: BundleManifest) -> dict[str, Path]:
    """Hash every file of the bundle; returns their paths by name.

    Raises `BundleError` naming the first file that is missing or altered, the sums expected and
    got, and the remedy.
    """
    return {spec.file: verify_file(folder, spec) for spec in manifest.files}


def verify_file(folder: Path | str, spec: FileSpec) -> Path:
    """The path of one file whose sha256 matches the manifest, or `BundleError`."""
    path = _inside(Path(folder), spec.file)
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle; {_RESTORE}")
    got = _sha256(path)
    if got != spec.sha256:
        raise BundleError(
            f"{path} was altered: expected sha256 {spec.sha256}, got {got}; {_RESTORE}"
        )
    return path


def _decode(path: Path) -> BundleManifest:
    try:
        data = msgspec.json.decode(path.read_bytes())
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema {schema!r}, this version reads {SCHEMA_VERSION}; {_RESTORE}"
            )
        kept = {key: value for key, value in data.items() if key not in _NO_LONGER_WRITTEN}
        return msgspec.convert(kept, BundleManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not a bundle manifest: {error}; {_RESTORE}") from error


def _inside(folder: Path, name: str) -> Path:
    """A manifest may only name files below its own folder."""
    parts = PurePosixPath(name).parts
    if not parts or "\\" in name or PurePosixPath(name).is_absolute() or ".." in parts:
        raise BundleError(
            f"expected a file name inside the bundle, got {name!r}; do not use this bundle"
        )
    return folder.joinpath(*parts)


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle; {_RESTORE}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
