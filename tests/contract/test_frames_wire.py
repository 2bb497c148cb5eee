from __future__ import annotations

import dataclasses
import io
import struct

import msgspec
import numpy as np
import pytest
from PIL import Image as Pillow

from ureca.datatypes import RegionSeed, TextPrompt
from ureca.errors import SourceError, VersionError, WireError
from ureca.node.decoding.image_decoder import decode_picture
from ureca.protocol import rle, wire
from ureca.protocol.image_header import picture_size
from ureca.testing import SyntheticSource


def _no_decoder(pixels, header):
    raise AssertionError("raw pixels need no decoder")


def _message(**changes):
    frame = SyntheticSource(width_px=8, height_px=6, things=1).frame(0)
    header = wire.FrameHeader.of(frame, "rgb8")
    parts = wire.encode_frame(header, frame.image.tobytes(), "camera")
    if changes:
        data = msgspec.msgpack.decode(parts[1])
        data.update(changes)
        parts[1] = msgspec.msgpack.encode({k: v for k, v in data.items() if v is not ...})
    return parts


def test_a_frame_survives_the_wire(golden):
    frame = SyntheticSource(width_px=8, height_px=6, things=1).frame(0)
    parts = _message()
    read = wire.decode_frame(parts, _no_decoder, received_ns=7)
    assert np.array_equal(read.image, frame.image)
    assert read.regions == frame.regions
    assert (read.seq, read.session_id, read.captured_ns, read.received_ns) == (
        frame.seq,
        frame.session_id,
        frame.captured_ns,
        7,
    )
    assert not read.image.flags.writeable
    golden("frame-rgb8", b"".join(parts))


def test_no_regions_and_empty_regions_are_different():
    assert wire.decode_frame(_message(regions=...), _no_decoder, received_ns=0).regions is None
    assert wire.decode_frame(_message(regions=[]), _no_decoder, received_ns=0).regions == ()


def test_channel_orders_and_stride():
    frame = SyntheticSource(width_px=5, height_px=4, things=1, with_regions="never").frame(0)
    padded = np.zeros((4, 20), np.uint8)
    padded[:, :15] = frame.image[:, :, ::-1].reshape(4, 15)
    header = wire.FrameHeader.of(frame, "bgr8", stride=20)
    parts = wire.encode_frame(header, padded.tobytes(), "camera")
    assert np.array_equal(wire.decode_frame(parts, _no_decoder, received_ns=0).image, frame.image)
    grey = wire.encode_frame(wire.FrameHeader.of(frame, "mono8"), bytes(range(20)), "camera")
    image = wire.decode_frame(grey, _no_decoder, received_ns=0).image
    assert image.shape == (4, 5, 3)
    assert image[1, 2].tolist() == [7, 7, 7]


@pytest.mark.parametrize("enc", ["jpeg", "png"])
def test_pictures_are_decoded_by_the_given_decoder_after_their_size_was_checked(enc):
    cv2 = pytest.importorskip("cv2")
    frame = SyntheticSource(width_px=200, height_px=150, with_regions="never").frame(3)
    pixels = cv2.imencode(f".{enc}", frame.image[:, :, ::-1])[1].tobytes()
    assert picture_size(pixels, enc) == (200, 150)

    def decoder(data, header):
        assert header.enc == enc
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]

    header = wire.FrameHeader.of(frame, enc)
    parts = wire.encode_frame(header, pixels, "camera")
    read = wire.decode_frame(parts, decoder, received_ns=0)
    assert np.abs(read.image.astype(int) - frame.image).mean() < 4
    with pytest.raises(WireError, match="header says"):
        wire.encode_frame(msgspec.structs.replace(header, w=400), pixels, "camera")
    with pytest.raises(WireError):
        wire.decode_frame([*parts[:2], pixels[:12]], decoder, received_ns=0)


def test_a_picture_of_another_size_never_reaches_the_decoder():
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60_000, 60_000)
    parts = [*_message(enc="png")[:2], bomb]
    with pytest.raises(WireError, match="60000"):
        wire.decode_frame(parts, _no_decoder, received_ns=0)


