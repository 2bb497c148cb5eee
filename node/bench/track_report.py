"""The table of `ureca bench track`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ureca.node.bench.track import MODES, TrackRow


def table(rows: Sequence[TrackRow]) -> str:
    """A Markdown table: J, F and their mean per clip and mode, and the means over all clips."""
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    found = {(row.clip, row.mode): row for row in rows}
    clips = sorted({row.clip for row in rows})
    lines = [
        "| clip | frames | " + " | ".join(f"{mode} J / F / J&F" for mode in modes) + " |",
        "|---|---:|" + "---|" * len(modes),
    ]
    for clip in clips:
        known = [found.get((clip, mode)) for mode in modes]
        frames = next(row.frames for row in known if row is not None)
        lines.append(f"| {clip} | {frames} | " + " | ".join(map(_cell, known)) + " |")
    means = [_mean([row for row in rows if row.mode == mode]) for mode in modes]
    total = sum(next(row.frames for row in rows if row.clip == clip) for clip in clips)
    lines.append(f"| **mean of {len(clips)}** | {total} | " + " | ".join(means) + " |")
    lines += ["", *[_costs(mode, [row for row in rows if row.mode == mode]) for mode in modes]]
    return "\n".join(lines)


def _cell(row: TrackRow | None) -> str:
    return "" if row is None else f"{row.j:.3f} / {row.f:.3f} / {(row.j + row.f) / 2:.3f}"


def _mean(rows: Sequence[TrackRow]) -> str:
    j, f = float(np.mean([row.j for row in rows])), float(np.mean([row.f for row in rows]))
    return f"**{j:.3f} / {f:.3f} / {(j + f) / 2:.3f}**"


def _costs(mode: str, rows: Sequence[TrackRow]) -> str:
    frames, keys = sum(row.frames for row in rows), sum(row.keyframes for row in rows)
    frame_ms = sum(row.frame_ms * row.frames for row in rows) / frames
    text = f"- {mode}: {frame_ms:.0f} ms of one core per frame for following"
    if keys:
        encode_ms = sum(row.encode_ms * row.keyframes for row in rows) / keys
        decode_ms = sum(row.decode_ms * row.keyframes for row in rows) / keys
        text += f", {keys} keyframes, each {encode_ms:.0f} ms to encode, {decode_ms:.0f} ms to cut"
    lost, wrong = sum(row.lost for row in rows), sum(row.hallucinated for row in rows)
    hidden, off = sum(row.present_lost for row in rows), sum(row.off_target for row in rows)
    return (
        f"{text}; without a mask on {lost} of {frames} frames, hallucinated on {wrong}, "
        f"lost although present on {hidden}, alive at an IoU below .1 on {off}"
    )
