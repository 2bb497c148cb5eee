"""Arms in turns, frame by frame, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ureca.models.bench.arms import Arm, ArmOutput, same_texts
from ureca.models.bench.roofline import Peaks, Work
from ureca.models.bench.scenes import BenchScene

_STAGES = {"prep": "prep", "vision": "vit", "prefix": "prefill", "regions": "region"}
"""Names here and in `StageTimes`; `decode` is what remains of a caption call (`gen`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRow:
    """One arm with one number of regions; times are per frame."""

    arm: str
    runtime: str
    precision: str
    bundle: str
    regions: int
    frames: int
    ms_median: float
    ms_p95: float
    captions_per_s: float
    tokens_per_caption: float
    times_shared: float
    """Median over frames of this arm's time / that of the first `shared` arm: pairs run back to
    back, so trust this before the milliseconds.
    """
    same_captions: float
    """Share of its captions that equal the reference's: `eager` if it ran, else the first arm."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    roofline: dict[str, float] = field(default_factory=dict)
    """By stage: the bound of the float32 roofline / the measured median."""


def measure(arms: Sequence[Arm], frames: Sequence[BenchScene]) -> list[TimingRow]:
    """Every arm on every frame, each frame beginning with another arm. One warm-up round."""
    for arm in arms:
        arm(frames[0])
    taken: list[list[tuple[float, ArmOutput]]] = [[] for _ in arms]
    for index, scene in enumerate(frames):
        taken[0].append(_run(arms[0], scene))
        others = len(arms) - 1
        for number in (1 + (index + turn) % others for turn in range(others)):
            taken[number].append(_run(arms[number], scene))
    reference = _reference(arms, taken)
    return [_row(arm, runs, taken[0], reference) for arm, runs in zip(arms, taken, strict=True)]


def with_roofline(
    row: TimingRow, works: Mapping[str, Work], peaks: Peaks, threads: int
) -> TimingRow:
    """The row with its share of the machine's limits, for arms that know their stages."""
    shares = {
        name: round(work.bound_ms(peaks, threads) / row.stages_ms[name], 2)
        for name, work in works.items()
        if row.stages_ms.get(name)
    }
    return replace(row, roofline=shares)


def _run(arm: Arm, scene: BenchScene) -> tuple[float, ArmOutput]:
    began_ns = time.perf_counter_ns()
    said = arm(scene)
    return (time.perf_counter_ns() - began_ns) / 1e6, said


def _reference(
    arms: Sequence[Arm], taken: Sequence[list[tuple[float, ArmOutput]]]
) -> list[ArmOutput]:
    exact = [number for number, arm in enumerate(arms) if arm.name == "eager"]
    return [said for _, said in taken[exact[0] if exact else 0]]


def _row(
    arm: Arm,
    runs: Sequence[tuple[float, ArmOutput]],
    shared: Sequence[tuple[float, ArmOutput]],
    reference: Sequence[ArmOutput],
) -> TimingRow:
    ms = np.array([elapsed for elapsed, _ in runs])
    base = np.array([elapsed for elapsed, _ in shared])
    captions = sum(len(said.tokens) for _, said in runs)
    same = [same_texts(said, other) for (_, said), other in zip(runs, reference, strict=True)]
    return TimingRow(
        arm=arm.name,
        runtime=arm.runtime,
        precision=arm.precision,
        bundle=arm.bundle,
        regions=len(runs[0][1].tokens),
        frames=len(runs),
        ms_median=round(float(np.median(ms)), 2),
        ms_p95=round(float(np.percentile(ms, 95)), 2),
        captions_per_s=round(captions / ms.sum() * 1e3, 1),
        tokens_per_caption=round(sum(sum(said.tokens) for _, said in runs) / captions, 2),
        times_shared=round(float(np.median(ms / base)), 2),
        same_captions=round(float(np.mean(same)), 3),
        stages_ms=_stages([said.us for _, said in runs]),
    )


def _stages(runs: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Medians in ms; empty for arms that do not tell."""
    if not runs[0]:
        return {}
    medians = {key: float(np.median([us[key] for us in runs])) / 1e3 for key in runs[0]}
    named = {name: round(medians[key], 2) for name, key in _STAGES.items()}
    return {**named, "decode": round(medians["gen"], 2)}
