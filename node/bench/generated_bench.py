"""`ureca bench track --generated`: regions on generated clips, and whether they tell the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ureca.datatypes import Mask, RegionSeed
from ureca.node.bench.generated_scenes import GeneratedClip, generate
from ureca.node.bench.presence import Presence, judge
from ureca.node.config import TrackerConfig
from ureca.node.tracking.tracker import Tracker
from ureca.protocol.rle import encode

RECOVERY_FRAMES = 24
"""A return within so many frames, one second, counts as recovered."""


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """One region of one generated clip."""

    clip: str
    kind: str
    rid: str
    presence: Presence

    def to_json(self) -> dict[str, Any]:
        """Builtins only."""
        return {"clip": self.clip, "kind": self.kind, "rid": self.rid, **asdict(self.presence)}


def measure_generated(
    clips: Sequence[Path], kinds: Sequence[str], seeds: Sequence[int]
) -> list[PresenceRow]:
    """Follow the regions of each kind and seed by flow alone, each given once, and judge them."""
    rows = []
    for kind in kinds:
        for seed in seeds:
            clip = generate(clips, kind, seed)
            for rid, masks in follow(clip).items():
                others = [truth for other, truth in clip.truths.items() if other != rid]
                presence = judge(masks, clip.truths[rid], clip.shares[rid], others)
                rows.append(PresenceRow(clip.name, kind, rid, presence))
    return rows


def follow(
    clip: GeneratedClip, config: TrackerConfig | None = None
) -> dict[str, list[Mask | None]]:
    """The mask of each region on each frame, None while it is lost or has ended."""
    tracker = Tracker(config or TrackerConfig(), max_regions=len(clip.truths), has_segmenter=False)
    masks: dict[str, list[Mask | None]] = {rid: [] for rid in clip.truths}
    for frame in clip.frames:
        seeds = []
        if frame.seq == 0:
            seeds = [RegionSeed(rid=rid, mask=encode(t[0])) for rid, t in clip.truths.items()]
        tracks = tracker.update(frame, seeds, now_ns=frame.captured_ns).tracks.tracks
        seen = {track.rid: track.mask for track in tracks}
        for rid, found in masks.items():
            found.append(seen.get(rid))
    return masks


def presence_table(rows: Sequence[PresenceRow]) -> str:
    """A Markdown table: one row for each kind, and all of them."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    columns = [
        "kind",
        "regions",
        "absent but tracked",
        "alive at IoU < .1",
        "present but lost",
        "on another's object",
        "frames to lost: median (never)",
        f"back within {RECOVERY_FRAMES} frames",
        "IoU where present",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += [_line(kind, [r.presence for r in rows if r.kind == kind]) for kind in kinds]
    return "\n".join([*lines, _line("**all**", [row.presence for row in rows])])


def _line(name: str, found: Sequence[Presence]) -> str:
    frames = sum(one.frames for one in found)
    lost = [delay for one in found for delay in one.lost_after]
    back = [delay for one in found for delay in one.back_after]
    shares = [
        sum(one.absent_tracked for one in found) / frames,
        sum(one.off_target for one in found) / frames,
        sum(one.present_lost for one in found) / frames,
        sum(one.swapped for one in found) / frames,
    ]
    cells = [f"{100 * share:.1f} %" for share in shares]
    return (
        f"| {name} | {len(found)} | "
        + " | ".join([*cells, _lost(lost), _back(back), f"{np.mean([one.j for one in found]):.3f}"])
        + " |"
    )


def _lost(delays: Sequence[int | None]) -> str:
    if not delays:
        return "-"
    never = sum(one is None for one in delays)
    median = float(np.median([np.inf if one is None else one for one in delays]))
    return f"{median:.0f} ({never} of {len(delays)})"


def _back(delays: Sequence[int | None]) -> str:
    if not delays:
        return "-"
    quick = sum(one is not None and one <= RECOVERY_FRAMES for one in delays)
    return f"{quick} of {len(delays)}"
