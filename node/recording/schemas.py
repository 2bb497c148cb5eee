"""The channels of a recording and their JSON schemas.

The `foxglove.*` schemas are the public ones of Foxglove by name and fields, so that its image panel
shows pictures, outlines and segments; the `ureca.*` ones are what a replay reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from ureca.client.panoptic_view import PanopticView, segment_text
from ureca.datatypes import JsonObject, Mask, Track, TrackSet
from ureca.node.recording.lossless_images import outlines
from ureca.protocol.rle import encode

STEPS, ENGINE_RUNS, EVENTS = "/ureca/steps", "/ureca/engine_runs", "/ureca/events"
REPLIES = "/ureca/replies"
_IMAGE, _OUTLINES, _TRACKS = "foxglove.CompressedImage", "foxglove.ImageAnnotations", "ureca.Tracks"
_SEGMENTS = "foxglove.RawImage"
_LINE_LOOP = 2
_COLOURS = ((1.0, 0.35, 0.3), (0.3, 0.8, 0.4), (0.35, 0.55, 1.0), (1.0, 0.8, 0.2), (0.8, 0.4, 0.9))


def _object(**properties: object) -> JsonObject:
    return {"type": "object", "properties": properties}


def _list(items: object) -> JsonObject:
    return {"type": "array", "items": items}


_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
_TIME = _object(sec={"type": "integer"}, nsec={"type": "integer"}) | {"title": "time"}
_POINT = _object(x=_NUMBER, y=_NUMBER)
_COLOUR = _object(r=_NUMBER, g=_NUMBER, b=_NUMBER, a=_NUMBER)

SCHEMAS: dict[str, JsonObject] = {
    _IMAGE: _object(
        timestamp=_TIME,
        frame_id=_TEXT,
        data={"type": "string", "contentEncoding": "base64"},
        format=_TEXT,
    ),
    _SEGMENTS: _object(
        timestamp=_TIME,
        frame_id=_TEXT,
        width={"type": "integer"},
        height={"type": "integer"},
        encoding=_TEXT,
        step={"type": "integer"},
        data={"type": "string", "contentEncoding": "base64"},
    ),
    _OUTLINES: _object(
        circles=_list(_object()),
        points=_list(
            _object(
                timestamp=_TIME,
                type={"type": "integer"},
                points=_list(_POINT),
                outline_color=_COLOUR,
                outline_colors=_list(_COLOUR),
                fill_color=_COLOUR,
                thickness=_NUMBER,
            )
        ),
        texts=_list(
            _object(
                timestamp=_TIME,
                position=_POINT,
                text=_TEXT,
                font_size=_NUMBER,
                text_color=_COLOUR,
                background_color=_COLOUR,
            )
        ),
    ),
    _TRACKS: _object(seq={"type": "integer"}, tracks=_list(_object())),
    "ureca.Step": _object(number={"type": "integer"}, now_ns={"type": "integer"}),
    "ureca.EngineRun": _object(rows=_list({"type": "integer"})),
    "ureca.Event": _object(ev=_TEXT, stream=_TEXT),
}
"""JSON schemas by name; every field that Foxglove reads is in its own."""


def schema_of(topic: str) -> str:
    """The schema of a topic's messages."""
    fixed = {STEPS: "ureca.Step", ENGINE_RUNS: "ureca.EngineRun", EVENTS: "ureca.Event"}
    kinds = {"image": _IMAGE, "outlines": _OUTLINES, "tracks": _TRACKS, "replies": "ureca.Event"}
    kinds |= {"segments": _SEGMENTS, "segment_names": _OUTLINES}
    return fixed.get(topic) or kinds[topic.rsplit("/", 1)[1]]


def schema_text(name: str) -> bytes:
    """A schema as MCAP keeps it."""
    return json.dumps({"title": name, **SCHEMAS[name]}).encode()


def image_topic(stream: str) -> str:
    """Where the pictures of a stream are."""
    return f"/{stream}/image"


