r"""Measures what the node's choice of words changes (`docs/captions.md`): votes and parts.

    python tools/caption_choice.py --bundle models/pretrained/ureca-nano \\
        --worlds runs/worlds-dev --videos ../shared/data/videos

Rendered views: every region of a view is captioned in one batch, as the node does, and judged by
the scene. Clips: the object's true mask in every fourth frame is one look.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from ureca.clock import ManualClock
from ureca.datatypes import Frame, Image, Mask, RegionRequest, Rle, Trigger
from ureca.engine import Engine
from ureca.models.data.regions import ImageStore, read_regions
from ureca.models.evaluation.measures import flicker, scenes
from ureca.models.evaluation.test_set import EvaluationCase
from ureca.models.runtime.load import load_engine
from ureca.node.captioning.batch import CaptionBatch
from ureca.node.captioning.batch_captioner import CaptionWriter
from ureca.node.config import CaptionConfig
from ureca.protocol import rle
from ureca.protocol.events import AnyEvent, CaptionFinal

PLAIN = CaptionConfig(vote_looks=1, parts_take_whole=False, person_words="full", ttl_ms=10**9)
Look = tuple[Image, list[tuple[str, Mask]]]


def caption(engine: Engine, config: CaptionConfig, looks: Sequence[Look]) -> list[dict[str, str]]:
    """The published caption of every region, look by look, of one stream."""
    writer, found = CaptionWriter(engine, config, ManualClock()), []
    for number, (image, regions) in enumerate(looks):
        frame = Frame("cam0", bytes(16), seq=number, captured_ns=number, image=image)
        events: list[AnyEvent] = []
        for first in range(0, len(regions), engine.info.max_regions):
            batch = regions[first : first + engine.info.max_regions]
            requests = [_request(name, mask, number, n) for n, (name, mask) in enumerate(batch)]
            writer.write(CaptionBatch(frame, tuple(requests)), events.append)
        found.append({e.rid: e.text for e in events if isinstance(e, CaptionFinal)})
    return found


def _request(name: str, mask: Mask, number: int, slot: int) -> RegionRequest:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return RegionRequest(
        request_id=1000 * number + slot,
        stream="cam0",
        rid=name,
        rev=number,
        frame_seq=number,
        mask=mask,
        box_xyxy_px=box,
        trigger=Trigger.NEW if number == 0 else Trigger.REFRESH,
        deadline_ns=10**18,
    )


def measure_parts(engine: Engine, root: Path, limit: int) -> Iterator[dict[str, object]]:
    """Judgements of rendered views, with parts as the engine says them and with their whole's."""
    records = [r for path in sorted(root.glob("regions-*")) for r in read_regions(path)]
    images = ImageStore([root / "images"])
    by_view = [(key, list(rows)) for key, rows in groupby(records, lambda r: r.image_key)][:limit]
    views = scenes.read_views(scenes.list_scene_files(root), {key for key, _ in by_view})
    for title, config in (("own words", PLAIN), ("of the whole", _with_wholes())):
        captions: dict[str, str] = {}
        for key, rows in by_view:
            regions = [(r.region_id, rle.decode(Rle((r.height, r.width), r.counts))) for r in rows]
            captions.update(caption(engine, config, [(images.read(key), regions)])[0])
        cases = [EvaluationCase(r) for _, rows in by_view for r in rows]
        judged = scenes.judge_all(cases, captions, views)
        for name, figures in scenes.compute_slot_figures(judged).items():
            yield {"parts": title, "of": name, **figures}


def _with_wholes() -> CaptionConfig:
    return replace(PLAIN, parts_take_whole=True)


def measure_votes(engine: Engine, folder: Path, limit: int | None) -> Iterator[dict[str, object]]:
    """How often the words of true masks change from look to look, by the number of votes."""
    clips = [flicker.AnnotatedClip(path) for path in flicker.list_clips(folder)[:limit]]
    for looks in (1, 3, 5, 8):
        config = replace(PLAIN, vote_looks=looks)
        found = []
        for clip in clips:
            masks = {f: mask for f in clip.frames()[::4] if (mask := clip.mask(f)) is not None}
            shown = [(clip.image(frame), [("r", mask)]) for frame, mask in masks.items()]
            texts = [one["r"] for one in caption(engine, config, shown) if "r" in one]
            found.append(flicker.ClipCaptions(clip.name, tuple(masks), tuple(texts)))
        yield {"votes": looks, **flicker.measure_flicker(found)["all"]}


def main() -> None:
    """Print one JSON object a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--worlds", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--limit", type=int, default=None, help="views and clips at most")
    options = parser.parse_args()
    engine = load_engine(options.bundle)
    if options.worlds:
        for row in measure_parts(engine, options.worlds, options.limit or 10**9):
            print(json.dumps(row), flush=True)
    if options.videos:
        for row in measure_votes(engine, options.videos, options.limit):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
