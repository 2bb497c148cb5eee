"""Segments of whole frames as ROS messages: a label image, and what its values are called."""

from __future__ import annotations

from ureca.bridges.ros.convert import ClassId
from ureca.bridges.ros.messages import Header, Image, LabelInfo, VisionClass
from ureca.client.panoptic_view import PanopticView, segment_text
from ureca.client.region_cache import RegionCache
from ureca.client.region_numbers import RegionNumbers
from ureca.protocol.events import AnyEvent, NamedSegment, TrackEnd


class SegmentPainter:
    """Label images of all streams of a node: a value per region, until the region ends.

    It needs every event, so that it knows which captions hold.
    """

    def __init__(self, class_id: ClassId) -> None:
        self._class_id = class_id
        self._session_id = b""
        self._captions = RegionCache()
        self._numbers: dict[str, RegionNumbers] = {}

    def apply(self, event: AnyEvent) -> None:
        """Take note of an event; another run of the node begins anew."""
        if event.session_id != self._session_id:
            self._session_id = event.session_id
            self._captions.clear()
            self._numbers.clear()
        self._captions.apply(event)
        if isinstance(event, TrackEnd) and event.stream in self._numbers:
            self._numbers[event.stream].forget(event.rid)

    def paint(self, view: PanopticView, header: Header) -> tuple[Image, LabelInfo]:
        """A `mono16` image in the size of the frame, 0 for the rest, and the name of each value:
        the caption if it held when the frame was captured, else the region's id.
        """
        numbers = self._numbers.setdefault(view.stream, RegionNumbers())
        known = numbers.add(one.rid for one in view.segments)
        pixels = view.region_map(known, (view.height, view.width)).astype("<u2")
        image = Image(
            header=header,
            height=view.height,
            width=view.width,
            encoding="mono16",
            step=view.width * pixels.itemsize,
            data=pixels.tobytes(),
        )
        named = tuple(
            VisionClass(known[one.rid], self._name(view, one))
            for one in view.segments
            if one.rid in known
        )
        return image, LabelInfo(header, named)

    def _name(self, view: PanopticView, segment: NamedSegment) -> str:
        if self._class_id == "caption":
            caption = self._captions.get(view.stream, segment.rid)
            holds = caption is not None and caption.holds(view.captured_ns)
            return segment_text(segment) if holds else segment.rid
        return (segment.label if self._class_id == "label" else None) or segment.rid
