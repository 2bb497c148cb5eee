"""Aggregates samples to a row of the report. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ureca.node.bench.caption_age import ages, first_captions
from ureca.node.bench.intervals import F64, Summary, slope, summary
from ureca.node.bench.resource_usage import Usage
from ureca.node.bench.run import Raw
from ureca.node.bench.subscriber import ReceivedEvent

INSIDE = frozenset({"ttft", "region"})
"""Stage times that are part of another one (`gen`), so they do not belong into a sum."""
_ORDER = ("link", "track", "wait", "prep", "vit", "prefill", "gen", "pub")
NOT_MEASURED = "not measured"


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """One caption; times since the start of the load, in seconds and milliseconds."""

    at_s: float
    c2c_ms: float
    ttfd_ms: float | None
    trigger: str
    rid: str
    stage_us: dict[str, int]


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One plan's figures. Durations are milliseconds, captures of the measured time only."""

    plan: dict[str, Any]
    model: str
    precision: str
    c2c_ms: dict[str, Summary]
    ttfd_ms: dict[str, Summary]
    stages_ms: dict[str, Summary]
    age_ms: Summary
    without_caption: float
    """Share of region-time without a caption that is still valid."""
    first_caption_ms: Summary
    warm_up_c2c_ms: Summary
    frames: dict[str, Any]
    texts: dict[str, float]
    """Answers to standing texts in the measured time: per second, and how many were found."""
    panoptic: dict[str, Any]
    """Maps of whole frames in the measured time: per second, their age when a subscriber has them,
    the segmenter's stages, segments of each."""
    captions: dict[str, Any]
    node: dict[str, Any]
    joule_per_caption: float | str
    start_ms: dict[str, float | None]
    subscribers: list[dict[str, Any]]
    sender_late_ms: Summary
    load_average: tuple[float, ...]
    books_balance: bool
    raw: dict[str, Any]


def row(raw: Raw) -> BenchRow:
    """All figures of a run; those of captions are of the first subscriber."""
    samples = raw.heard[0].samples
    finals = captions(samples, raw.start_ns)
    begin, end = raw.plan.warm_up_s, raw.plan.warm_up_s + raw.plan.duration_s
    measured = [final for final in finals if begin <= final.at_s < end]
    points, without = ages(samples, start_ns=raw.start_ns, begin_s=begin, end_s=end)
    usage = [u for u in raw.usage if begin <= (u.at_ns - raw.start_ns) / 1e9 <= end]
    counted = Counter(s.kind for s in _within(samples, raw.start_ns, begin, end))
    return BenchRow(
        plan=msgspec.to_builtins(raw.plan),
        model=raw.model,
        precision=raw.precision,
        c2c_ms=_by_trigger(measured, [final.c2c_ms for final in measured]),
        ttfd_ms=_first_texts(measured),
        stages_ms=stages(measured),
        age_ms=summary(points[:, 1]),
        without_caption=round(without, 4),
        first_caption_ms=summary(first_captions(samples)),
        warm_up_c2c_ms=summary([final.c2c_ms for final in finals if final.at_s < begin]),
        frames=_frames(samples, raw, begin, end),
        texts=_texts(samples, raw, begin, end),
        panoptic=_maps(list(_within(samples, raw.start_ns, begin, end)), raw.plan.duration_s),
        captions={
            "per_s": round(len(measured) / raw.plan.duration_s, 2),
            "per_batch": round(len(measured) / max(1, len({f.at_s for f in measured})), 2),
            "final": len(measured),
            **{kind: counted[f"caption.{kind}"] for kind in ("same", "abort", "error")},
        },
        node=_node(usage, raw),
        joule_per_caption=_energy(usage, counted["caption.final"]),
        start_ms={"ready": round(raw.ready_ms, 1), "first_caption": _first_after(samples, raw)},
        subscribers=[_subscriber(heard.samples, heard.missed, raw) for heard in raw.heard],
        sender_late_ms=summary([late / 1e3 for late in raw.sent.late_us]),
        load_average=raw.load_average,
        books_balance=_balance(samples),
        raw={
            "finals": msgspec.to_builtins(measured),
            "ages": np.round(points, 3).tolist(),
            "usage": [[(u.at_ns - raw.start_ns) / 1e9, u.cpu_s, u.rss_bytes] for u in raw.usage],
            "sender_late_us": list(raw.sent.late_us),
        },
    )