def test_a_decoder_that_fails_is_a_wire_error():
    def decoder(pixels, header):
        raise SourceError("corrupt")

    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 8, 6)
    with pytest.raises(WireError, match="corrupt"):
        wire.decode_frame([*_message(enc="png")[:2], png], decoder, received_ns=0)
    with pytest.raises(WireError, match=r"u8 \[6, 8, 3\]"):
        wire.decode_frame(
            [*_message(enc="png")[:2], png], lambda *_: np.zeros((2, 2, 3), np.uint8), received_ns=0
        )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"v": [1, 0]}, "BAD_VERSION"),
        ({"session_id": b"short"}, "BAD_SCHEMA"),
        ({"seq": -1}, "BAD_SCHEMA"),
        ({"w": 0}, "BAD_SCHEMA"),
        ({"w": 9}, "BAD_SCHEMA"),
        ({"w": 60_000, "h": 60_000}, "TOO_LARGE"),
        ({"enc": "h265"}, "BAD_SCHEMA"),
        ({"src": "cam9"}, "BAD_SCHEMA"),
        ({"captured_ns": 1.5}, "BAD_SCHEMA"),
        ({"captured_ns": ...}, "BAD_SCHEMA"),
        ({"regions": [{"box": [0, 0, 1, 1]}] * 257}, "TOO_LARGE"),
        ({"regions": [{"box": [0, 0, float("nan"), 1]}]}, "BAD_SCHEMA"),
    ],
)
def test_headers_that_are_refused(changes, code):
    with pytest.raises(WireError) as caught:
        wire.decode_frame(_message(**changes), _no_decoder, received_ns=0)
    assert caught.value.code == code
    assert isinstance(caught.value, VersionError) == (code == "BAD_VERSION")


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"mask": {"size": [6, 9], "counts": "f1"}}, "resize"),
        ({"mask": {"size": [6, 8], "counts": "f1"}}, "add up"),
        ({"mask": {"size": [6, 8], "counts": "`1"}}, "empty"),
        ({"box": [3, 3, 2, 4]}, "x0 < x1"),
        ({"box": [90, 90, 95, 95]}, "outside"),
        ({"point": [8, 0]}, "outside"),
        ({}, "exactly one"),
        ({"point": [1, 1], "box": [0, 0, 1, 1]}, "exactly one"),
        ({"rid": "Not An Id", "point": [1, 1]}, "region id"),
        ({"label": "x" * 300, "box": [0, 0, 3, 3]}, "length"),
        ({"box": [0, 0, 0.5, 0.5]}, "pixels are expected"),
    ],
)
def test_a_region_that_does_not_fit_is_refused_by_name_and_stops_no_other(region, words):
    good = {"rid": "good", "point": [1, 1]}
    message = _message(regions=[{"rid": "bad", **region}, good])
    read = wire.decode_frame(message, _no_decoder, received_ns=0)
    assert [seed.rid for seed in read.regions] == ["good"]
    (refusal,) = read.refused
    assert words in refusal.reason
    assert refusal.rid == (None if "rid" in region else "bad")


def test_unknown_words_and_keys_of_a_later_minor_version():
    header = wire.decode_frame_header(
        _message(v=[2, 4], capture_source="lidar", clk="gps", new_key=1)
    )
    assert (header.capture_source, header.clk) == ("unknown", "unknown")


def test_prompts_travel_in_the_header():
    header = wire.decode_frame_header(_message(prompts=[{"text": "the cup"}, {"point": [1, 2]}]))
    assert header.prompts[0].text == "the cup"
    assert header.prompts[1].point == (1, 2)


def test_prompts_become_seeds_or_refusals():
    prompts = [{"text": "the cup"}, {"point": [1, 2], "label": "cup"}, {"box": [50, 50, 60, 60]}]
    prompts += [
        {"text": "a mug", "standing": True, "level": "part", "label": "m"},
        {"text": "a mug", "point": [1, 2]},
        {"text": " .,"},
        {"point": [1, 2], "standing": True},
    ]
    frame = wire.decode_frame(_message(prompts=prompts), _no_decoder, received_ns=0)
    assert frame.prompts == (RegionSeed(point_xy_px=(1.0, 2.0), label="cup"),)
    assert frame.texts == (TextPrompt("the cup"), TextPrompt("a mug", "m", True, "part"))
    words = ["outside", "exactly one", "has a word", "belong to a text"]
    assert all(w in r.reason for w, r in zip(words, frame.refused, strict=True)), frame.refused


