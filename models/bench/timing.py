"""Times methods in turn, frame by frame, so that other load on the machine slows all of them
alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ureca.models.bench.arms import Arm, ArmOutput, measure_equal_texts
from ureca.models.bench.roofline import Peaks, StageWork
from ureca.models.bench.scenes import BenchScene

_STAGES = {"prep": "prep", "vision": "vit", "prefix": "prefill", "regions": "region"}
"""Names here and in `StageTimes`; `decode` is what remains of a caption call (`gen`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRow:
    """One method with one number of regions; times are per frame."""

    arm: str
    runtime: str
    precision: str
    bundle: str
    regions: int
    frames: int
    ms_median: float
    ms_p95: float
    ms_p99: float
    """Of less than 100 frames nearly the maximum."""
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


def measure_arms(arms: Sequence[Arm], frames: Sequence[BenchScene]) -> list[TimingRow]:
    """Run every method on every frame; each frame begins with another method. One warm-up round."""
    for arm in arms:
        arm(frames[0])
    taken: list[list[tuple[float, ArmOutput]]] = [[] for _ in arms]
    for index, scene in enumerate(frames):
        taken[0].append(_time_arm(arms[0], scene))
        others = len(arms) - 1
        for number in (1 + (index + turn) % others for turn in range(others)):
            taken[number].append(_time_arm(arms[number], scene))
    reference = _find_reference(arms, taken)
    return [
        _make_row(arm, runs, taken[0], reference) for arm, runs in zip(arms, taken, strict=True)
    ]


def add_roofline(
    row: TimingRow, works: Mapping[str, StageWork], peaks: Peaks, threads: int
) -> TimingRow:
    """Return the row with its share of the machine's limits, for methods that report their
    stages.
    """
    shares = {
        name: round(work.bound_ms(peaks, threads) / row.stages_ms[name], 2)
        for name, work in works.items()
        if row.stages_ms.get(name)
    }
    return replace(row, roofline=shares)


def _time_arm(arm: Arm, scene: BenchScene) -> tuple[float, ArmOutput]:
    began_ns = time.perf_counter_ns()
    said = arm(scene)
    return (time.perf_counter_ns() - began_ns) / 1e6, said


def _find_reference(
    arms: Sequence[Arm], taken: Sequence[list[tuple[float, ArmOutput]]]
) -> list[ArmOutput]:
    exact = [number for number, arm in enumerate(arms) if arm.name == "eager"]
    return [said for _, said in taken[exact[0] if exact else 0]]


def _make_row(
    arm: Arm,
    runs: Sequence[tuple[float, ArmOutput]],
    shared: Sequence[tuple[float, ArmOutput]],
    reference: Sequence[ArmOutput],
) -> TimingRow:
    ms = np.array([elapsed for elapsed, _ in runs])
    base = np.array([elapsed for elapsed, _ in shared])
    captions = sum(len(said.tokens) for _, said in runs)
    same = [
        measure_equal_texts(said, other) for (_, said), other in zip(runs, reference, strict=True)
    ]
    return TimingRow(
        arm=arm.name,
        runtime=arm.runtime,
        precision=arm.precision,
        bundle=arm.bundle,
        regions=len(runs[0][1].tokens),
        frames=len(runs),
        ms_median=round(float(np.median(ms)), 2),
        ms_p95=round(float(np.percentile(ms, 95)), 2),
        ms_p99=round(float(np.percentile(ms, 99)), 2),
        captions_per_s=round(captions / ms.sum() * 1e3, 1),
        tokens_per_caption=round(sum(sum(said.tokens) for _, said in runs) / captions, 2),
        times_shared=round(float(np.median(ms / base)), 2),
        same_captions=round(float(np.mean(same)), 3),
        stages_ms=_compute_stage_medians([said.us for _, said in runs]),
    )


def _compute_stage_medians(runs: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Return medians in ms; empty for methods that do not report stages."""
    if not runs[0]:
        return {}
    medians = {key: float(np.median([us[key] for us in runs])) / 1e3 for key in runs[0]}
    named = {name: round(medians[key], 2) for name, key in _STAGES.items()}
    return {**named, "decode": round(medians["gen"], 2)}
