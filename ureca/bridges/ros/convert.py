"""What the node sees, as ROS messages. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ureca.bridges.node_follower import FollowedFrame
from ureca.bridges.ros.messages import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    Header,
    Image,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
    String,
    Time,
    VisionClass,
)
from ureca.client.id_map import stretch_ids
from ureca.client.region_cache import CaptionRecord
from ureca.client.region_numbers import RegionNumbers
from ureca.datatypes import Rle
from ureca.errors import WireError
from ureca.protocol import rle
from ureca.protocol.preview_messages import PictureRegion

ClassId = Literal["caption", "rid", "label"]
MaskEncoding = Literal["mono8", "mono16"]
_MAX_VALUE = {"mono8": 255, "mono16": 65_535}
_LARGEST_SEC = (1 << 31) - 1
_LIVE = frozenset({"new", "alive", "recovered"})


def stamp(ns: int) -> Time:
    """Nanoseconds as a ROS stamp, to the nanosecond; `WireError` before 1970 and after 2038."""
    sec, nanosec = divmod(ns, 1_000_000_000)
    if not 0 <= sec <= _LARGEST_SEC:
        raise WireError(f"{ns} ns are no ROS stamp: it holds 0 to {_LARGEST_SEC} s")
    return Time(sec, nanosec)


def nanoseconds(time: Time) -> int:
    """The inverse of `stamp`."""
    return time.sec * 1_000_000_000 + time.nanosec


def detections(sight: FollowedFrame, header: Header, class_id: ClassId) -> Detection2DArray:
    """Every region that is visible on the frame; `id` is the region's, boxes are in its pixels.

    A caption that did not hold any more when the frame was captured is left out: such a detection
    has no hypothesis.
    """
    found = tuple(
        Detection2D(
            header, _hypotheses(sight, region, caption, class_id), _bbox(region), region.rid
        )
        for region, caption in sight.regions
        if region.state in _LIVE
    )
    return Detection2DArray(header, found)


def _hypotheses(
    sight: FollowedFrame, region: PictureRegion, caption: CaptionRecord | None, class_id: ClassId
) -> tuple[ObjectHypothesisWithPose, ...]:
    name = name_of(sight, region, caption, class_id)
    if not name:
        return ()
    score = None
    if caption is not None and class_id == "caption":
        score = caption.score if caption.confidence is None else caption.confidence
    return (ObjectHypothesisWithPose(ObjectHypothesis(name, math.nan if score is None else score)),)


def name_of(
    sight: FollowedFrame, region: PictureRegion, caption: CaptionRecord | None, class_id: ClassId
) -> str:
    """What a region is called: its caption while it holds, its id, or its sender's label."""
    if class_id == "caption":
        return caption.text if caption is not None and sight.holds(caption) else ""
    return region.rid if class_id == "rid" else region.label or ""


def _bbox(region: PictureRegion) -> BoundingBox2D:
    x0, y0, x1, y1 = region.box
    middle = Point2D((x0 + x1) / 2, (y0 + y1) / 2)
    return BoundingBox2D(Pose2D(middle), float(x1 - x0), float(y1 - y0))


def sidecar(sight: FollowedFrame, header: Header, values: dict[str, int]) -> String:
    """All that is known of the same regions, as JSON; `stamp` is that of the detections."""
    picture = sight.picture
    facts = {
        "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
        "frame_id": header.frame_id,
        "stream": picture.stream,
        "seq": picture.seq,
        "captured_ns": picture.captured_ns,
        "clk": picture.clk,
        "width": picture.width,
        "height": picture.height,
        "regions": [
            _facts(sight, r, caption, header=header, value=values.get(r.rid))
            for r, caption in sight.regions
        ],
    }
    return String(json.dumps(facts, ensure_ascii=False))


def _facts(
    sight: FollowedFrame,
    region: PictureRegion,
    caption: CaptionRecord | None,
    *,
    header: Header,
    value: int | None,
) -> dict[str, Any]:
    facts = {
        "id": region.rid,
        "state": region.state,
        "box_xyxy_px": region.box,
        "label": region.label,
        "mask_value": value,
    }
    if caption is None:
        return {**facts, "caption": None}
    age_ns = sight.picture.captured_ns - caption.captured_ns
    about = stamp(max(0, nanoseconds(header.stamp) - age_ns))
    return {
        **facts,
        "caption": caption.text,
        "holds": sight.holds(caption),
        "about": {"sec": about.sec, "nanosec": about.nanosec},
        "age_ms": round(age_ns / 1e6, 3),
        "ttl_ms": caption.ttl_ms,
        "score": caption.score,
        "confidence": caption.confidence,
        "unsure": caption.unsure,
        "trigger": caption.trigger,
        "rev": caption.rev,
    }


@dataclass
class MaskPainter:
    """Mask images: one value per region, kept for as long as the region lives."""

    encoding: MaskEncoding = "mono16"
    _numbers: RegionNumbers = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = RegionNumbers(_MAX_VALUE[self.encoding])

    def values(self, sight: FollowedFrame) -> dict[str, int]:
        """The pixel value of each region, from 1; those beyond the encoding have none."""
        rids = [region.rid for region, _ in sight.regions]
        self._numbers.keep(rids)
        return self._numbers.add(rids)

    def image(self, sight: FollowedFrame, header: Header, values: dict[str, int]) -> Image:
        """The masks in the size of the frame, 0 where there is none; small regions on top."""
        picture = sight.picture
        kind: Any = np.uint8 if self.encoding == "mono8" else np.dtype("<u2")
        small = np.zeros((picture.h, picture.w), kind)
        masks = [
            (rle.decode(Rle(region.mask.size, region.mask.counts)), values[region.rid])
            for region, _ in sight.regions
            if region.mask is not None and region.rid in values
        ]
        for mask, value in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            small[mask] = value
        pixels = stretch_ids(small, picture.height, picture.width)
        return Image(
            header=header,
            height=picture.height,
            width=picture.width,
            encoding=self.encoding,
            step=picture.width * pixels.itemsize,
            data=pixels.tobytes(),
        )


def labels(
    sight: FollowedFrame, header: Header, values: dict[str, int], class_id: ClassId
) -> LabelInfo:
    """The name of each value of the mask image of the same stamp: the region's id where it has no
    other.
    """
    named = tuple(
        VisionClass(values[r.rid], name_of(sight, r, caption, class_id) or r.rid)
        for r, caption in sight.regions
        if r.rid in values
    )
    return LabelInfo(header, named)
