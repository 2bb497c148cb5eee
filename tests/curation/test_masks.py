"""`ureca curate masks`: teachers that must agree, and a run that can be stopped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.models.detector_graphs import make_queries
from tests.models.detector_scenes import NAMES, PLAIN
from tests.models.detector_scenes import picture as detector_picture
from ureca.errors import ConfigError
from ureca.models.curation.cli import main
from ureca.models.curation.masks import networks
from ureca.models.curation.masks.agreement import AgreementRule, decide
from ureca.models.curation.masks.detected import DetectorTeacher
from ureca.models.curation.masks.pipeline import read_finished
from ureca.models.curation.masks.prompted import PromptedTeacher
from ureca.models.curation.masks.teachers import TeacherMask
from ureca.models.data.regions import RegionRecord, read_regions
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.protocol import rle

SIZE = (40, 60)


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def record(name: str, box: tuple[int, int, int, int], **more: Any) -> RegionRecord:
    x0, y0, x1, y1 = box
    return RegionRecord(
        region_id=f"p_{name}",
        image_key=more.pop("image_key", "p"),
        shard="a.tar",
        source="test",
        height=SIZE[0],
        width=SIZE[1],
        counts=rle.encode(box_mask(*box)).counts,
        box_xywh_px=(x0, y0, x1 - x0, y1 - y0),
        mask_source=more.pop("mask_source", "box"),
        split="train",
        **more,
    )


def answer(mask: np.ndarray, trust: float, teacher: str) -> TeacherMask:
    return TeacherMask(mask, trust, teacher)


def test_two_that_agree_win_over_a_surer_one_that_stands_alone() -> None:
    rule = AgreementRule(agree=0.7, alone=0.7, bonus=0.1)
    one, twin = box_mask(0, 0, 20, 20), box_mask(0, 0, 20, 19)
    other = box_mask(30, 0, 60, 20)
    found = decide([answer(one, 0.5, "a"), answer(other, 0.9, "b"), answer(twin, 0.6, "c")], rule)
    assert found.outcome == "agreed"
    assert found.teachers == ("a", "c")
    assert found.answer is not None
    assert np.array_equal(found.answer.mask, twin)
    assert found.score == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([(0, 0.8)], "alone"),
        ([(0, 0.6)], "unsure"),
        ([(0, 0.6), (30, 0.5)], "disagreed"),
        ([(0, 0.6), (30, 0.75)], "alone"),
        ([], "no_answer"),
        ([(60, 0.9)], "no_answer"),  # an empty mask says nothing
    ],
)
def test_one_alone_must_be_trusted(answers, outcome) -> None:
    given = [answer(box_mask(x, 0, x + 20, 20), t, str(n)) for n, (x, t) in enumerate(answers)]
    assert decide(given, AgreementRule(agree=0.7, alone=0.7)).outcome == outcome


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with a box, a pseudo mask, and a true mask each; one teacher's answers."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    regions, answers = [], []
    for key in ("p", "q", "r"):
        picture = np.full((*SIZE, 3), 30, np.uint8)
        picture[5:25, 5:25], picture[5:25, 35:55] = (200, 0, 0), (0, 200, 0)
        cv2.imwrite(str(root / "images" / f"{key}.png"), picture[..., ::-1])
        for name, box, source in (
            ("red", (5, 5, 25, 25), "box"),
            ("green", (35, 5, 55, 26), "pseudo:grabcut"),
            ("true", (0, 30, 60, 40), "gt:test"),
        ):
            one = record(name, box, image_key=key, mask_source=source, category=name)
            regions.append({**one.to_json(), "region_id": f"{key}_{name}"})
        sam2 = {"mask_source": "teacher:sam2-hiera-tiny", "image_key": key}
        for name, box, said in (("red", (6, 6, 24, 24), 0.7), ("green", (35, 5, 55, 25), 0.6)):
            code = {"size": list(SIZE), "counts": rle.encode(box_mask(*box)).counts}
            answers.append(
                {
                    **sam2,
                    "region_id": f"{key}_{name}",
                    "rle": code,
                    "predicted_iou": said,
                    "bbox": [0, 0, 1, 1],
                }
            )
        part = record("head", (10, 5, 20, 12), image_key=key, part=True, category="head")
        answers.append(
            {
                **part.to_json(),
                "region_id": f"{key}_head",
                "mask_source": "pseudo:bodypix",
                "person_iou": 0.9,
            }
        )
    write(root / "regions-train.jsonl.gz", regions)
    write(tmp_path / "answers.jsonl.gz", answers)
    return root


def run(data: Path, out: Path, *more: str) -> int:
    answers = str(data.parent / "answers.jsonl.gz")
    return main(["masks", str(data), "-o", str(out), "--answers", answers, "--json", *more])


def test_kept_regions_keep_their_words_and_say_who_agreed(data, tmp_path, capsys) -> None:
    assert run(data, tmp_path / "out", "--sheet", "4") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["outcomes"] == {"unsure": 3, "agreed": 3, "found": 3}
    assert report["makers"] == {"teacher:grabcut+sam2": 3, "teacher:bodypix": 3}
    kept = {r.region_id: r for r in read_regions(tmp_path / "out" / "regions-train.jsonl.gz")}
    green = kept["q_green"]
    assert green.category == "green"
    assert green.box_xywh_px == (35, 5, 20, 21)  # grabcut's outline: the surer of the two
    assert green.mask_score == pytest.approx(0.68)
    assert kept["q_head"].part
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_a_stopped_run_goes_on_and_ends_the_same(data, tmp_path, capsys) -> None:
    run(data, tmp_path / "whole")
    run(data, tmp_path / "parts", "--limit", "1")
    lines = tmp_path / "parts" / "pictures.jsonl"
    assert len(read_finished(tmp_path / "parts")) == 1
    lines.write_bytes(lines.read_bytes() + b'{"image_key": "half')
    run(data, tmp_path / "parts")
    for name in ("pictures.jsonl", "report.json", "regions-train.jsonl.gz"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "parts"))
        assert one == other, name
    capsys.readouterr()
    with pytest.raises(ConfigError, match="other settings"):
        run(data, tmp_path / "parts", "--alone", "0.5")


def test_without_a_teacher_there_is_nothing_to_do(data, tmp_path) -> None:
    with pytest.raises(ConfigError, match="nobody answers"):
        main(["masks", str(data), "-o", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="no teacher 'sam9'; there are sam2"):
        main(["masks", str(data), "-o", str(tmp_path / "out"), "--teacher", "sam9"])


def test_a_segmenter_answers_boxes_and_finds_the_rest_once(data) -> None:
    image = cv2.imread(str(data / "images" / "p.png"))[..., ::-1].copy()
    red = record("red", (5, 5, 25, 25))
    plain = PromptedTeacher(ScriptedSegmenter(), name="sam2", everything=False)
    (found,) = plain.outline(image, [red])
    assert found is not None
    assert np.array_equal(found.mask, box_mask(5, 5, 25, 25))
    assert found.trust == pytest.approx(0.85)
    assert plain.discover(image, [red]) == []
    finder = PromptedTeacher(
        ScriptedSegmenter(),
        name="sam2",
        everything=True,
        detect=lambda _: [((35.0, 5.0, 55.0, 25.0), "leaf")],
    )
    masks = finder.discover(image, [red])
    assert sorted(int(one.answer.mask.sum()) for one in masks) == [400, 400, 1600]
    assert [one.category for one in masks if one.answer.mask[15, 45]] == ["leaf"]


def test_a_detector_finds_what_no_region_names(data) -> None:
    image = cv2.imread(str(data / "images" / "p.png"))[..., ::-1].copy()
    loose = record("red", (3, 4, 28, 28))  # as people draw boxes
    teacher = DetectorTeacher(ScriptedSegmenter())
    assert teacher.outline(image, [loose]) == [None]
    found = {one.category: one.answer for one in teacher.discover(image, [loose])}
    assert "red" not in found
    assert np.array_equal(found["green"].mask, box_mask(35, 5, 55, 25))
    assert found["green"].teacher == "scripted"


def test_a_detector_file_is_a_teacher_and_only_new_things_are_kept(data, tmp_path, capsys) -> None:
    model = make_queries(tmp_path / "detector.onnx", *SIZE)
    layout = f"layout: mask2former\nclasses: {list(NAMES)}\ninput: {PLAIN}\n"
    (tmp_path / "detector.yaml").write_text(layout)
    for key in ("p", "q", "r"):
        cv2.imwrite(str(data / "images" / f"{key}.png"), detector_picture(SIZE)[..., ::-1])
    more = ["--only-found", "--alone", "0.65", "--json"]
    out = tmp_path / "things"
    assert main(["masks", str(data), "-o", str(out), "--teacher", str(model), *more]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["outcomes"] == {"found": 3}
    found = list(read_regions(out / "regions-train.jsonl.gz"))
    assert {region.mask_source for region in found} == {"teacher:detector"}
    assert [region.category for region in found] == ["blue"] * 3  # red and green have boxes


class Fake:
    """A network that gives fixed maps."""

    def __init__(self, **outputs: np.ndarray) -> None:
        self.outputs = outputs

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs


def test_a_class_map_answers_by_name_inside_the_box() -> None:
    ids = np.zeros(SIZE, np.int64)
    ids[5:25, 10:20] = networks.VOC_NAMES.index("dog")
    ids[30:40, 40:60] = networks.VOC_NAMES.index("person")
    teacher = networks.ClassMapTeacher(
        "voc", Fake(ids=ids), classes=networks.VOC_NAMES, trusts={"dog": 0.8}, other_trust=0.7
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    asked = [
        record("a", (8, 4, 22, 26), category="dogs"),
        record("b", (38, 28, 60, 40), category="woman"),
        record("c", (0, 0, 60, 40), category="dog"),  # a sixth of its box: too little
        record("d", (8, 4, 22, 26), category="shirt"),
    ]
    dog, woman, little, shirt = teacher.outline(image, asked)
    assert dog is not None
    assert np.array_equal(dog.mask, box_mask(10, 5, 20, 25))
    assert dog.trust == pytest.approx(0.8)
    assert woman is not None
    assert little is shirt is None
    found = {one.category: one for one in teacher.discover(image, asked)}
    assert set(found) == {"dog", "person"}
    # Nobody drew a box: another teacher must agree.
    assert found["dog"].answer.trust < AgreementRule().alone


def test_body_parts_are_found_where_the_person_agrees() -> None:
    segments = np.full((10, 10, 1), 200, np.uint8)
    parts = np.zeros((10, 10, 24), np.uint8)
    parts[:5, :, 0], parts[5:, :, 12] = 250, 250
    teacher = networks.BodyPartTeacher(
        Fake(float_segments=segments[..., 0], float_part_heatmaps=parts)
    )
    person = record("man", (10, 0, 40, 40), category="man", mask_source="teacher:sam2")
    image = np.zeros((*SIZE, 3), np.uint8)
    found = {one.category: one for one in teacher.discover(image, [person])}
    assert set(found) == {"head", "torso"}
    assert found["head"].part
    rows = np.flatnonzero(found["head"].answer.mask.any(1))
    assert rows.min() == 0
    assert 17 <= rows.max() <= 22
    nobody = Fake(float_segments=np.zeros((10, 10), np.uint8), float_part_heatmaps=parts)
    assert networks.BodyPartTeacher(nobody).discover(image, [person]) == []
    boxed = record("man", (10, 0, 40, 40), category="man")
    assert teacher.discover(image, [boxed]) == []
