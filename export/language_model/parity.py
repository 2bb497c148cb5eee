"""Compares the captions of graphs with those of their checkpoint.

The reference is the checkpoint as the package runs it (`export/mllm_parity.py`): separate adapters,
the whole prompt of every region through `generate`, logits without a cache. It runs first and is
freed, so it and the graphs are never in memory together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from ureca.bundle import BundleManifest, bundle_sha
from ureca.datatypes import RegionInput
from ureca.errors import MissingExtraError
from ureca.export.config import Tolerances
from ureca.export.mllm_parity import COMPARED_TOKENS, make_control, run_shared, run_unshared
from ureca.export.parity.caption_quality import CaptionScores, compare_caption_scores
from ureca.export.parity.comparison import ProbeOutput, measure_agreement
from ureca.export.parity.parity_inputs import ParityCase
from ureca.export.verify import Verification
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER, load_checkpoint, read_config
from ureca.models.mllm.graphs.engine import GraphEngine, GraphPicture, GraphRows, make_graph_engine
from ureca.models.mllm.mllm_engine import MllmEngine, describe_checkpoint
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.runtime.decode import F32
from ureca.models.runtime.graph_names import LM


@dataclass(frozen=True)
class Reference:
    """What the checkpoint says of the cases, and what it says with mask modules of another seed."""

    said: list[ProbeOutput]
    control: list[ProbeOutput]
    words: TextTokenizer

    @classmethod
    def run(cls, checkpoint: Path, cases: Sequence[ParityCase], *, exact: bool) -> Reference:
        """Load the checkpoint, caption the cases, and free it.

        It is computed in float32; unless `exact`, a checkpoint whose precision is bf16 in bfloat16.
        """
        words = TextTokenizer.load(checkpoint / TOKENIZER)
        half = not exact and read_config(checkpoint).precision == "bf16"
        model = load_checkpoint(checkpoint, precision="bf16" if half else "fp32", merge=False)
        engine = MllmEngine(model, words, info=describe_checkpoint(model))
        bar = tqdm(cases, desc="the checkpoint's captions", unit="picture", disable=None)
        said = [run_unshared(engine, case) for case in bar]
        other = make_control(engine)
        pairs = zip(cases, said, strict=True)
        return cls(said, [run_shared(other, case, own.captions) for case, own in pairs], words)


def check_graphs(
    bundle: Path,
    manifest: BundleManifest,
    reference: Reference,
    *,
    cases: Sequence[ParityCase],
    source: str,
) -> Verification:
    """Compare the graphs of a bundle with the reference."""
    engine = make_graph_engine(bundle, manifest)
    bar = tqdm(cases, desc="the bundle's", unit="picture", disable=None)
    pairs = zip(bar, reference.said, strict=True)
    heard = [run_graphs(engine, case, said.captions) for case, said in pairs]
    package = require("transformers", extra="mllm")
    missing = {"GPU runtimes": "no CUDA device was used"}
    if source.startswith("synthetic"):
        missing["real pictures"] = source
    scores, unscored = _compare_words(reference, heard, cases)
    precision = manifest.graphs[LM].precision
    return Verification(
        # A bundle's hash covers its report, so a report that is part of it cannot have it.
        bundle_sha256=bundle_sha(manifest) if (bundle / "parity.json").is_file() else "",
        checkpoint_sha256=manifest.checkpoint_sha256,
        proven_with=f"{manifest.runtime} {manifest.runtime_version}",
        versions={p.__name__: str(p.__version__) for p in (torch, package, onnxruntime, np)},
        cases=source,
        tolerances=Tolerances(**manifest.tolerances),
        quantised=precision != "fp32",
        coarse=precision == "int4",
        bundle=measure_agreement(reference.said, heard),
        alone_exact=_count_equal_alone(engine, cases[0]),
        control=measure_agreement(reference.said, reference.control),
        words=scores,
        not_proven=missing | unscored,
    )


def run_graphs(
    engine: GraphEngine, case: ParityCase, forced: Sequence[Sequence[int]]
) -> ProbeOutput:
    """Caption one batch; compute logits of the forced captions."""
    frame, prompts = _prepare(engine, case)
    stop = engine.prompt.stop_ids[0]
    limit = min(COMPARED_TOKENS, engine.info.max_new_tokens)
    free = _decode(engine, frame, prompts, limit)
    ids = np.full((len(forced), max(map(len, forced))), stop, np.int64)
    for row, caption in enumerate(forced):
        ids[row, : len(caption)] = caption
    rows = GraphRows(engine, frame)
    steps = [rows.logits(*rows.start(prompts))]
    steps += [rows.logits(*rows.go_on(column)) for column in ids.T[:-1]]
    return ProbeOutput(free, np.stack(steps, axis=1))


def _prepare(engine: GraphEngine, case: ParityCase) -> tuple[GraphPicture, list[F32]]:
    frame = engine.encode(case.image)
    pairs = zip(case.masks, case.styles, strict=True)
    return frame, engine.make_suffixes(frame, [RegionInput(m, style=s) for m, s in pairs])


def _decode(
    engine: GraphEngine, frame: GraphPicture, prompts: Sequence[F32], limit: int
) -> list[list[int]]:
    """Caption greedily; each caption with its stop, if it was reached."""
    stop, rows = engine.prompt.stop_ids[0], GraphRows(engine, frame)
    chosen = [rows.choose(*rows.start(prompts)).ids]
    while len(chosen) < limit and not (np.stack(chosen) == stop).any(axis=0).all():
        chosen.append(rows.choose(*rows.go_on(chosen[-1])).ids)
    captions = np.stack(chosen, axis=1).tolist()
    return [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in captions]


def _count_equal_alone(engine: GraphEngine, case: ParityCase) -> float:
    """Return the share of captions that stay the same if the region is captioned alone."""
    frame, prompts = _prepare(engine, case)
    together = _decode(engine, frame, prompts, 8)
    alone = [_decode(engine, frame, [prompt], 8)[0] for prompt in prompts]
    return sum(a == b for a, b in zip(together, alone, strict=True)) / len(alone)


def _compare_words(
    reference: Reference, heard: Sequence[ProbeOutput], cases: Sequence[ParityCase]
) -> tuple[CaptionScores | None, dict[str, str]]:
    references = [texts for case in cases for texts in case.references]
    if not any(references):
        return None, {"METEOR, CIDEr": "nobody described these regions in words"}
    decode = reference.words.decode
    texts = [[decode(i) for s in side for i in s.captions] for side in (reference.said, heard)]
    try:
        return compare_caption_scores(texts[0], texts[1], references), {}
    except MissingExtraError as error:
        return None, {"METEOR, CIDEr": str(error)}
