"""Masks and boxes as people have them, on their way in: frames, prompt files, requests."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.node.conftest import Replay
from tests.node.inputs_rig import picture
from tests.ports import free_port
from ureca.client.frame_publisher import FramePublisher
from ureca.client.shared import describe_args, wire_args
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame, RegionSeed, TextPrompt
from ureca.errors import ConfigError, RegionError, SourceError, WireError
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.sources.frame_receiver import FrameReceiver
from ureca.node.sources.prompt_file import load_prompts
from ureca.protocol import rle, wire

FIELD = Path(__file__).resolve().parents[3] / "shared" / "field"
IMAGE = picture(0)
HEIGHT, WIDTH = IMAGE.shape[:2]
MASK = np.zeros((HEIGHT, WIDTH), np.bool_)
MASK[20:60, 30:80] = True


class Sent(FramePublisher):
    """A publisher that keeps what it sends."""

    def _send(self, parts: list[bytes]) -> bool:
        self.messages = [*getattr(self, "messages", []), parts]
        return True


@pytest.fixture
def camera() -> Iterator[Sent]:
    with Sent(f"tcp://127.0.0.1:{free_port()}") as made:
        yield made


def received(parts: list[bytes]) -> tuple[Frame | None, dict[str, int]]:
    counters = NodeCounters()
    receiver = FrameReceiver(NodeConfig(), clock=MonotonicClock(), counters=counters, is_local=True)
    receiver.came(parts[0])
    frame = receiver.frame(parts)
    receiver.close()
    return frame, counters.balance().frames_dropped


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "regions",
    [
        MASK[None],
        [MASK],
        [MASK.astype(np.uint8) * 255],
        [RegionSeed(rid=3, label=5, mask=MASK)],  # type: ignore[arg-type]
        [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": rle.encode(MASK).counts}}],
        [{"segmentation": [[30, 20, 80, 20, 80, 60, 30, 60]], "bbox": [30, 20, 50, 40]}],
    ],
    ids=["array", "list", "0/255", "numbers", "coco rle", "coco polygon"],
)
def test_a_frame_takes_regions_as_they_are(camera: Sent, regions: Any) -> None:
    camera.send(IMAGE, captured_ns=np.int64(MonotonicClock().now_ns()), regions=regions)
    frame, dropped = received(camera.messages[0])
    assert frame is not None, dropped
    assert frame.refused == ()
    assert frame.regions is not None
    found = seed_mask(frame.regions[0], frame.image)
    assert (found & MASK).sum() / (found | MASK).sum() > 0.95


def test_prompts_and_boxes_of_numpy(camera: Sent) -> None:
    box = np.asarray([30, 20, 80, 60], np.float32)
    camera.send(IMAGE, regions=[box], prompts=[box, {"point": [40, 40]}, TextPrompt("a cup")])
    frame, _ = received(camera.messages[0])
    assert frame is not None
    assert frame.regions is not None
    assert frame.regions[0].box_xyxy_px == (30, 20, 80, 60)
    assert [one.point_xy_px for one in frame.prompts] == [None, (40, 40)]
    assert len(frame.texts) == 1


def test_bgr(camera: Sent) -> None:
    camera.send(IMAGE[:, :, ::-1], bgr=True)
    frame, _ = received(camera.messages[0])
    assert frame is not None
    assert np.array_equal(frame.image, IMAGE)


@pytest.mark.parametrize(
    ("image", "more", "error"),
    [
        (IMAGE, {"regions": [object()]}, RegionError),
        (IMAGE, {"regions": [(0.1, 0.1, 0.2, 0.2)]}, RegionError),
        (IMAGE, {"prompts": ["a mug"]}, RegionError),
        (IMAGE, {"captured_ns": 1.7e9}, SourceError),
        (IMAGE[:, :, 0], {}, SourceError),
        (IMAGE.astype(float), {}, SourceError),
        (None, {}, SourceError),
    ],
)
def test_a_send_that_raises_uses_up_no_number(
    camera: Sent, image: Any, more: dict[str, Any], error: type[Exception]
) -> None:
    assert camera.send(IMAGE) == 0
    with pytest.raises(error):
        camera.send(image, **more)
    assert camera.next_seq == 1
    assert camera.send(IMAGE) == 1


def test_an_encoder_that_fails_uses_up_no_number() -> None:
    fail = [True]

    def encode(image: Any) -> bytes:
        if fail[0]:
            raise OSError("no encoder")
        return b"\xff\xd8 no picture"

    with Sent(f"tcp://127.0.0.1:{free_port()}", encoder=encode) as camera:
        with pytest.raises(OSError, match="no encoder"):
            camera.send(IMAGE)
        fail[0] = False
        with pytest.raises(WireError):
            camera.send(IMAGE)
        assert camera.next_seq == 0


@pytest.mark.parametrize(
    "broken",
    [{"rid": 3}, {"label": 5}, {"box": [0, 1, 2]}, {"score": "high"}, {"label": "x" * 300}, 7],
    ids=str,
)
def test_a_region_of_a_wrong_form_costs_that_region(camera: Sent, broken: Any) -> None:
    camera.send(IMAGE, regions=[(30, 20, 80, 60)])
    topic, header, pixels = camera.messages[0]
    data = msgspec.msgpack.decode(header)
    one = {**data["regions"][0], **broken} if isinstance(broken, dict) else broken
    data["regions"].append(one)
    data["prompts"] = [7]
    frame, dropped = received([topic, msgspec.msgpack.encode(data), pixels])
    assert frame is not None, dropped
    assert len(frame.regions or ()) == 1
    assert len(frame.refused) == 2


def test_polygons_on_the_wire(camera: Sent) -> None:
    camera.send(IMAGE, regions=[{"polygon": [30, 20, 80, 20, 80, 60]}, {"polygon": [900, 900] * 3}])
    frame, _ = received(camera.messages[0])
    assert frame is not None
    assert frame.regions is not None
    assert len(frame.regions) == 1
    assert "outside" in frame.refused[0].reason
    node = Replay()
    node.play([frame])
    (region,) = node.events.of("track.new")
    assert np.allclose(region.box, (30, 20, 80, 60), atol=1)  # type: ignore[attr-defined]


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [MASK, np.asarray([30, 20, 80, 60.0]), {"bbox": [1, 2, 9, 9]}])
def test_requests(region: Any) -> None:
    args, _ = describe_args(region, "cam0", None, "short")
    assert args.region is not None
    plain = wire_args("region.add", {"stream": "cam0", "region": region})
    assert msgspec.convert(plain["region"], wire.WireRegion) == args.region
    given = {"box": [1, 2, 3, 4]}
    assert wire_args("region.add", {"stream": "cam0", "region": given})["region"] == given


def test_an_image_of_a_request_is_checked_where_it_is_made() -> None:
    for image in (IMAGE[:, :, 0], IMAGE.astype(np.float32), b"RIFF....WEBPVP8 " + bytes(40), b""):
        with pytest.raises(WireError):
            describe_args((1, 2, 3, 4), None, image, "short")


# --- prompt files ---------------------------------------------------------------------------------


def written(folder: Path, content: Any, name: str = "p.json", encoding: str = "utf-8") -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(encoding))
    return path


COCO = {
    "images": [
        {"id": 7, "file_name": "f10.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 8, "file_name": "f2.jpg", "width": WIDTH, "height": HEIGHT},
    ],
    "annotations": [
        {"id": 1, "image_id": 8, "category_id": 1, "bbox": [30, 20, 50, 40], "segmentation": []},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 1,
            "bbox": [30, 20, 50, 40],
            "segmentation": [[30, 20, 80, 20, 80, 60]],
        },
    ],
    "categories": [{"id": 1, "name": "dog"}],
}


def test_a_coco_file(tmp_path: Path) -> None:
    prompts = load_prompts(written(tmp_path, COCO))
    (first,), (second,) = prompts[0], prompts[1]
    assert isinstance(first, RegionSeed)
    assert isinstance(second, RegionSeed)
    assert (first.box_xyxy_px, first.label) == ((30, 20, 80, 60), "dog")
    assert len(second.polygons_xy_px) == 1


def test_entries_with_fields_of_coco(tmp_path: Path) -> None:
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, MASK.T.reshape(-1).astype(int), 2])))
    entries = [
        {"frame": 4, "bbox": [30, 20, 50, 40], "label": "dog"},
        {"mask": {"size": [HEIGHT, WIDTH], "counts": runs.tolist()}},
        {"polygon": [[30, 20], [80, 20], [80, 60]]},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": rle.encode(MASK).counts}},
    ]
    prompts = load_prompts(written(tmp_path, entries))
    assert prompts[4][0].label == "dog"
    assert [one.mask == rle.encode(MASK) for one in prompts[0]] == [True, False, True]  # type: ignore[union-attr]


def test_label_files_of_ultralytics_begin_where_the_size_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, "0 0.5 0.5 0.25 0.5\n3 0.1 0.1 0.4 0.1 0.4 0.5\n\n", "labels.txt")
    prompts = load_prompts(path)
    node = Replay(prompts=prompts)
    node.play([Frame("cam0", bytes(16), 9, 2_000_000_000, IMAGE)])
    first, second = node.events.of("track.new")
    assert (first.label, second.label) == ("0", "3")  # type: ignore[attr-defined]
    assert np.allclose(second.box, (12.8, 9.6, 51.2, 48), atol=1.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    prompts = load_prompts(
        written(tmp_path, [{"point": [9, 9], "label": "Tür"}], encoding=encoding)
    )
    assert prompts[0][0].label == "Tür"
    if encoding == "utf-8-sig":
        assert (tmp_path / "p.json").read_bytes().startswith(codecs.BOM_UTF8)


@pytest.mark.parametrize(
    ("content", "words", "name"),
    [
        ([{"box": [0.1, 0.1, 0.4, 0.5]}], "pixels are expected", "p.json"),
        ([{"bboxes": [1, 2, 3, 4]}], "an entry has frame, rid, mask", "p.json"),
        ([{"bbox": [1, 2, 3, 4], "colour": 1}], "unknown .'colour'.", "p.json"),
        ({"annotations": [{"id": 1}]}, "annotation 0", "p.json"),
        ({"regions": []}, "or a COCO file", "p.json"),
        ("0 10 20 30 40", "line 1: expected fractions", "l.txt"),
        ("0 0.5 0.5", "line 1: expected a class", "l.txt"),
        ("dog x y", "line 1", "l.txt"),
        ("[" * 100_000, "is not JSON", "p.json"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, words: str, name: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_prompts(written(tmp_path, content, name))


@pytest.mark.skipif(not FIELD.is_dir(), reason="needs ../shared/field")
@pytest.mark.parametrize("name", ["bom", "coco_ann", "unrle", "label"])
def test_files_of_reports(name: str) -> None:
    assert load_prompts(FIELD / f"prompts-{name}.json")[0]