def captions(samples: Iterable[ReceivedEvent], start_ns: int) -> list[Final]:
    """Each caption once, however often it is repeated for late joiners."""
    first_text: dict[int, int] = {}
    found: dict[int, Final] = {}
    for sample in samples:
        if sample.kind == "caption.delta":
            first_text.setdefault(sample.request_id, sample.at_ns)
        elif sample.kind == "caption.final" and sample.request_id not in found:
            text_ns = first_text.get(sample.request_id)
            found[sample.request_id] = Final(
                at_s=(sample.captured_ns - start_ns) / 1e9,
                c2c_ms=(sample.at_ns - sample.captured_ns) / 1e6,
                ttfd_ms=None if text_ns is None else (text_ns - sample.captured_ns) / 1e6,
                trigger=sample.trigger,
                rid=sample.rid,
                stage_us=sample.stage_us,
            )
    return list(found.values())


def stages(finals: Sequence[Final]) -> dict[str, Summary]:
    """The durations of the stages; their means add up to the mean of capture-to-caption.

    `residual` belongs to no stage: delivery, decoding, and work that the node does not measure.
    """
    names = {name for final in finals for name in final.stage_us if name not in INSIDE}
    ordered = [name for name in _ORDER if name in names] + sorted(names - set(_ORDER))
    claimed = {name: [final.stage_us.get(name, 0) / 1e3 for final in finals] for name in ordered}
    totals = np.sum([claimed[name] for name in ordered], axis=0) if ordered else 0.0
    rest = np.asarray([final.c2c_ms for final in finals]) - totals
    return {**{name: summary(ms) for name, ms in claimed.items()}, "residual": summary(rest)}


def series(raw: Mapping[str, Any]) -> dict[str, F64]:
    """The raw samples of a report's row as [n, 2] arrays of seconds and milliseconds."""
    finals = raw["finals"]
    return {
        "c2c_ms": _pairs((f["at_s"], f["c2c_ms"]) for f in finals),
        "ttfd_ms": _pairs((f["at_s"], f["ttfd_ms"]) for f in finals if f["ttfd_ms"] is not None),
        "age_ms": _pairs(raw["ages"]),
    }


def _pairs(values: Iterable[Sequence[float]]) -> F64:
    return np.asarray(list(values), np.float64).reshape(-1, 2)


def _by_trigger(finals: Sequence[Final], values: Sequence[float]) -> dict[str, Summary]:
    triggers = sorted({final.trigger for final in finals})
    groups = {
        name: [v for f, v in zip(finals, values, strict=True) if f.trigger == name]
        for name in triggers
    }
    return {"all": summary(values), **{name: summary(group) for name, group in groups.items()}}


def _first_texts(finals: Sequence[Final]) -> dict[str, Summary]:
    streamed = [final for final in finals if final.ttfd_ms is not None]
    return _by_trigger(streamed, [final.ttfd_ms or 0.0 for final in streamed])


def _frames(samples: Sequence[ReceivedEvent], raw: Raw, begin: float, end: float) -> dict[str, Any]:
    """The node's counters over the measured time, and over all against what was sent."""
    beats = [s for s in samples if s.kind == "heartbeat" and s.counters]
    inside = list(_within(beats, raw.start_ns, begin, end))
    last = beats[-1].counters if beats else {}
    gained = _gained(inside)
    seconds = (inside[-1].at_ns - inside[0].at_ns) / 1e9 if len(inside) > 1 else 0.0
    dropped = {key[5:]: n for key, n in gained.items() if key.startswith("drop_") and n}
    return {
        "sent": raw.sent.frames,
        "in": last.get("frames_in", 0),
        "never_seen": raw.sent.frames - last.get("frames_in", 0),
        "measured_in": gained.get("frames_in", 0),
        "measured_processed": gained.get("frames_processed", 0),
        "measured_dropped": dropped,
        "processed_per_s": round(gained.get("frames_processed", 0) / seconds, 2)
        if seconds
        else 0.0,
    }


