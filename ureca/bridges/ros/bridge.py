"""The bridge: results of the node out, camera images in. It does not depend on a middleware."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from ureca.bridges.node_follower import FollowedFrame
from ureca.bridges.ros.convert import (
    ClassId,
    MaskEncoding,
    MaskPainter,
    detections,
    labels,
    sidecar,
    stamp,
)
from ureca.bridges.ros.messages import (
    CompressedImage,
    Detection2DArray,
    Header,
    Image,
    LabelInfo,
    Message,
    String,
)
from ureca.bridges.ros.pictures import Numbering, Sent, compressed, raw
from ureca.bridges.ros.segments import SegmentPainter
from ureca.bridges.ros.transport import Transport
from ureca.client.frame_publisher import FramePublisher
from ureca.client.panoptic_view import PanopticView
from ureca.clock import MonotonicClock
from ureca.errors import MissingExtraError, WireError
from ureca.log import RateLimitedLog
from ureca.protocol.events import AnyEvent, Panoptic

_REMEMBERED = 1024
_log = logging.getLogger(__name__)
_Picture = TypeVar("_Picture", Image, CompressedImage)
_Kind = TypeVar("_Kind", bound=Message)
SendMessage = Callable[[Message], bool]


@dataclass(frozen=True, kw_only=True)
class BridgeOptions:
    """What is published, and how. `frame_id` None: that of the forwarded image, else the stream's
    name.
    """

    prefix: str = "/ureca"
    class_id: ClassId = "caption"
    masks: MaskEncoding | None = None
    panoptic: bool = False
    frame_id: str | None = None


class Forwarded:
    """The headers of the images that this bridge forwarded, by stream and number.

    A node converts stamps of other clocks to its own; results for ROS have the exact original
    stamp.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Header] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, stream: str, seq: int, header: Header) -> None:
        """Remember one image; old ones are forgotten."""
        with self._lock:
            self._known[stream, seq] = header
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def get(self, stream: str, seq: int) -> Header | None:
        """The image's header, None for a frame that this bridge did not forward."""
        with self._lock:
            return self._known.get((stream, seq))


