"""Writes frames and events into a Rerun recording.

Entities are under the stream's name: `image` (JPEG), `masks`, `boxes` (of the small picture),
`captions` (a log), `segments` (of whole frames, `ureca run --panoptic`), `latency/*`
(milliseconds). Timelines: `frame` (the number) and `capture` (Unix time).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bridges.node_follower import FollowedFrame
from ureca.client.panoptic_view import PanopticView, segment_text
from ureca.client.region_cache import CaptionRecord
from ureca.datatypes import Rle
from ureca.errors import WireError
from ureca.extras import require
from ureca.protocol import rle
from ureca.protocol.events import (
    AnyEvent,
    CaptionError,
    CaptionFinal,
    Heartbeat,
    Panoptic,
    TrackEnd,
)
from ureca.protocol.preview_messages import PictureRegion
from ureca.visualization.palette import COLOURS, STALE, Rgb, segment_colour

EXTRA = "rerun"
_MAX_NUMBERS = 65_535


class RerunLog:
    """One recording; `rerun` is the package, `recording` its `RecordingStream`."""

    def __init__(self, recording: Any) -> None:  # a RecordingStream; Rerun is optional
        self.pictures = 0
        self.captions = 0
        self.segments = 0
        self._rr: Any = require("rerun", extra=EXTRA)
        self._to = recording
        self._numbers: dict[tuple[str, str], int] = {}
        self._next = 0
        self._names: dict[str, dict[int, tuple[str, Rgb]]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._segments: dict[str, list[tuple[int, str, Rgb]]] = {}

    def sight(self, sight: FollowedFrame) -> None:
        """Log one frame with its regions."""
        picture, stream = sight.picture, sight.picture.stream
        if stream not in self._names:
            self._lay_out(stream)
        self._sizes[stream] = picture.h, picture.w
        self._to.set_time("frame", sequence=picture.seq)
        self._to.set_time("capture", timestamp=np.datetime64(sight.unix_ns, "ns"))
        image = self._rr.EncodedImage(contents=picture.jpeg, media_type="image/jpeg")
        self._to.log(f"{stream}/image", image)
        self._name(sight)
        self._to.log(f"{stream}/masks", self._rr.SegmentationImage(self._masks(sight)))
        self._to.log(f"{stream}/boxes", self._boxes(sight))
        self.pictures += 1

    def event(self, event: AnyEvent, shift_ns: int) -> None:
        """Log a caption with its times, a failed one, segments, or the counters."""
        if isinstance(event, CaptionFinal):
            self._final(event, shift_ns if event.clk == "mono" else 0)
        elif isinstance(event, CaptionError):
            text = f"{event.rid}: {event.code}: {event.msg}"
            self._to.log(f"{event.stream}/captions", self._rr.TextLog(text, level="ERROR"))
        elif isinstance(event, Panoptic):
            self._whole_frame(event, shift_ns if event.clk == "mono" else 0)
        elif isinstance(event, TrackEnd):
            self._numbers.pop((event.stream, event.rid), None)
        elif isinstance(event, Heartbeat):
            dropped = sum(n for name, n in event.counters.items() if name.startswith("drop_"))
            self._to.log("node/frames_dropped", self._rr.Scalars(float(dropped)))

    def _final(self, event: CaptionFinal, shift_ns: int) -> None:
        self._to.set_time("frame", sequence=event.src_seqs[-1])
        self._to.set_time("capture", timestamp=np.datetime64(event.captured_ns + shift_ns, "ns"))
        score = "" if event.score is None else f" ({event.score:.2f})"
        log = self._rr.TextLog(f"{event.rid}: {event.text}{score}", level="INFO")
        self._to.log(f"{event.stream}/captions", log)
        times = {"age_at_publication": event.age_at_pub_ms}
        times |= {stage: us / 1e3 for stage, us in event.stage_us.items()}
        for name, ms in times.items():
            self._to.log(f"{event.stream}/latency/{name}", self._rr.Scalars(ms))
        self.captions += 1

    def _whole_frame(self, event: Panoptic, shift_ns: int) -> None:
        """Log the segments of a keyframe in the size of the pictures, with what they are called."""
        stream = event.stream
        try:
            view = PanopticView.from_event(event)
        except WireError as error:
            self._to.log(f"{stream}/captions", self._rr.TextLog(str(error), level="ERROR"))
            return
        self._to.set_time("frame", sequence=event.seq)
        self._to.set_time("capture", timestamp=np.datetime64(event.captured_ns + shift_ns, "ns"))
        numbers = {one.rid: self._number(stream, one.rid) for one in view.segments}
        rows = [
            (numbers[one.rid], segment_text(one), segment_colour(numbers[one.rid], one.kind))
            for one in view.segments
        ]
        if rows != self._segments.get(stream):
            self._segments[stream] = rows
            names = self._rr.AnnotationContext([(0, "", (0, 0, 0, 0)), *rows])
            self._to.log(f"{stream}/segments", names)
        size = self._sizes.get(stream, (view.height, view.width))
        image = self._rr.SegmentationImage(view.region_map(numbers, size))
        self._to.log(f"{stream}/segments", image)
        self.segments += 1

    def _number(self, stream: str, rid: str) -> int:
        """The class id of a region: new for each, so that colours stay."""
        if (stream, rid) not in self._numbers:
            self._next = self._next % _MAX_NUMBERS + 1
            self._numbers[stream, rid] = self._next
        return self._numbers[stream, rid]

    def _name(self, sight: FollowedFrame) -> None:
        """Tell what the values of the masks mean, when that has changed."""
        stream = sight.picture.stream
        names = {
            self._number(stream, region.rid): self._look(sight, region, caption)
            for region, caption in sight.regions
        }
        if names != self._names[stream]:
            self._names[stream] = names
            rows = [(number, text, colour) for number, (text, colour) in names.items()]
            self._to.log(stream, self._rr.AnnotationContext([(0, "", (0, 0, 0, 0)), *rows]))

    def _look(
        self, sight: FollowedFrame, region: PictureRegion, caption: CaptionRecord | None
    ) -> tuple[str, Rgb]:
        number = self._number(sight.picture.stream, region.rid)
        text = region.rid if caption is None else caption.text
        stale = region.mask is None or (caption is not None and not sight.holds(caption))
        return text, STALE if stale else COLOURS[number % len(COLOURS)]

    def _masks(self, sight: FollowedFrame) -> npt.NDArray[np.uint16]:
        picture = sight.picture
        values = np.zeros((picture.h, picture.w), np.uint16)
        masks = [
            (rle.decode(Rle(r.mask.size, r.mask.counts)), self._number(picture.stream, r.rid))
            for r, _ in sight.regions
            if r.mask is not None
        ]
        for mask, number in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            values[mask] = number
        return values

    def _boxes(self, sight: FollowedFrame) -> Any:
        picture = sight.picture
        scale = np.array([picture.w / picture.width, picture.h / picture.height] * 2)
        boxes = [np.array(region.box) * scale for region, _ in sight.regions]
        numbers = [self._number(picture.stream, region.rid) for region, _ in sight.regions]
        return self._rr.Boxes2D(
            array=np.array(boxes).reshape(-1, 4),
            array_format=self._rr.Box2DFormat.XYXY,
            class_ids=numbers,
            labels=[self._look(sight, region, caption)[0] for region, caption in sight.regions],
        )

    def _lay_out(self, stream: str) -> None:
        """Picture and words side by side, times below."""
        self._names[stream] = {}
        views = require("rerun.blueprint", extra=EXTRA)
        rows = [
            views.Horizontal(
                views.Spatial2DView(origin=name, name=name),
                views.TextLogView(origin=f"{name}/captions", name=f"captions of {name}"),
            )
            for name in self._names
        ]
        times = views.TimeSeriesView(
            origin="/", contents=[f"/{name}/latency/**" for name in self._names], name="latency, ms"
        )
        self._to.send_blueprint(views.Blueprint(views.Vertical(*rows, times)))
