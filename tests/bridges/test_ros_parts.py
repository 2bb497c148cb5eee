"""The bridge's parts without a middleware: converters, images, headers."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.bridges.node_follower import FollowedFrame
from ureca.bridges.ros.bridge import BridgeOptions, Forwarded, Incoming, Outgoing, topic_part
from ureca.bridges.ros.cli import main
from ureca.bridges.ros.convert import MaskPainter, detections, labels, nanoseconds, sidecar, stamp
from ureca.bridges.ros.messages import (
    CompressedImage,
    Detection2DArray,
    Header,
    Image,
    LabelInfo,
    String,
    Time,
)
from ureca.bridges.ros.pictures import Numbering, compressed, raw
from ureca.client.region_cache import CaptionRecord, RegionCache
from ureca.errors import ConfigError, WireError
from ureca.protocol import rle
from ureca.protocol.events import CaptionFinal, CaptionSame, TrackEnd, WireRle
from ureca.protocol.frames import decode_frame, encode_frame
from ureca.protocol.preview_messages import Picture, PictureRegion

HEADER = Header(Time(12, 34), "optical")
CAPTURED_NS = 12_000_000_034


def said(text="a red mug", captured_ns=CAPTURED_NS - 1_000_000_000, ttl_ms=5000, score=0.7):
    return CaptionRecord(text, 3, captured_ns, "mono", ttl_ms, score, "new")


def region(rid, x0, y0, x1, y1, *, size=(12, 16), state="alive", masked=True):
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    code = rle.encode(mask) if masked else None
    wire = None if code is None else WireRle(code.size, code.counts)
    return PictureRegion(rid=rid, state=state, box=(x0, y0, x1, y1), label=f"the {rid}", mask=wire)


def sight(*rows, width=16, height=12, seq=7, shift_ns=0, clk="mono", stream="cam0"):
    picture = Picture(
        stream=stream,
        seq=seq,
        captured_ns=CAPTURED_NS,
        clk=clk,
        width=width,
        height=height,
        w=16,
        h=12,
        jpeg=b"",
        regions=tuple(r for r, _ in rows),
    )
    return FollowedFrame(picture, rows, shift_ns)


@given(st.integers(0, (1 << 31) * 10**9 - 1))
def test_stamps_keep_every_nanosecond(ns):
    assert nanoseconds(stamp(ns)) == ns
    assert 0 <= stamp(ns).nanosec < 10**9


@pytest.mark.parametrize("ns", [-1, (1 << 31) * 10**9])
def test_a_stamp_that_ros_cannot_hold_is_refused(ns):
    with pytest.raises(WireError, match="no ROS stamp"):
        stamp(ns)


def test_detections_are_the_visible_regions_with_captions_that_hold():
    seen = sight(
        (region("mug", 2, 3, 6, 9), said()),
        (region("cup", 8, 3, 12, 9), said(ttl_ms=900)),
        (region("new", 8, 0, 12, 2), None),
        (region("gone", 0, 0, 2, 2, state="lost", masked=False), said()),
    )
    found = detections(seen, HEADER, "caption")
    assert found.header == HEADER
    mug, cup, new = found.detections
    assert (mug.id, mug.header) == ("mug", HEADER)
    assert (mug.bbox.center.position.x, mug.bbox.center.position.y) == (4, 6)
    assert (mug.bbox.size_x, mug.bbox.size_y) == (4, 6)
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in mug.results] == [
        ("a red mug", 0.7)
    ]
    assert cup.results == (), "its caption had run out when the frame was captured"
    assert new.results == ()
    names = [d.results[0].hypothesis for d in detections(seen, HEADER, "rid").detections]
    assert [name.class_id for name in names] == ["mug", "cup", "new"]
    assert all(math.isnan(name.score) for name in names), "a score that nobody gave"


def test_the_sidecar_has_the_same_stamp_and_all_regions():
    seen = sight((region("mug", 2, 3, 6, 9), said("un bol \u00e0 th\u00e9 \u2615", score=None)))
    facts = json.loads(sidecar(seen, HEADER, {"mug": 5}).data)
    assert facts["stamp"] == {"sec": 12, "nanosec": 34}
    row = facts["regions"][0]
    assert row["caption"] == "un bol \u00e0 th\u00e9 \u2615"
    assert (row["holds"], row["age_ms"], row["mask_value"]) == (True, 1000.0, 5)
    assert row["about"] == {"sec": 11, "nanosec": 34}


@pytest.mark.parametrize(("encoding", "kind"), [("mono8", "u1"), ("mono16", "<u2")])
def test_mask_values_stay_with_their_regions(encoding, kind):
    painter = MaskPainter(encoding)
    both = sight((region("table", 0, 0, 16, 12), None), (region("mug", 2, 3, 6, 9), said()))
    values = painter.values(both)
    assert values == {"table": 1, "mug": 2}
    image = painter.image(both, HEADER, values)
    pixels = np.frombuffer(image.data, kind).reshape(image.height, -1)
    assert image.step == pixels.itemsize * 16
    assert pixels[5, 4] == 2, "the mug lies on the table"
    assert pixels[0, 0] == 1
    after = sight((region("mug", 2, 3, 6, 9), said()), (region("cup", 8, 3, 9, 4), None))
    assert painter.values(after) == {"mug": 2, "cup": 1}
    named = labels(both, HEADER, values, "caption")
    assert {c.class_id: c.class_name for c in named.class_map} == {1: "table", 2: "a red mug"}


def test_masks_of_a_small_picture_are_as_large_as_the_frame():
    seen = sight((region("mug", 0, 0, 8, 6), None), width=64, height=48)
    image = MaskPainter("mono8").image(seen, HEADER, {"mug": 9})
    pixels = np.frombuffer(image.data, np.uint8).reshape(48, 64)
    assert (pixels[:24, :32] == 9).all()
    assert (pixels == 9).sum() == 24 * 32


def test_a_256th_region_has_no_value_in_a_byte():
    rows = [(region(f"r{n}", 0, 0, 2, 2), None) for n in range(260)]
    values = MaskPainter("mono8").values(sight(*rows))
    assert sorted(values.values()) == list(range(1, 256))


# --- images in -----------------------------------------------------------------------------------


def numbering():
    return Numbering("cam0", bytes(16), 5)


@pytest.mark.parametrize(
    ("encoding", "channels", "read"),
    [
        ("rgb8", 3, (0, 1, 2)),
        ("bgr8", 3, (2, 1, 0)),
        ("mono8", 1, (0, 0, 0)),
        ("8UC3", 3, (2, 1, 0)),
        ("rgba8", 4, (0, 1, 2)),
        ("bgra8", 4, (2, 1, 0)),
        ("8UC1", 1, (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_raw_images_arrive_as_they_were(rng, encoding, channels, read, padding):
    pixels = rng.integers(0, 256, (6, 8, channels), np.uint8)
    rows = np.concatenate([pixels.reshape(6, -1), np.zeros((6, padding), np.uint8)], axis=1)
    image = Image(HEADER, 6, 8, encoding, 0, rows.shape[1], rows.tobytes())
    header, data = raw(image, numbering(), 1)
    assert (header.captured_ns, header.clk, header.capture_source) == (CAPTURED_NS, "utc", "driver")
    assert (header.frame_id, header.seq) == ("optical", 5)
    frame = decode_frame(encode_frame(header, data, "ros"), decoder=None, received_ns=0)
    assert np.array_equal(frame.image, pixels[:, :, list(read)])
    assert frame.captured_ns == CAPTURED_NS


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image(HEADER, 4, 4, "16UC1", 0, 8, bytes(32)), "expected an image of"),
        (Image(HEADER, 4, 4, "rgb8", 0, 12, bytes(47)), "expected 4 rows of 12 bytes"),
        (Image(HEADER, 4, 4, "rgba8", 0, 12, bytes(48)), "at least 16 bytes"),
    ],
)
def test_an_image_that_no_node_reads_is_refused(image, message):
    camera = numbering()
    with pytest.raises(WireError, match=message):
        raw(image, camera, 1)


def test_a_driver_that_does_not_stamp_gets_the_time_of_receipt():
    header, _ = raw(Image(Header(), 1, 1, "mono8", 0, 1, b"x"), numbering(), 99)
    assert (header.captured_ns, header.capture_source) == (99, "receive")


def test_compressed_images_are_forwarded_untouched(rng):
    cv2 = pytest.importorskip("cv2")
    picture = rng.integers(0, 256, (6, 8, 3), np.uint8)
    for suffix, enc in ((".jpg", "jpeg"), (".png", "png")):
        data = cv2.imencode(suffix, picture)[1].tobytes()
        header, pixels = compressed(CompressedImage(HEADER, "?", data), numbering(), 1)
        assert pixels == data
        assert (header.enc, header.w, header.h) == (enc, 8, 6)
    with pytest.raises(WireError):
        compressed(CompressedImage(HEADER, "?", b"RIFF0000"), numbering(), 1)


# --- the bridge on a transport that only remembers -----------------------------------------------


class Remembering:
    """A transport whose messages stay here; `deaf` makes every write fail."""

    def __init__(self, *, deaf=False):
        self.sent, self.heard, self.deaf = [], {}, deaf

    def publisher(self, topic, kind, quality):
        assert quality == "reliable"

        def publish(message):
            assert isinstance(message, kind)
            self.sent.append((topic, message))
            return not self.deaf

        return publish

    def subscribe(self, topic, kind, quality, heard):
        assert quality == "sensor"
        self.heard[topic] = heard

    def close(self):
        pass


class Camera:
    def __init__(self):
        self.frames = []

    def send_encoded(self, header, pixels):
        self.frames.append((header, pixels))


def test_one_sight_is_four_messages_of_one_stamp():
    transport = Remembering()
    bridge = Outgoing(transport, BridgeOptions(masks="mono8"), Forwarded())
    bridge(sight((region("mug", 2, 3, 6, 9), said()), shift_ns=10**18))
    kinds = dict(transport.sent)
    assert {topic: type(m) for topic, m in kinds.items()} == {
        "/ureca/cam0/detections": Detection2DArray,
        "/ureca/cam0/captions": String,
        "/ureca/cam0/masks": Image,
        "/ureca/cam0/labels": LabelInfo,
    }
    stamps = {nanoseconds(m.header.stamp) for m in kinds.values() if not isinstance(m, String)}
    assert stamps == {CAPTURED_NS + 10**18}, "a mono stamp is moved to Unix time"
    assert bridge.counts == dict.fromkeys(("detections", "captions", "masks", "labels"), 1)


def test_what_came_from_ros_goes_back_with_its_own_header():
    transport, camera, forwarded = Remembering(), Camera(), Forwarded()
    incoming = Incoming(transport, camera, forwarded)
    incoming.images("/camera", "cam0")
    transport.heard["/camera"](Image(HEADER, 1, 1, "mono8", 0, 1, b"x"))
    transport.heard["/camera"](Image(HEADER, 1, 1, "yuv422", 0, 1, b"x"))
    assert incoming.counts == {"forwarded": 1, "refused": 1}
    header, _ = camera.frames[0]
    assert header.seq > time.time_ns() // 10**6 - 60_000, "numbers of an earlier bridge come again"
    outgoing = Outgoing(transport, BridgeOptions(), forwarded)
    # Whatever the node made of the stamp.
    outgoing(sight((region("mug", 2, 3, 6, 9), said()), seq=header.seq, shift_ns=555))
    assert transport.sent[0][1].header == HEADER
    outgoing(sight((region("mug", 2, 3, 6, 9), said()), seq=header.seq + 1, shift_ns=0))
    assert transport.sent[2][1].header.frame_id == "cam0"


def test_what_cannot_be_sent_or_stamped_is_counted():
    bridge = Outgoing(Remembering(deaf=True), BridgeOptions(), Forwarded())
    bridge(sight())
    bridge(sight(shift_ns=-(10**19)))
    assert bridge.counts == {"unsent": 2, "unstampable": 1}


def test_topics_are_names_that_ros_allows():
    assert [topic_part(name) for name in ("cam0", "front-left", "0cam")] == [
        "cam0",
        "front_left",
        "_0cam",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prefix", "ureca"], "--prefix is like"),
        (["--image", "camera"], "expected /TOPIC=STREAM"),
        (["--image", "/camera=UPPER"], "expected /TOPIC=STREAM"),
        (["--domain", "233"], "0 to 232"),
    ],
)
def test_the_command_says_what_it_expects(options, message, tmp_path):
    pytest.importorskip("cyclonedds")
    with pytest.raises(ConfigError, match=message):
        main([*options, "--frames", f"ipc://{tmp_path}/f", "--duration", "1"])


# --- what was said -------------------------------------------------------------------------------


def final(rid, captured_ns, ttl_ms=1000):
    return CaptionFinal(
        stream="cam0",
        rid=rid,
        rev=1,
        request_id=1,
        text="a mug",
        status="ok",
        n_tok=2,
        stop="eos",
        score=None,
        score_kind="none",
        src_seqs=(1,),
        captured_ns=captured_ns,
        box=(0, 0, 1, 1),
        trigger="new",
        model="m",
        bundle_sha="s",
        precision="p",
        ttl_ms=ttl_ms,
    )


def test_captions_are_renewed_run_out_and_end():
    book = RegionCache(max_regions=2)
    book.apply(final("mug", 0))
    assert book.get("cam0", "mug").holds(999_999_999)
    assert not book.get("cam0", "mug").holds(1_000_000_000)
    renewed = CaptionSame(
        stream="cam0", rid="mug", request_id=2, same_rev=1, captured_ns=5 * 10**9, ttl_ms=1000
    )
    book.apply(renewed)
    assert book.get("cam0", "mug").holds(5_500_000_000)
    book.apply(
        TrackEnd(stream="cam0", rid="mug", seq=1, captured_ns=0, box=(0, 0, 1, 1), reason="removed")
    )
    assert book.get("cam0", "mug") is None
    for rid in "abc":
        book.apply(final(rid, 0))
    assert book.get("cam0", "a") is None, "the book is bounded"
    assert book.get("cam0", "c") is not None
