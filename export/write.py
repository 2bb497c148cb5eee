"""The files of a bundle and the manifest that vouches for them."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime

from ureca.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    GraphSpec,
    Limits,
    Precision,
    PreprocessSpec,
    TokenIds,
    file_spec,
    write_manifest,
)
from ureca.config import to_plain
from ureca.errors import WeightsError
from ureca.export.cases import F32
from ureca.export.config import ExportConfig
from ureca.export.graphs import save
from ureca.export.interfaces import interfaces
from ureca.export.prove import Protos
from ureca.export.quantise import int8_products
from ureca.export.report import Report
from ureca.models.config import CaptionerConfig
from ureca.models.nano.checkpoint import TOKENIZER, WEIGHTS
from ureca.models.runtime.golden import (
    GOLDEN,
    GOLDEN_PICTURE,
    read_picture,
    read_regions,
    say,
)
from ureca.models.runtime.load import RUNTIME, untested_engine
from ureca.models.tokenizer import EOS_ID, LONG_ID, PAD_ID, SHORT_ID, Tokenizer

EMBEDDINGS, PARITY, CARD = "embeddings.npy", "parity.json", "MODEL_CARD.md"
_EXTRA = (PARITY, CARD, GOLDEN, GOLDEN_PICTURE)
FAILED = "parity.failed.json"
"""Written instead of a bundle that failed its proof; what was there before stays."""


class Files:
    """The files of one bundle, gathered in `stage` and published together."""

    def __init__(
        self, stage: Path, graphs: Protos, *, checkpoint: Path, config: ExportConfig
    ) -> None:
        self._stage, self._graphs = stage, graphs
        self._checkpoint, self._config = checkpoint, config

    def write(self, table: F32, model: CaptionerConfig) -> BundleManifest:
        """Write graphs, embeddings, tokenizer and model card, and describe them."""
        stage, half = self._stage, self._config.precision == "int8"
        for name, proto in self._graphs.items():
            save(proto, stage / f"{name}.onnx")
        np.save(stage / EMBEDDINGS, table.astype(np.float16) if half else table, allow_pickle=False)
        shutil.copyfile(self._checkpoint / TOKENIZER, stage / TOKENIZER)
        if (self._checkpoint / CARD).is_file():
            shutil.copyfile(self._checkpoint / CARD, stage / CARD)
        return self._manifest(model)

    def remember(self, manifest: BundleManifest) -> None:
        """Let the finished bundle caption the golden picture and keep what it said."""
        source = Path(__file__).with_name("golden")
        regions = read_regions(source / "regions.json")
        engine = untested_engine(self._stage, manifest)
        texts = say(engine, read_picture(source / GOLDEN_PICTURE), regions)
        told = [msgspec.structs.replace(r, text=t) for r, t in zip(regions, texts, strict=True)]
        document = msgspec.json.format(msgspec.json.encode(told), indent=1)
        (self._stage / GOLDEN).write_bytes(document + b"\n")
        shutil.copyfile(source / GOLDEN_PICTURE, self._stage / GOLDEN_PICTURE)

    def publish(self, manifest: BundleManifest, report: Report, out: Path) -> None:
        """Move everything to `out`, the manifest last; of a failed proof only its report."""
        if report.failures():
            report.save(out / FAILED)
            return
        (out / FAILED).unlink(missing_ok=True)
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        report.save(self._stage / PARITY)
        names = [name for name in _EXTRA if (self._stage / name).is_file()]
        extra = tuple(file_spec(self._stage, name) for name in names)
        for path in self._stage.iterdir():
            shutil.move(path, out / path.name)
        write_manifest(out, msgspec.structs.replace(manifest, extra_files=extra))

    def _manifest(self, model: CaptionerConfig) -> BundleManifest:
        stage, vision = self._stage, model.vision
        return BundleManifest(
            model=to_plain(model),
            checkpoint_sha256=file_spec(self._checkpoint, WEIGHTS).sha256,
            graphs={name: _graph(stage, name, g, model) for name, g in self._graphs.items()},
            embeddings=file_spec(stage, EMBEDDINGS),
            tokenizer=file_spec(stage, TOKENIZER),
            tokens=TokenIds(pad=PAD_ID, short=SHORT_ID, long=LONG_ID, eos=EOS_ID),
            preprocess=PreprocessSpec(
                tile_px=vision.tile_px, mask_px=vision.mask_px, max_tiles=vision.max_tiles
            ),
            limits=Limits(
                max_regions=self._config.max_regions,
                max_new_tokens=model.language.max_new_tokens,
            ),
            runtime=RUNTIME,
            runtime_version=onnxruntime.__version__,
            tolerances=asdict(self._config.tolerances),
        )


def check_checkpoint(checkpoint: Path, model: CaptionerConfig) -> None:
    """Raise `WeightsError` for a tokenizer that knows more ids than the network."""
    size = Tokenizer.load(checkpoint / TOKENIZER).vocab_size
    if size > model.language.vocab_size:
        raise WeightsError(
            f"{checkpoint / TOKENIZER} has {size} ids, the network {model.language.vocab_size}: "
            "take both from the same training run"
        )


def _graph(stage: Path, name: str, proto: onnx.ModelProto, model: CaptionerConfig) -> GraphSpec:
    file, interface = file_spec(stage, f"{name}.onnx"), interfaces(model)[name]
    precision: Precision = "int8" if int8_products(proto) else "fp32"
    return GraphSpec(
        file=file.file,
        sha256=file.sha256,
        inputs=interface.inputs,
        outputs=interface.outputs,
        precision=precision,
    )
