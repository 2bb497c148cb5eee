"""Runs the comparisons of an export: float graphs, int8 candidates one by one, the final files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ureca.export.graphs.onnx_export import save_graph
from ureca.export.graphs.quantise import SCHEMES, quantise_int8
from ureca.export.parity.comparison import (
    Agreement,
    Probe,
    ProbeOutput,
    decode_uncached,
    measure_agreement,
    run_captions,
)
from ureca.export.parity.parity_inputs import F32, CaseArrays
from ureca.export.report import Trial
from ureca.models.config import CaptionerConfig
from ureca.models.nano.network import Captioner
from ureca.models.runtime.eager import TorchBackend
from ureca.models.runtime.graph_backend import GraphBackend
from ureca.models.runtime.graph_names import LM, REGIONS
from ureca.models.runtime.ort import OrtRunner, count_default_threads, open_session

Protos = Mapping[str, onnx.ModelProto]

_UNCACHED_PICTURES = 2
_CONTROL_PICTURES = 4
_CONTROL_SEED = 20_250_405


class ParityProof:
    """The checkpoint's captions of the cases, and the comparison of other graphs with them."""

    def __init__(self, model: Captioner, arrays: Sequence[CaseArrays]) -> None:
        self.model, self.arrays = model, arrays
        self.max_new = model.config.language.max_new_tokens
        self.torch: Probe = TorchBackend(model)
        self.reference = [run_captions(self.torch, each, max_new=self.max_new) for each in arrays]

    def compare(self, probe: Probe, *, pictures: int | None = None) -> Agreement:
        """Return the agreement of `probe` with the checkpoint over the first `pictures` images
        (default: all).
        """
        return self.agreement(self.run_captions(self.arrays[:pictures], probe))

    def run_captions(self, arrays: Iterable[CaseArrays], probe: Probe) -> list[ProbeOutput]:
        """Caption the first images with `probe`, freely and forced to the checkpoint's captions."""
        pairs = zip(arrays, self.reference, strict=False)
        return [run_captions(probe, a, max_new=self.max_new, forced=s.captions) for a, s in pairs]

    def agreement(self, heard: Sequence[ProbeOutput]) -> Agreement:
        """Return the agreement of these captions with the checkpoint's."""
        return measure_agreement(self.reference[: len(heard)], heard)

    def compare_control(self) -> Agreement:
        """Run the same comparison with weights of another seed. It must fail."""
        control = TorchBackend(make_stranger(self.model))
        return self.compare(control, pictures=_CONTROL_PICTURES)

    def count_uncached_equal(self, probe: Probe) -> tuple[int, int]:
        """Return (regions, how many of them `probe` captions equally with and without its KV
        cache).
        """
        pairs: list[tuple[list[int], list[int]]] = []
        for arrays in self.arrays[:_UNCACHED_PICTURES]:
            cached = run_captions(probe, arrays, max_new=self.max_new).captions
            plain = decode_uncached(probe, arrays, max_new=self.max_new)
            pairs += zip(cached, plain, strict=True)
        return len(pairs), sum(a == b for a, b in pairs)

    def measure_alone_exact(self, probe: Probe) -> float:
        """Return the share of captions that do not change if a region is captioned alone."""
        pairs: list[tuple[list[int], list[int]]] = []
        for arrays in self.arrays[:_CONTROL_PICTURES]:
            together = run_captions(probe, arrays, max_new=self.max_new)
            alone = [self._run_alone(probe, arrays, row) for row in range(len(arrays.boxes))]
            pairs += zip(together.captions, alone, strict=True)
        return sum(a == b for a, b in pairs) / len(pairs)

    def _run_alone(self, probe: Probe, arrays: CaseArrays, row: int) -> list[int]:
        one = slice(row, row + 1)
        single = CaseArrays(
            arrays.pixels, arrays.masks[one], arrays.boxes[one], arrays.start_ids[one]
        )
        return run_captions(probe, single, max_new=self.max_new).captions[0]


def make_stranger(model: Captioner) -> Captioner:
    """A network of the same shape with weights of another seed."""
    with torch.random.fork_rng():
        torch.manual_seed(_CONTROL_SEED)
        return Captioner(model.config)


def choose_int8(
    proof: ParityProof, masters: Protos, table: F32, *, minimum: float
) -> tuple[dict[str, onnx.ModelProto], dict[str, Trial]]:
    """Quantise `lm`, then `regions`, with the first scheme whose forced choices agree to `minimum`.

    A graph for which none does stays float32. Trials are named `graph scheme`.
    """
    graphs, trials = dict(masters), {}
    for name in (LM, REGIONS):
        for scheme in SCHEMES:
            candidate = {**graphs, name: quantise_int8(masters[name], scheme)}
            result = proof.compare(open_graphs(candidate, table, proof.model.config))
            chosen = result.teacher_forced >= minimum
            trials[f"{name} {scheme}"] = Trial(agreement=result, chosen=chosen)
            if chosen:
                graphs = candidate
                break
    return graphs, trials


def open_graphs(graphs: Protos, table: F32, config: CaptionerConfig) -> GraphBackend:
    """Open graphs in memory as an ONNX Runtime backend on the CPU."""
    sessions: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, proto in graphs.items():
            path = Path(folder) / f"{name}.onnx"
            save_graph(proto, path)
            sessions[name] = open_session(path, threads=count_default_threads())
    return GraphBackend(OrtRunner(sessions), embeddings=table, language=config.language)


def read_embedding_table(model: Captioner) -> F32:
    """Return token embeddings f32 [V, d]."""
    return np.ascontiguousarray(model.language.embedding.weight.detach().numpy(), np.float32)
