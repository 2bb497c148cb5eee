"""Learning curves of a run's stages in one small PNG: `tools/curves.py LOG... -o curves.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    """Draw training and held-out loss over the captioned pictures of all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="log.jsonl of each stage, in order")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(8, 4), dpi=80)
    start = 0.0
    for log in options.logs:
        start = _stage(axes, log, start)
    axes.set(xlabel="steps of all stages", ylabel="loss (nats per token; stages differ in data)")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.out)


def _stage(axes: plt.Axes, log: Path, start: float) -> float:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [start + row["step"] for row in rows]
    axes.plot(
        steps, [row["held_out_loss"] for row in rows], "o-", ms=3, label=f"{log.stem} held out"
    )
    axes.axvline(steps[-1], color="grey", lw=0.5)
    return steps[-1]


if __name__ == "__main__":
    main()
