"""`ureca panoptic --coco DIR`: the maps of a running node, or of a recording, in COCO's format.

A region has one id in all maps, so that the file can be judged over time
(`ureca eval panoptic --video`). A map's words are those that are known when the next map comes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ureca.client.client import Client
from ureca.client.panoptic_view import PanopticView
from ureca.client.region_numbers import RegionNumbers
from ureca.errors import SourceError
from ureca.models.runtime.segmentation.panoptic.coco_format import (
    encode_segment_png,
    make_box,
    write_coco_json,
)
from ureca.node.recording.reader import read as read_recording
from ureca.protocol.events import AnyEvent, CaptionError, CaptionFinal, NamedSegment, Panoptic
from ureca.security.keys import keys_of

_POLL_S = 0.2
_KINDS = frozenset({"panoptic", "caption.final", "caption.error"})
_NO_CAPTION = "no caption before the next map"
Json = dict[str, Any]  # JSON values


class MapWriter:
    """Writes maps of one stream: `OUT/panoptic/STREAM-SEQ.png`, and at its end
    `OUT/panoptic.json`.
    """

    def __init__(self, out: Path, stream: str | None) -> None:
        self._out, self._stream = out, stream
        self._numbers = RegionNumbers()
        self._words: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._waiting: PanopticView | None = None
        self._images: list[Json] = []
        self._annotations: list[Json] = []
        (out / "panoptic").mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        """Maps that were written."""
        return len(self._images)

    def take(self, event: AnyEvent) -> None:
        """Take a map, or words of its regions; events of other streams are left out. Without a
        stream's name it is that of the first map.
        """
        if isinstance(event, CaptionFinal):
            if self._stream in {None, event.stream}:
                self._words[event.rid] = event.text
        elif isinstance(event, CaptionError):
            if self._stream in {None, event.stream}:
                self._reasons[event.rid] = event.code
        elif isinstance(event, Panoptic) and self._stream in {None, event.stream}:
            self._stream = event.stream
            self._write_waiting()
            self._waiting = PanopticView.from_event(event)

    def close(self) -> Path | None:
        """Write the last map and the JSON; returns its path, None without any map."""
        self._write_waiting()
        if not self._images:
            return None
        path = self._out / "panoptic.json"
        write_coco_json(path, self._images, self._annotations)
        return path

    def _write_waiting(self) -> None:
        if (view := self._waiting) is None:
            return
        self._waiting = None
        numbers = self._numbers.add(one.rid for one in view.segments)
        ids = view.region_map(numbers, (view.height, view.width))
        name = f"{view.stream}-{view.seq:06d}.png"
        (self._out / "panoptic" / name).write_bytes(encode_segment_png(ids))
        self._images.append(
            {
                "id": len(self._images) + 1,
                "file_name": name,
                "width": view.width,
                "height": view.height,
                "video_id": 0,
                "frame_id": view.seq,
                "captured_ns": view.captured_ns,
            }
        )
        rows = [self._make_row(one, numbers[one.rid], ids) for one in view.segments]
        self._annotations.append(
            {
                "image_id": len(self._images),
                "file_name": name,
                "segments_info": [row for row in rows if row["area"]],
            }
        )

    def _make_row(self, segment: NamedSegment, number: int, ids: Any) -> Json:
        mask = np.asarray(ids == number, np.bool_)
        text = self._words.get(segment.rid) or segment.caption or ""
        reason = "" if text else self._reasons.get(segment.rid, _NO_CAPTION)
        return {
            "id": number,
            "rid": segment.rid,
            "category_id": 1 if segment.kind == "thing" else 2,
            "isthing": int(segment.kind == "thing"),
            "iscrowd": 0,
            "area": int(np.count_nonzero(mask)),
            "bbox": make_box(mask),
            **({"score": segment.score} if segment.score is not None else {}),
            "description": text,
            **({"reason": reason} if reason else {}),
        }


def write_maps(options: argparse.Namespace) -> int:
    """`--coco DIR`: of a running node until Ctrl-C or `--duration`, or of `--recording`. Returns 1
    when there was no map.
    """
    writer = MapWriter(Path(options.coco), options.stream)
    try:
        if options.recording:
            _take_all(writer, _read_events(Path(options.recording)))
        else:
            with Client.connect(options.events, options.requests, keys=keys_of(options)) as client:
                _take_all(writer, _follow(client, options.duration))
    except KeyboardInterrupt:
        pass  # the usual end of a live run
    finally:
        path = writer.close()
    if path is None:
        sys.stderr.write("ureca panoptic: no map; does the node run with --panoptic?\n")
        return 1
    sys.stdout.write(f"{path}: {len(writer)} maps\n")
    return 0


def _take_all(writer: MapWriter, events: Iterable[AnyEvent]) -> None:
    before = 0
    for event in events:
        writer.take(event)
        if len(writer) > before:
            before = len(writer)
            sys.stderr.write(f"\r{before} maps")
            sys.stderr.flush()
    sys.stderr.write("\n" if before else "")


def _follow(client: Client, duration_s: float | None) -> Iterator[AnyEvent]:
    until = None if duration_s is None else time.monotonic() + duration_s
    while until is None or time.monotonic() < until:
        for event in client.events(kinds=_KINDS, timeout_s=_POLL_S):
            yield event
            if until is not None and time.monotonic() >= until:
                return


def _read_events(path: Path) -> list[AnyEvent]:
    recording = read_recording(path)
    if not recording.events:
        raise SourceError(f"{path} holds no events")
    return recording.events
