"""What was compared of the mask head, and whether its graphs may be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Storage = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class MaskRow:
    """IoUs of a candidate's masks with those of torch: how many, their mean and the least one."""

    masks: int
    mean_iou: float
    least_iou: float


@dataclass(frozen=True, slots=True)
class MaskAgreement:
    """How near a candidate is to the network in torch.

    Every answer to a click and to a box is compared with its counterpart, each of torch's masks of
    everything with the most similar one. `max_abs_score_diff` is of clicks and boxes.
    """

    pictures: int
    click: MaskRow
    box: MaskRow
    everything: MaskRow
    max_abs_score_diff: float

    @property
    def rows(self) -> dict[str, MaskRow]:
        """The three ways of asking."""
        return {"click": self.click, "box": self.box, "everything": self.everything}


@dataclass(frozen=True, kw_only=True)
class MaskProof:
    """All comparisons of a mask head: in float32, of the files that ship, of another seed."""

    checkpoint_sha256: str
    cases: str
    opset: int
    versions: dict[str, str]
    stored: Storage
    """How the weights are stored; they are computed in float32."""
    sizes: dict[str, int]
    """Bytes of each graph's file."""
    float32: MaskAgreement
    bundle: MaskAgreement
    control: MaskAgreement


def list_mask_failures(proof: MaskProof, bounds: Mapping[str, float]) -> list[str]:
    """Why the graphs may not be used; empty when they may."""
    bad = [
        f"masks, {side}: {reason}"
        for side, found in (("float32", proof.float32), ("bundle", proof.bundle))
        for reason in list_disagreements(found, bounds)
    ]
    least = bounds["mask_control_iou"]
    control = proof.control
    if not (control.click.mean_iou < least and control.box.mean_iou < least):
        bad.append("masks: weights of another seed agree as well: the comparison proves nothing")
    return bad


def list_disagreements(found: MaskAgreement, bounds: Mapping[str, float]) -> list[str]:
    """How a candidate is beyond the bounds."""
    bad = []
    for name, row in found.rows.items():
        if not row.masks:
            bad.append(f"no masks of {name} were compared")
        elif not row.mean_iou >= bounds["mask_iou"]:  # NaN fails as well
            bad.append(f"{name}: mean IoU {row.mean_iou:.4f}, expected {bounds['mask_iou']}")
    if not found.max_abs_score_diff <= bounds["mask_score_diff"]:
        got = found.max_abs_score_diff
        bad.append(f"scores differ by {got:.2e}, allowed {bounds['mask_score_diff']}")
    return bad


def format_mask_agreement(name: str, found: MaskAgreement) -> str:
    """One line of a report."""
    rows = ", ".join(
        f"{kind} {row.mean_iou:.4f} (least {row.least_iou:.3f} of {row.masks})"
        for kind, row in found.rows.items()
    )
    return f"masks {name:<13} IoU {rows}; max|dscore| {found.max_abs_score_diff:.1e}"


def format_mask_proof(proof: MaskProof) -> list[str]:
    """The lines of a report."""
    named = {"float32": proof.float32, "bundle": proof.bundle, "other seed": proof.control}
    return [format_mask_agreement(name, found) for name, found in named.items()]