def image(png: bytes, stream: str, wall_ns: int) -> JsonObject:
    """`foxglove.CompressedImage`; bytes become base64 when it is encoded."""
    return {"timestamp": _time(wall_ns), "frame_id": stream, "data": png, "format": "png"}


def tracks(found: TrackSet) -> JsonObject:
    """All regions of one frame, masks as COCO RLE, exact."""
    return {"seq": found.frame_seq, "tracks": [_track(track) for track in found.tracks]}


def drawn(found: TrackSet, words: dict[str, str], wall_ns: int) -> JsonObject:
    """`foxglove.ImageAnnotations`: the outline and caption of every visible region."""
    points: list[JsonObject] = []
    texts: list[JsonObject] = []
    for number, track in enumerate(found.tracks):
        if track.mask is None:
            continue
        colour = _rgba(_COLOURS[number % len(_COLOURS)])
        points += [_loop(line, colour, wall_ns) for line in outlines(track.mask)]
        said = f"{track.rid}: {words.get(track.rid, '...')}"
        texts.append(_text(said, track.box_xyxy_px[:2], colour, wall_ns))
    return {"circles": [], "points": points, "texts": texts}


def segments(view: PanopticView, numbers: Mapping[str, int], wall_ns: int) -> JsonObject:
    """`foxglove.RawImage`: the number of each pixel's region, 0 for the rest, in the size of the
    map.
    """
    values = view.region_map(numbers).astype("<u2")
    height, width = values.shape
    return {
        "timestamp": _time(wall_ns),
        "frame_id": view.stream,
        "width": width,
        "height": height,
        "encoding": "mono16",
        "step": values.itemsize * width,
        "data": values.tobytes(),
    }


def segment_names(view: PanopticView, numbers: Mapping[str, int], wall_ns: int) -> JsonObject:
    """`foxglove.ImageAnnotations` for `segments`: number and caption on a pixel of each."""
    texts: list[JsonObject] = []
    for one in view.segments:
        if (number := numbers.get(one.rid)) is not None and (inside := view.mask(one.n)).any():
            said = f"{number}: {segment_text(one)}"
            texts.append(_text(said, _inner_pixel(inside), _WHITE, wall_ns))
    return {"circles": [], "points": [], "texts": texts}


def _inner_pixel(mask: Mask) -> tuple[int, int]:
    """The pixel (x, y) of a mask that is nearest to its middle."""
    ys, xs = np.nonzero(mask)
    nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    return int(xs[nearest]), int(ys[nearest])


def _text(said: str, at: tuple[int, int], colour: JsonObject, wall_ns: int) -> JsonObject:
    return {
        "timestamp": _time(wall_ns),
        "position": {"x": float(at[0]), "y": float(at[1])},
        "text": said,
        "font_size": 12,
        "text_color": colour,
        "background_color": _rgba((0.0, 0.0, 0.0), 0.5),
    }


def _track(track: Track) -> JsonObject:
    mask = None if track.mask is None else encode(track.mask)
    return {
        "rid": track.rid,
        "state": track.state.value,
        "box": track.box_xyxy_px,
        "mask": None if mask is None else {"size": mask.size, "counts": mask.counts},
        "reason": track.reason,
    }


def _loop(line: list[dict[str, float]], colour: JsonObject, wall_ns: int) -> JsonObject:
    return {
        "timestamp": _time(wall_ns),
        "type": _LINE_LOOP,
        "points": line,
        "outline_color": colour,
        "outline_colors": [],
        "fill_color": _rgba((0.0, 0.0, 0.0), 0.0),
        "thickness": 2,
    }


def _rgba(rgb: tuple[float, float, float], alpha: float = 1.0) -> JsonObject:
    return {"r": rgb[0], "g": rgb[1], "b": rgb[2], "a": alpha}


_WHITE = _rgba((1.0, 1.0, 1.0))


def _time(ns: int) -> JsonObject:
    return {"sec": ns // 1_000_000_000, "nsec": ns % 1_000_000_000}