def _texts(
    samples: Sequence[ReceivedEvent], raw: Raw, begin: float, end: float
) -> dict[str, float]:
    beats = [s for s in samples if s.kind == "heartbeat" and s.counters]
    inside = list(_within(beats, raw.start_ns, begin, end))
    gained = _gained(inside)
    seconds = (inside[-1].at_ns - inside[0].at_ns) / 1e9 if len(inside) > 1 else 0.0
    ends = {end: gained.get(f"text_{end}", 0) for end in ("found", "absent", "error", "abort")}
    per_s = (ends["found"] + ends["absent"]) / seconds if seconds else 0.0
    return {"per_s": round(per_s, 2), **ends}


def _maps(samples: Sequence[ReceivedEvent], seconds: float) -> dict[str, Any]:
    maps = [sample for sample in samples if sample.kind == "panoptic"]
    names = list(dict.fromkeys(name for one in maps for name in one.stage_us))
    return {
        "passes": len(maps),
        "per_s": round(len(maps) / seconds, 2),
        "age_ms": summary([(one.at_ns - one.captured_ns) / 1e6 for one in maps]),
        "segments": summary([float(one.segments) for one in maps]),
        "stages_ms": {
            name: summary([one.stage_us[name] / 1e3 for one in maps if name in one.stage_us])
            for name in names
        },
    }


def _gained(beats: Sequence[ReceivedEvent]) -> dict[str, int]:
    if len(beats) < 2:
        return {}
    first, last = beats[0].counters, beats[-1].counters
    return {key: value - first.get(key, 0) for key, value in last.items()}


def _balance(samples: Sequence[ReceivedEvent]) -> bool:
    """Whether the last heartbeat, sent after the drain, has nothing open."""
    last = next((s.counters for s in reversed(samples) if s.kind == "heartbeat"), {})
    return last.get("frames_in_flight", -1) == 0 == last.get("requests_in_flight", -1)


def _node(usage: Sequence[Usage], raw: Raw) -> dict[str, Any]:
    if len(usage) < 2:
        return {"exit_code": raw.exit_code}
    seconds = (usage[-1].at_ns - usage[0].at_ns) / 1e9
    minutes = [(u.at_ns - raw.start_ns) / 60e9 for u in usage]
    trend = slope(minutes, [u.rss_bytes / 1e6 for u in usage])
    return {
        "exit_code": raw.exit_code,
        "cpu_cores": round((usage[-1].cpu_s - usage[0].cpu_s) / seconds, 3),
        "rss_mb": round(usage[-1].rss_bytes / 1e6, 1),
        "rss_slope_mb_per_min": None if trend is None else round(trend[0], 3),
        "rss_slope_ci95": None if trend is None else round(trend[1], 3),
        "threads": [usage[0].threads, usage[-1].threads],
    }


def _energy(usage: Sequence[Usage], count: int) -> float | str:
    """Joules of the whole host per caption, idle power included."""
    read = [u.energy_uj for u in usage]
    if len(read) < 2 or read[0] is None or read[-1] is None or not count:
        return NOT_MEASURED
    spent = read[-1] - read[0]
    return round(spent / 1e6 / count, 3) if spent >= 0 else f"{NOT_MEASURED}: a counter wrapped"


def _subscriber(samples: Sequence[ReceivedEvent], missed: int, raw: Raw) -> dict[str, Any]:
    begin, end = raw.plan.warm_up_s, raw.plan.warm_up_s + raw.plan.duration_s
    found = [f for f in captions(samples, raw.start_ns) if begin <= f.at_s < end]
    late = msgspec.to_builtins(summary([final.c2c_ms for final in found]))
    return {"missed": missed, "c2c_ms": late}


def _first_after(samples: Sequence[ReceivedEvent], raw: Raw) -> float | None:
    first = next((s.at_ns for s in samples if s.kind == "caption.final"), None)
    return None if first is None else round((first - raw.spawned_ns) / 1e6, 1)


def _within(
    samples: Iterable[ReceivedEvent], start_ns: int, begin: float, end: float
) -> Iterable[ReceivedEvent]:
    return (s for s in samples if begin <= (s.at_ns - start_ns) / 1e9 < end)
