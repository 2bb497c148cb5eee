"""Does `score` still read texts as the checkpoint does? Log-probabilities, and which region wins.

The checkpoint's own captions of a picture are the texts, all regions of the picture are asked. The
torch network scores them in one pass; for a text's own region its steps say the same once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import torch

from ureca.export.graphs.quantise import SCHEMES, quantise_int8
from ureca.export.parity.comparison import Captions, Probe
from ureca.export.parity.parity_checks import ParityProof, Protos, make_stranger, open_graphs
from ureca.export.parity.parity_inputs import F32, I64, CaseArrays
from ureca.export.parity.scoring_report import ScoringAgreement, ScoringProof
from ureca.models.nano.network import Captioner
from ureca.models.runtime.eager import Layers, TorchBackend, TorchPicture
from ureca.models.runtime.graph_backend import GraphBackend
from ureca.models.runtime.graph_names import SCORE
from ureca.models.tokenizer import EOS_ID

_PICTURES = 12


class ScoringProbe(Probe, Protocol):
    """A backend that scores given texts."""

    def score(self, picture: Any, x: F32, targets: I64, own: Any) -> F32:
        """Log-probability of every target."""


class ScoreAlone(TorchBackend):
    """The torch network, whose texts are scored by a graph instead: that graph and nothing else."""

    def __init__(self, model: Captioner, graph: GraphBackend) -> None:
        super().__init__(model)
        self._graph = graph

    def score(self, picture: TorchPicture, x: F32, targets: I64, own: Layers) -> F32:
        """The graph's log-probabilities after the network's keys and values."""
        values = [kv.numpy() for half in zip(*own, strict=True) for kv in half]
        prefix = [kv.numpy() for half in zip(*picture.prefix, strict=True) for kv in half]
        return self._graph.score_after(x, targets, prefix=np.stack(prefix), own=np.stack(values))


@dataclass(frozen=True, slots=True)
class _Read:
    """One picture's texts: log-probabilities of their targets f32 [T, N, Q], real ones b1 [T, Q],
    and `steps` f32 [T, Q] for each text's own region.
    """

    told: F32
    real: Any
    steps: F32 | None = None


class ScoringReference:
    """What the torch network says of the first pictures' captions."""

    def __init__(self, proof: ParityProof) -> None:
        self._proof = proof
        self.trials: dict[str, ScoringAgreement] = {}
        self._network = TorchBackend(proof.model)
        self._pictures = list(zip(proof.arrays, proof.reference, strict=True))[:_PICTURES]
        self._expected = [
            _read(self._network, arrays, said.captions, logits=said.logits)
            for arrays, said in self._pictures
        ]

    def compare(self, probe: ScoringProbe) -> ScoringAgreement:
        """Agreement of `probe` with the checkpoint."""
        heard = [_read(probe, arrays, said.captions) for arrays, said in self._pictures]
        return _agreement(self._expected, heard)

    def prove(self, exact: ScoringProbe, bundle: ScoringProbe) -> ScoringProof:
        """Compare the float32 graphs, the bundle, and weights of another seed, which must fail."""
        control = self.compare(TorchBackend(make_stranger(self._proof.model)))
        return ScoringProof(
            float32=self.compare(exact),
            bundle=self.compare(bundle),
            control=control,
            int8_trials=self.trials,
        )

    def choose_int8(
        self, graphs: Protos, master: onnx.ModelProto, table: F32, *, minimum: float
    ) -> onnx.ModelProto:
        """The first scheme whose winners agree to `minimum`, else the float graph; what was tried
        is kept in `trials`.
        """
        for scheme in SCHEMES:
            candidate = quantise_int8(master, scheme)
            tried = open_graphs({**graphs, SCORE: candidate}, table, self._proof.model.config)
            self.trials[f"{SCORE} {scheme}"] = self.compare(tried)
            if self.trials[f"{SCORE} {scheme}"].same_best >= minimum:
                return candidate
        return master


@torch.inference_mode()
def _read(
    probe: ScoringProbe, arrays: CaseArrays, captions: Captions, *, logits: F32 | None = None
) -> _Read:
    """Every caption of the picture for every region."""
    picture = probe.prefill(probe.encode(arrays.pixels))
    _, own = probe.logits(picture, probe.regions(picture, arrays.masks, arrays.boxes), None)
    width, rows = max(map(len, captions)), len(arrays.boxes)
    targets = np.full((len(captions), width), EOS_ID, np.int64)
    for row, caption in enumerate(captions):
        targets[row, : len(caption)] = caption
    words = np.concatenate([arrays.start_ids, targets[:, :-1]], axis=1)
    told = [
        probe.score(picture, probe.embed(np.tile(x, (rows, 1))), np.tile(y, (rows, 1)), own)
        for x, y in zip(words, targets, strict=True)
    ]
    real = np.arange(width)[None] < np.array([len(caption) for caption in captions])[:, None]
    return _Read(np.stack(told), real, None if logits is None else _stepped(logits, targets))


def _stepped(logits: F32, targets: I64) -> F32:
    """Log-probabilities f32 [T, Q] of the targets under the logits [T, Q, V] of decoding."""
    best = logits.max(axis=-1, keepdims=True)
    spread = best[..., 0] + np.log(np.exp(logits - best).sum(axis=-1))
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return np.asarray(chosen - spread, np.float32)


def _agreement(expected: Sequence[_Read], heard: Sequence[_Read]) -> ScoringAgreement:
    diffs, steps, same = [], [], []
    for ours, theirs in zip(expected, heard, strict=True):
        real = np.broadcast_to(ours.real[:, None], ours.told.shape)
        diffs.append(np.abs(ours.told - theirs.told)[real])
        assert ours.steps is not None
        own = theirs.told[np.arange(len(ours.steps)), np.arange(len(ours.steps))]
        steps.append(np.abs(ours.steps - own)[ours.real])
        same.append(_best(ours) == _best(theirs))
    return ScoringAgreement(
        texts=sum(map(len, same)),
        tokens=sum(map(len, diffs)),
        max_abs_diff=float(np.concatenate(diffs).max()),
        mean_abs_diff=float(np.concatenate(diffs).mean()),
        max_abs_step_diff=float(np.concatenate(steps).max()),
        same_best=float(np.concatenate(same).mean()),
    )


def _best(read: _Read) -> I64:
    """The region i64 [T] with the highest log-probability of each text."""
    return np.asarray((read.told * read.real[:, None]).sum(axis=-1).argmax(axis=1), np.int64)
