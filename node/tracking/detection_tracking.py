"""Tracks detections: regions that come with every frame from a sender with its own masks.

The sender's ids identify regions. `association` matches those without ids: an unmatched detection
becomes a new region, and an unmatched region is lost until a similar detection appears nearby.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from ureca.datatypes import Frame, Mask, Refusal, RegionSeed
from ureca.errors import RegionError
from ureca.node.config import TrackerConfig
from ureca.node.config_checks import ID_PATTERN
from ureca.node.masks.color_histogram import I32, similarity
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.tracking.association import DetectionFeatures, affinity, extract_features, match
from ureca.node.tracking.track_registry import TrackedRegion, TrackRegistry

T = TypeVar("T")


class DetectionTracker:
    """Takes a frame's regions into the stream's."""

    def __init__(self, config: TrackerConfig, regions: TrackRegistry) -> None:
        self._config = config
        self._regions = regions

    def take(
        self, frame: Frame, seeds: Sequence[RegionSeed], bins: I32, *, now_ns: int
    ) -> list[Refusal]:
        """Follow the given regions onto `frame`, whose small picture has the colour `bins`; the
        seeds that were refused.
        """
        refused: list[Refusal] = []
        seen: set[str] = set()
        nameless = []
        for seed in seeds:
            if seed.rid is not None:
                start_or_refuse(partial(self._named, frame, seed, seen), seed, refused)
                continue
            mask = start_or_refuse(partial(seed_mask, seed, frame.image), seed, refused)
            if mask is not None:
                nameless.append((seed, mask))
        self._nameless(frame, nameless, bins, seen, refused)
        self._lose_unseen(frame, seen, refused, now_ns)
        return refused

    def _named(self, frame: Frame, seed: RegionSeed, seen: set[str]) -> None:
        mask = seed_mask(seed, frame.image)
        region = next((r for r in self._regions if r.is_given and r.sender_rid == seed.rid), None)
        if region is None:
            region = self._start(frame, seed, mask)
        elif region.track.rid in seen:
            raise RegionError(f"the frame lists region {seed.rid!r} twice")
        else:
            _pass(region, mask)
        seen.add(region.track.rid)

    def _nameless(
        self,
        frame: Frame,
        given: list[tuple[RegionSeed, Mask]],
        bins: I32,
        seen: set[str],
        refused: list[Refusal],
    ) -> None:
        known = [r for r in self._regions if r.is_given and r.features is not None]
        detections = [extract_features(mask, bins) for _, mask in given]
        partner = self._matched(known, detections)
        for number, ((seed, mask), features) in enumerate(zip(given, detections, strict=True)):
            region = partner.get(number)
            if region is None:
                region = start_or_refuse(partial(self._start, frame, seed, mask), seed, refused)
                if region is None:
                    continue
                region.features = features
            else:
                assert region.features is not None
                region.features = features if region.is_lost else features.after(region.features)
                _pass(region, mask)
            seen.add(region.track.rid)

    def _matched(
        self, known: list[TrackedRegion], detections: list[DetectionFeatures]
    ) -> dict[int, TrackedRegion]:
        """Regions by the number of the sight that continues them."""
        table = np.array(
            [[self._affinity(region, features) for features in detections] for region in known],
            np.float64,
        ).reshape(len(known), len(detections))
        pairs = match(table, least=self._config.same_region)
        return {column: known[row] for row, column in pairs}

    def _affinity(self, region: TrackedRegion, features: DetectionFeatures) -> float:
        assert region.features is not None
        missed = region.track.missed_frames
        if (
            missed
            and similarity(region.features.colours, features.colours)
            < self._config.recover_appearance
        ):
            return -1.0
        return affinity(region.features, features, missed=missed)

    def _start(self, frame: Frame, seed: RegionSeed, mask: Mask) -> TrackedRegion:
        region = self._regions.start(seed, mask)
        region.is_given = True
        return region

    def _lose_unseen(
        self, frame: Frame, seen: set[str], refused: list[Refusal], now_ns: int
    ) -> None:
        bad = {refusal.rid for refusal in (*frame.refused, *refused)}
        for region in self._regions:
            if not region.is_given or region.track.rid in seen:
                continue
            if region.is_lost:
                region.miss()
            else:
                is_bad = region.sender_rid is not None and region.sender_rid in bad
                region.lose("bad_region" if is_bad else "absent", now_ns)


def _pass(region: TrackedRegion, mask: Mask) -> None:
    region.see(mask)
    region.propagator = region.template = None


def start_or_refuse(start: Callable[[], T], seed: RegionSeed, refused: list[Refusal]) -> T | None:
    """What `start` returns, or None with the reason among `refused`."""
    try:
        return start()
    except RegionError as error:
        rid = seed.rid if seed.rid and ID_PATTERN.fullmatch(seed.rid) else None
        refused.append(Refusal(rid, str(error)))
        return None