class Outgoing:
    """Publishes one set of messages per sight, and one per map of segments, all with the stamp of
    their frame. One thread.
    """

    def __init__(self, transport: Transport, options: BridgeOptions, forwarded: Forwarded) -> None:
        self.counts: Counter[str] = Counter()
        """Messages published by kind, and `unsent`."""
        self._transport, self._options, self._forwarded = transport, options, forwarded
        self._topics: dict[str, Callable[[FollowedFrame, Header], None]] = {}
        self._maps: dict[str, Callable[[PanopticView, Header], None]] = {}
        self._painter = SegmentPainter(options.class_id)
        self._warn = RateLimitedLog(_log, MonotonicClock())

    def __call__(self, sight: FollowedFrame) -> None:
        """Publish what is known of one frame."""
        picture = sight.picture
        header = self._header(picture.stream, picture.seq, sight.unix_ns)
        if header is None:
            return
        if picture.stream not in self._topics:
            self._topics[picture.stream] = self._open(picture.stream)
        self._topics[picture.stream](sight, header)

    def event(self, event: AnyEvent, shift_ns: int) -> None:
        """Publish the segments of a keyframe, if that is wanted; `shift_ns` converts stamps of the
        clock `mono` to Unix time.
        """
        if not self._options.panoptic:
            return
        self._painter.apply(event)
        if not isinstance(event, Panoptic):
            return
        unix_ns = event.captured_ns + (shift_ns if event.clk == "mono" else 0)
        header = self._header(event.stream, event.seq, unix_ns)
        if header is None:
            return
        try:
            view = PanopticView.from_event(event)
        except WireError as error:
            self.counts["unreadable"] += 1
            self._warn.warning("map", f"segments of {event.stream} are left out: {error}")
            return
        if event.stream not in self._maps:
            self._maps[event.stream] = self._open_map(event.stream)
        self._maps[event.stream](view, header)

    def _header(self, stream: str, seq: int, unix_ns: int) -> Header | None:
        """The header of a frame, None for a stamp that ROS cannot hold."""
        try:
            header = self._forwarded.get(stream, seq) or Header(stamp(unix_ns), stream)
        except WireError as error:
            self.counts["unstampable"] += 1
            self._warn.warning("stamp", f"a frame of {stream} is left out: {error}")
            return None
        return replace(header, frame_id=self._options.frame_id or header.frame_id)

    def _open_map(self, stream: str) -> Callable[[PanopticView, Header], None]:
        base = f"{self._options.prefix}/{topic_part(stream)}"
        maps = self._transport.publisher(f"{base}/panoptic", Image, "reliable")
        names = self._if_installed(f"{base}/panoptic_labels", LabelInfo)

        def send(view: PanopticView, header: Header) -> None:
            image, named = self._painter.paint(view, header)
            self._count("panoptic", maps(image))
            if names is not None:
                self._count("panoptic_labels", names(named))

        return send

    def _open(self, stream: str) -> Callable[[FollowedFrame, Header], None]:
        options, base = self._options, f"{self._options.prefix}/{topic_part(stream)}"
        painter = MaskPainter(options.masks or "mono16")
        publish = partial(self._transport.publisher, quality="reliable")
        words = publish(f"{base}/captions", String)
        masks = publish(f"{base}/masks", Image) if options.masks else None
        boxes = self._if_installed(f"{base}/detections", Detection2DArray)
        names = self._if_installed(f"{base}/labels", LabelInfo) if options.masks else None

        def send(sight: FollowedFrame, header: Header) -> None:
            values = painter.values(sight) if options.masks else {}
            if boxes is not None:
                self._count("detections", boxes(detections(sight, header, options.class_id)))
            self._count("captions", words(sidecar(sight, header, values)))
            if masks is not None:
                self._count("masks", masks(painter.image(sight, header, values)))
            if names is not None:
                self._count("labels", names(labels(sight, header, values, options.class_id)))

        return send

    def _if_installed(self, topic: str, kind: type[_Kind]) -> Callable[[_Kind], bool] | None:
        """The publisher of a message of vision_msgs, which ROS from PyPI does not have."""
        try:
            return self._transport.publisher(topic, kind, "reliable")
        except MissingExtraError as error:
            _log.warning("%s is not published: %s", topic, error)
            return None

    def _count(self, kind: str, sent: bool) -> None:  # noqa: FBT001  (the result of a send)
        self.counts[kind if sent else "unsent"] += 1


def topic_part(stream: str) -> str:
    """A stream's name where ROS allows letters, digits and `_`, and no digit first."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", stream)
    return f"_{name}" if name[:1].isdigit() else name


class Incoming:
    """Forwards images of ROS cameras to a node as frames, each with the very stamp it had."""

    def __init__(self, transport: Transport, camera: FramePublisher, forwarded: Forwarded) -> None:
        self.counts: Counter[str] = Counter()
        """Images forwarded and refused."""
        self._transport, self._camera, self._forwarded = transport, camera, forwarded
        self._lock = threading.Lock()
        self._warn = RateLimitedLog(_log, MonotonicClock())

    def images(self, topic: str, stream: str) -> None:
        """Forward a topic of `sensor_msgs/Image`."""
        take = partial(self._take, raw, _numbering(stream))
        self._transport.subscribe(topic, Image, "sensor", take)

    def compressed(self, topic: str, stream: str) -> None:
        """Forward a topic of `sensor_msgs/CompressedImage`."""
        take = partial(self._take, compressed, _numbering(stream))
        self._transport.subscribe(topic, CompressedImage, "sensor", take)

    def _take(
        self,
        read: Callable[[_Picture, Numbering, int], Sent],
        camera: Numbering,
        image: _Picture,
    ) -> None:
        with self._lock:  # a socket belongs to one thread at a time
            try:
                header, pixels = read(image, camera, time.time_ns())
                # Before it is sent: the node's answer may be quicker than we are.
                sent = replace(image.header, stamp=stamp(header.captured_ns))
                self._forwarded.note(camera.stream, header.seq, sent)
                self._camera.send_encoded(header, pixels)
            except WireError as error:
                self.counts["refused"] += 1
                self._warn.warning(camera.stream, f"an image of {camera.stream}: {error}")
                return
            self.counts["forwarded"] += 1


def _numbering(stream: str) -> Numbering:
    """From the present millisecond on, so that no number of an earlier bridge comes again."""
    return Numbering(stream, os.urandom(16), time.time_ns() // 1_000_000)
