"""The parity report: what was compared, the results, and whether the bundle may be used."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ureca.export.config import Tolerances
from ureca.export.parity.comparison import Agreement
from ureca.export.parity.masks_report import MaskProof, format_mask_proof
from ureca.export.parity.scoring_report import ScoringProof, failures, line


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One graph tried in int8, with all other graphs as chosen so far."""

    agreement: Agreement
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The content of `parity.json`."""

    checkpoint_sha256: str
    opset: int
    versions: dict[str, str]
    cases: str
    tolerances: Tolerances
    float32: Agreement
    edges_max_abs_logit_diff: float
    uncached_regions: int
    uncached_equal: int
    control: Agreement
    bundle: Agreement
    alone_exact: float
    """Share of captions that stay the same if a region is captioned alone instead of in a batch.
    Int8 activations are scaled per batch, so other regions have a small effect.
    """
    runtime: str = "onnxruntime"
    """The runtime of the bundle. `bundle` was measured with it unless `not_proven` says
    otherwise.
    """
    not_proven: dict[str, str] = field(default_factory=dict)
    """What could not be tested on this machine, and why."""
    precision: dict[str, str] = field(default_factory=dict)
    """Precision of each shipped graph. Float32 graphs of an int8 bundle are stored as float16."""
    scoring: ScoringProof | None = None
    """Of the graph `score`, where the checkpoint has weights to read it."""
    int8_trials: dict[str, Trial] = field(default_factory=dict)
    mask_head: MaskProof | None = None
    """Of the mask head that the folder had before: it is kept, and was proven when it was added."""

    def failures(self) -> list[str]:
        """Reasons why the bundle must not be used; empty if it may be used."""
        t, bad = self.tolerances, []
        diffs = (self.float32.max_abs_logit_diff, self.edges_max_abs_logit_diff)
        bad += [
            f"float32 logits differ by {diff:.2e}, allowed {t.max_abs_logit_diff}"
            for diff in diffs
            if not diff <= t.max_abs_logit_diff  # NaN fails as well
        ]
        if self.float32.teacher_forced < t.float_agreement:
            bad.append(f"float32 choices agree only to {self.float32.teacher_forced:.4f}")
        if self.uncached_equal < self.uncached_regions:
            lost = self.uncached_regions - self.uncached_equal
            bad.append(f"{lost} captions differ with and without the KV cache")
        if self.control.teacher_forced >= t.control_agreement:
            bad.append("weights of another seed agree as well: the comparison proves nothing")
        if self.bundle.teacher_forced < t.int8_agreement:
            bad.append(f"the bundle's choices agree only to {self.bundle.teacher_forced:.4f}")
        return [*bad, *(failures(self.scoring, asdict(t)) if self.scoring else ())]

    def save(self, path: Path) -> None:
        """Write `parity.json`."""
        path.write_text(build_document(self), encoding="utf8")

    def table(self) -> str:
        """Return the report as text for a terminal."""
        rows = [("float32 onnx", self.float32), ("bundle", self.bundle)]
        rows += [(f"int8 {name}", trial.agreement) for name, trial in self.int8_trials.items()]
        rows.append(("other seed", self.control))
        head = f"{'against torch':<16}{'max|dlogit|':>12}{'forced':>9}{'free':>9}{'exact':>9}"
        lines = [f"{self.cases}; {self.float32.tokens} tokens", head]
        lines += [f"{name:<16}{format_figures(agreement)}" for name, agreement in rows]
        lines.append(f"zero-length edges: max|dlogit| {self.edges_max_abs_logit_diff:.2e}")
        lines.append(f"without KV cache: {self.uncached_equal} of {self.uncached_regions} equal")
        lines.append(f"alone as in batch: {self.alone_exact:.3f} of captions")
        if self.scoring is not None:
            s = self.scoring
            named = {"float32": s.float32, "bundle": s.bundle, "other seed": s.control}
            lines += [line(name, found) for name, found in named.items()]
        if self.mask_head is not None:
            lines.append("the mask head of this folder is kept, with its proof:")
            lines += format_mask_proof(self.mask_head)
        lines.append(
            "ships " + ", ".join(f"{name} {kind}" for name, kind in self.precision.items())
        )
        lines += [f"NOT PROVEN: {what}: {why}" for what, why in self.not_proven.items()]
        return "\n".join([*lines, *(f"FAILED: {reason}" for reason in self.failures())])


class HasFailures(Protocol):
    """A report on an export or on the verification of a bundle."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def failures(self) -> list[str]:
        """Reasons why the bundle must not be used; empty if it may be used."""
        ...

    def table(self) -> str:
        """Return the report as text for a terminal."""
        ...


def build_document(report: HasFailures) -> str:
    """Return the report as JSON, with its failures."""
    return json.dumps({**asdict(report), "failures": report.failures()}, indent=2) + "\n"


def print_report(report: HasFailures, *, as_json: bool) -> int:
    """Print the report. Return the exit status: 1 if the check failed."""
    sys.stdout.write(build_document(report) if as_json else report.table() + "\n")
    return 1 if report.failures() else 0


def format_figures(agreement: Agreement) -> str:
    """Format one line of a table with the columns max|dlogit|, forced, free and exact."""
    return (
        f"{agreement.max_abs_logit_diff:>12.2e}{agreement.teacher_forced:>9.4f}"
        f"{agreement.free_running:>9.4f}{agreement.caption_exact:>9.4f}"
    )
