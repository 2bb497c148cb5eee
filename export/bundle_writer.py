"""The files of a bundle and the manifest that vouches for them."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from ureca.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    GraphSpec,
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
from ureca.export.graphs.graph_files import SUFFIXES, write_graph
from ureca.export.graphs.interfaces import interfaces
from ureca.export.graphs.quantise import precision_of
from ureca.export.parity.parity_checks import Protos, embedding_table
from ureca.export.report import ParityReport
from ureca.models.config import CaptionerConfig
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.checkpoint import TOKENIZER, WEIGHTS
from ureca.models.runtime.aoti import cpu_target
from ureca.models.runtime.compatibility import ANY, OPTIONS, graph_names, version
from ureca.models.runtime.graph_names import LM_STATIC
from ureca.models.runtime.self_test import (
    GOLDEN,
    GOLDEN_PICTURE,
    read_picture,
    read_regions,
    say,
)
from ureca.models.tokenizer import EOS_ID, LONG_ID, PAD_ID, SHORT_ID, Tokenizer

EMBEDDINGS, PARITY, CARD = "embeddings.npy", "parity.json", "MODEL_CARD.md"
_EXTRA = (PARITY, CARD, GOLDEN, GOLDEN_PICTURE)
FAILED = "parity.failed.json"
"""Written instead of a bundle that failed its proof; what was there before stays."""


class Files:
    """The files of one bundle, gathered in `stage` and published together.

    `config` has nothing left open (`export.runtime_selection.resolve_config`).
    """

    def __init__(
        self, stage: Path, graphs: Protos, *, checkpoint: Path, config: ExportConfig
    ) -> None:
        self._stage, self._graphs = stage, graphs
        self._checkpoint, self._config = checkpoint, config

    def write(self, model: Captioner) -> BundleManifest:
        """Write graphs, embeddings, tokenizer and model card, and describe them.

        Raises `EngineError` when a graph cannot be built for the runtime.
        """
        stage, half = self._stage, self._config.precision in {"int8", "fp16"}
        table = embedding_table(model)
        np.save(stage / EMBEDDINGS, table.astype(np.float16) if half else table, allow_pickle=False)
        shutil.copyfile(self._checkpoint / TOKENIZER, stage / TOKENIZER)
        if (self._checkpoint / CARD).is_file():
            shutil.copyfile(self._checkpoint / CARD, stage / CARD)
        return self._manifest(model.config, {n: self._graph(n, model) for n in self._names()})

    def remember(self, engine: Engine) -> None:
        """Let the finished bundle caption the golden picture and keep what it said."""
        write_self_test(engine, self._stage)

    def publish(self, manifest: BundleManifest, report: ParityReport, out: Path) -> None:
        """Move everything to `out`, the manifest last; of a failed proof only its report."""
        if report.failures():
            report.save(out / FAILED)
            return
        (out / FAILED).unlink(missing_ok=True)
        before = _listed(out)
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        report.save(self._stage / PARITY)
        names = [name for name in _EXTRA if (self._stage / name).is_file()]
        extra = tuple(file_spec(self._stage, name) for name in names)
        made = {path.name for path in self._stage.iterdir()}
        for name in made:
            shutil.move(self._stage / name, out / name)
        for name in before - made:
            (out / name).unlink(missing_ok=True)
        write_manifest(out, msgspec.structs.replace(manifest, extra_files=extra))

    def _names(self) -> list[str]:
        """The graphs to write; no engine runs the static cache yet, so there is no plan of it."""
        needed = graph_names(OPTIONS[self._config.runtime])
        extra = [LM_STATIC] if SUFFIXES[self._config.runtime] == ".onnx" else []
        return [name for name in self._graphs if name in {*needed, *extra}]

    def _graph(self, name: str, model: Captioner) -> GraphSpec:
        """Write one graph and describe it."""
        proto, interface = self._graphs[name], interfaces(model.config)[name]
        file = write_graph(name, proto, self._stage, model=model, config=self._config)
        return GraphSpec(
            file=file,
            sha256=file_spec(self._stage, file).sha256,
            inputs=interface.inputs,
            outputs=interface.outputs,
            precision=precision_of(proto),
        )

    def _manifest(self, model: CaptionerConfig, graphs: dict[str, GraphSpec]) -> BundleManifest:
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
            runtime_version=version(runtime),
            target=self._target(),
            tolerances=asdict(self._config.tolerances),
        )

    def _target(self) -> str:
        if self._config.runtime == "aoti":
            return cpu_target()
        return ANY if self._config.runtime == "onnx" else str(self._config.target)


def write_self_test(engine: Engine, stage: Path) -> None:
    """Write the self-test of a bundle: the golden picture and what `engine` says of it."""
    source = Path(__file__).with_name("golden")
    regions = read_regions(source / "regions.json")
    texts = say(engine, read_picture(source / GOLDEN_PICTURE), regions)
    told = [msgspec.structs.replace(r, text=t) for r, t in zip(regions, texts, strict=True)]
    document = msgspec.json.format(msgspec.json.encode(told), indent=1)
    (stage / GOLDEN).write_bytes(document + b"\n")
    shutil.copyfile(source / GOLDEN_PICTURE, stage / GOLDEN_PICTURE)


def _listed(out: Path) -> set[str]:
    """Files of the bundle in `out`: those that the new one lacks must not stay behind."""
    try:
        return {spec.file for spec in load_manifest(out).files}
    except BundleError:
        return set()


def check_checkpoint(checkpoint: Path, model: CaptionerConfig) -> None:
    """Raise `WeightsError` for a tokenizer that knows more ids than the network."""
    size = Tokenizer.load(checkpoint / TOKENIZER).vocab_size
    if size > model.language.vocab_size:
        raise WeightsError(
            f"{checkpoint / TOKENIZER} has {size} ids, the network {model.language.vocab_size}: "
            "take both from the same training run"
        )