def test_prompts_of_a_frame_go_there_and_back():
    frame = wire.decode_frame(_message(), _no_decoder, received_ns=0)
    prompts = (RegionSeed(point_xy_px=(1.0, 2.0)), RegionSeed(box_xyxy_px=(0.0, 0.0, 3.0, 4.0)))
    texts = (TextPrompt("the cup"), TextPrompt("a mug", "m", True, "part"))
    frame = dataclasses.replace(frame, prompts=prompts, texts=texts)
    header = wire.FrameHeader.of(frame, "rgb8")
    parts = wire.encode_frame(header, frame.image.tobytes(), "n")
    again = wire.decode_frame(parts, _no_decoder, received_ns=0)
    assert (again.prompts, again.texts, again.refused) == (prompts, texts, ())


def test_payload_of_the_wrong_length():
    parts = _message()
    with pytest.raises(WireError, match="rows"):
        wire.decode_frame([*parts[:2], parts[2][:-1]], _no_decoder, received_ns=0)
    tight = dataclasses.replace(wire.LIMITS, max_payload_bytes=10)
    with pytest.raises(WireError, match="at most 10 bytes"):
        wire.decode_frame(parts, _no_decoder, received_ns=0, limits=tight)


def test_seeds_go_there_and_back():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    for seed in (
        RegionSeed(rid="a", mask=rle.encode(mask), label="cup", score=0.5, parent="b"),
        RegionSeed(box_xyxy_px=(0.0, 0.5, 3.0, 4.0)),
        RegionSeed(point_xy_px=(1.0, 2.0)),
    ):
        assert wire.WireRegion.of(seed).seed(8, 6) == seed


def _sideways(orientation, header_size, **more):
    """A JPEG of 40 x 20 that says that it is to be turned, under a header of `header_size`."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(STORED).save(file, "JPEG", quality=95, exif=exif.tobytes())
    frame = SyntheticSource(width_px=8, height_px=6, things=1, with_regions="never").frame(0)
    header = wire.FrameHeader.of(frame, "jpeg")
    width, height = header_size
    header = msgspec.structs.replace(header, w=width, h=height, **more)
    return wire.encode_frame(header, file.getvalue(), "camera")


STORED = np.zeros((20, 40, 3), np.uint8)
STORED[2:8, 30:36] = 255
WHITE = STORED[:, :, 0] > 0


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_picture_on_its_side_is_turned_and_its_regions_with_it(orientation):
    regions = (
        wire.WireRegion(rid="m", mask=wire.to_wire_rle(rle.encode(WHITE))),
        wire.WireRegion(rid="b", box=(30, 2, 36, 8)),
        wire.WireRegion(rid="p", point=(30, 2), more_points=((35, 7),)),
    )
    parts = _sideways(orientation, (40, 20), regions=regions)
    read = wire.decode_frame(parts, _real_decoder, received_ns=0)
    assert read.image.shape == (40, 20, 3)
    white = read.image[:, :, 0] > 128
    mask, box, point = read.regions
    assert np.array_equal(rle.decode(mask.mask), white)
    ys, xs = np.nonzero(white)
    assert box.box_xyxy_px == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    for x, y in (point.point_xy_px, *point.more_points_xy_px):
        assert white[int(y), int(x)]


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_header_may_have_the_size_of_the_turned_picture(orientation):
    box = (wire.WireRegion(rid="b", box=(2, 30, 8, 36)),)
    parts = _sideways(orientation, (20, 40), regions=box)
    read = wire.decode_frame(parts, _real_decoder, received_ns=0)
    assert read.image.shape == (40, 20, 3)
    assert read.regions[0].box_xyxy_px == (2, 30, 8, 36)


def test_another_size_names_the_orientation():
    with pytest.raises(WireError, match="says 40x20, EXIF orientation 6"):
        _sideways(6, (20, 41))


def _real_decoder(pixels, header):
    return decode_picture(bytes(pixels))
