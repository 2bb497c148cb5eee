"""Writes the files of a bundle and the manifest that lists them with their hashes."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from ureca.bundle import (
    MANIFEST_NAME,
    AttributeWeights,
    BundleManifest,
    GraphSpec,
    GroundingWeights,
    Limits,
    TokenIds,
    file_spec,
    load_manifest,
    write_manifest,
)
from ureca.config import to_plain
from ureca.engine import Engine
from ureca.errors import BundleError, WeightsError
from ureca.export.config import ExportConfig
from ureca.export.graphs.graph_files import write_graph
from ureca.export.graphs.interfaces import build_interfaces
from ureca.export.graphs.quantise import find_precision
from ureca.export.parity.parity_checks import Protos, read_embedding_table
from ureca.export.report import ParityReport
from ureca.models.config import CaptionerConfig
from ureca.models.nano.checkpoint import TOKENIZER, WEIGHTS
from ureca.models.nano.network import Captioner
from ureca.models.runtime.aoti import describe_cpu_target
from ureca.models.runtime.attributes import ARRAYS as ATTRIBUTE_ARRAYS
from ureca.models.runtime.attributes import checkpoint_attributes
from ureca.models.runtime.compatibility import (
    ANY,
    AOTI,
    OPTIONS,
    get_runtime_version,
    list_graph_names,
)
from ureca.models.runtime.graph_names import LM_STATIC, SCORE
from ureca.models.runtime.grounding.weights import ARRAYS, checkpoint_weights
from ureca.models.runtime.self_test import (
    GOLDEN,
    GOLDEN_PICTURE,
    read_picture,
    read_regions,
    run_captions,
)
from ureca.models.tokenizer import EOS_ID, LONG_ID, PAD_ID, SHORT_ID, Tokenizer

EMBEDDINGS, PARITY, CARD = "embeddings.npy", "parity.json", "MODEL_CARD.md"
_EXTRA = (PARITY, CARD, GOLDEN, GOLDEN_PICTURE)
FAILED = "parity.failed.json"
"""The report that is written when the parity check fails. The previous bundle stays in place."""


class BundleFiles:
    """Collects the files of one bundle in `stage` and publishes them together.

    `config` has nothing left open (`export.runtime_selection.resolve_config`).
    """

    def __init__(
        self, stage: Path, graphs: Protos, *, checkpoint: Path, config: ExportConfig
    ) -> None:
        self._stage, self._graphs = stage, graphs
        self._checkpoint, self._config = checkpoint, config

    def write(self, model: Captioner) -> BundleManifest:
        """Write graphs, embeddings, tokenizer and model card; return the manifest.

        Raises `EngineError` when a graph cannot be built for the runtime.
        """
        stage, half = self._stage, self._config.precision in {"int8", "fp16"}
        table = read_embedding_table(model)
        np.save(stage / EMBEDDINGS, table.astype(np.float16) if half else table, allow_pickle=False)
        shutil.copyfile(self._checkpoint / TOKENIZER, stage / TOKENIZER)
        if (self._checkpoint / CARD).is_file():
            shutil.copyfile(self._checkpoint / CARD, stage / CARD)
        if SCORE in self._graphs:
            shutil.copyfile(self._checkpoint / ARRAYS, stage / ARRAYS)
        return self._build_manifest(
            model.config, {n: self._write_graph(n, model) for n in self._list_graphs()}
        )

    def add_self_test(self, engine: Engine) -> None:
        """Caption the golden image with the finished bundle and store the captions."""
        write_self_test(engine, self._stage)

    def publish(self, manifest: BundleManifest, report: ParityReport, out: Path) -> None:
        """Move everything to `out`, the manifest last. If parity failed, write only the report.

        What `manifest` has beside the files of this export, such as a mask head, is in `out`.
        """
        if report.failures():
            report.save(out / FAILED)
            return
        (out / FAILED).unlink(missing_ok=True)
        before = _list_bundle_files(out)
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        report.save(self._stage / PARITY)
        names = [name for name in _EXTRA if (self._stage / name).is_file()]
        extra = tuple(file_spec(self._stage, name) for name in names)
        manifest = msgspec.structs.replace(manifest, extra_files=extra)
        for path in list(self._stage.iterdir()):
            shutil.move(path, out / path.name)
        for name in before - {spec.file for spec in manifest.files}:
            (out / name).unlink(missing_ok=True)
        write_manifest(out, manifest)

    def _list_graphs(self) -> list[str]:
        """List the graphs to write. AOTInductor cannot compile the static cache."""
        runtime = OPTIONS[self._config.runtime]
        extra = [] if runtime == AOTI else [LM_STATIC]
        needed = {*list_graph_names(runtime), SCORE, *extra}
        return [name for name in self._graphs if name in needed]

    def _write_graph(self, name: str, model: Captioner) -> GraphSpec:
        """Write one graph and return its description."""
        proto, interface = self._graphs[name], build_interfaces(model.config)[name]
        file = write_graph(name, proto, self._stage, model=model, config=self._config)
        return GraphSpec(
            file=file,
            sha256=file_spec(self._stage, file).sha256,
            inputs=interface.inputs,
            outputs=interface.outputs,
            precision=find_precision(proto),
        )

    def _build_manifest(
        self, model: CaptionerConfig, graphs: dict[str, GraphSpec]
    ) -> BundleManifest:
        stage, runtime = self._stage, OPTIONS[self._config.runtime]
        return BundleManifest(
            model=to_plain(model),
            checkpoint_sha256=file_spec(self._checkpoint, WEIGHTS).sha256,
            graphs=graphs,
            embeddings=file_spec(stage, EMBEDDINGS),
            tokenizer=file_spec(stage, TOKENIZER),
            tokens=TokenIds(pad=PAD_ID, short=SHORT_ID, long=LONG_ID, eos=EOS_ID),
            limits=Limits(
                max_regions=self._config.max_regions,
                max_new_tokens=model.language.max_new_tokens,
                buckets=self._config.buckets or (),
            ),
            runtime=runtime,
            runtime_version=get_runtime_version(runtime),
            target=self._find_target(),
            tolerances=asdict(self._config.tolerances),
            grounding=self._grounding(),
            attributes=self._attributes(),
        )

    def _attributes(self) -> AttributeWeights | msgspec.UnsetType:
        section = checkpoint_attributes(self._checkpoint)
        if section is None:
            return msgspec.UNSET
        shutil.copyfile(self._checkpoint / ATTRIBUTE_ARRAYS, self._stage / ATTRIBUTE_ARRAYS)
        return section

    def _grounding(self) -> GroundingWeights | msgspec.UnsetType:
        if SCORE not in self._graphs:
            return msgspec.UNSET
        weights = checkpoint_weights(self._checkpoint)
        assert weights is not None
        return msgspec.structs.replace(weights, arrays=file_spec(self._stage, ARRAYS))

    def _find_target(self) -> str:
        if self._config.runtime == "aoti":
            return describe_cpu_target()
        return ANY if self._config.runtime == "onnx" else str(self._config.target)


def add_files(stage: Path, out: Path, manifest: BundleManifest) -> None:
    """Move the files of `stage` into the bundle `out` and write its manifest last. If that fails,
    `out` is as it was.
    """
    names = [path.name for path in stage.iterdir()]
    with tempfile.TemporaryDirectory(dir=stage) as folder:
        before = Path(folder)
        try:
            for name in names:
                if (out / name).exists():
                    shutil.copy2(out / name, before / name)
                (stage / name).replace(out / name)
            write_manifest(out, manifest)
        except BaseException:
            for name in names:
                if (before / name).exists():
                    (before / name).replace(out / name)
                elif not (stage / name).exists():
                    (out / name).unlink(missing_ok=True)
            raise


def write_self_test(engine: Engine, stage: Path) -> None:
    """Write the self-test of a bundle: the golden image and the captions that `engine` gives it."""
    source = Path(__file__).with_name("golden")
    regions = read_regions(source / "regions.json")
    texts = run_captions(engine, read_picture(source / GOLDEN_PICTURE), regions)
    told = [msgspec.structs.replace(r, text=t) for r, t in zip(regions, texts, strict=True)]
    document = msgspec.json.format(msgspec.json.encode(told), indent=1)
    (stage / GOLDEN).write_bytes(document + b"\n")
    shutil.copyfile(source / GOLDEN_PICTURE, stage / GOLDEN_PICTURE)


def _list_bundle_files(out: Path) -> set[str]:
    """List the files of the bundle in `out`. Those that the new bundle lacks are deleted."""
    try:
        return {spec.file for spec in load_manifest(out).files}
    except BundleError:
        return set()


def check_checkpoint(checkpoint: Path, model: CaptionerConfig) -> None:
    """Raise `WeightsError` if the tokenizer has more ids than the network."""
    size = Tokenizer.load(checkpoint / TOKENIZER).vocab_size
    if size > model.language.vocab_size:
        raise WeightsError(
            f"{checkpoint / TOKENIZER} has {size} ids, the network {model.language.vocab_size}: "
            "take both from the same training run"
        )
