"""Panoptic quality, and Pix2Cap's caption scores: one fixture for each defect of the released
code.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.errors import ConfigError, SourceError
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.panoptic.captions import (
    compute_map,
    compute_matched_share,
    compute_released_meteor,
    compute_word_meteor,
    score_as_released,
    score_corrected,
)
from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment, read_panoptic_cases
from ureca.models.evaluation.panoptic.coco_files import read_coco_panoptic
from ureca.models.evaluation.panoptic.matching import (
    PredictedSegment,
    Prediction,
    SegmentPair,
    match_segments,
)
from ureca.models.evaluation.panoptic.quality import (
    HeadNouns,
    average_classes,
    count_kind,
    count_matches,
)
from ureca.models.evaluation.panoptic.run import summarise
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.panoptic.coco_format import encode_segment_png
from ureca.protocol import rle


def case(ids: np.ndarray, *segments: TrueSegment) -> PanopticCase:
    return PanopticCase("p", ids.astype(np.int64), segments)


def predicted(ids: np.ndarray, *segments: PredictedSegment) -> Prediction:
    return Prediction(ids.astype(np.int64), segments)


def halves(left: int, right: int) -> np.ndarray:
    """A map 10 x 10 of two numbers."""
    ids = np.full((10, 10), left)
    ids[:, 5:] = right
    return ids


DOG = TrueSegment(1, "dog", ("a small dog", "the dog"))
GRASS = TrueSegment(2, "grass", ("the green grass",), stuff=True)
SAID_DOG = PredictedSegment(1, "a small dog", score=0.9)
SAID_GRASS = PredictedSegment(2, "the green grass", score=0.5, stuff=True)


# --- panoptic quality ----------------------------------------------------------------------------


def test_matches_misses_and_inventions_count_and_void_is_left_out() -> None:
    truth = np.zeros((10, 10))
    truth[:5], truth[5:8] = 1, 2  # the last two rows: nobody said
    ids = np.zeros((10, 10))
    ids[:4], ids[8:] = 5, 6  # 6 lies in the void only
    found = predicted(ids, PredictedSegment(5), PredictedSegment(6))
    counts = count_matches(match_segments(case(truth, DOG, GRASS), found))
    assert counts.iou_sum == pytest.approx(0.8)
    assert (counts.matched, counts.missed, counts.invented) == (1, 1, 0)
    assert (counts + counts).quality == pytest.approx(1.6 / 3)
    assert found.coverage == pytest.approx(0.6)


def test_pixels_of_a_pair_in_the_void_do_not_lower_its_overlap() -> None:
    truth = np.zeros((10, 10))
    truth[:4] = 1
    matches = match_segments(case(truth, DOG), predicted(np.ones((10, 10)), SAID_DOG))
    assert [pair.iou for pair in matches.pairs] == [1.0]  # as COCO's own code pairs them


def test_a_crowd_is_nothing_to_be_found_and_hides_what_is_on_it() -> None:
    truth = case(halves(1, 2), DOG, replace(GRASS, crowd=True))
    matches = match_segments(truth, predicted(halves(1, 2), SAID_DOG, SAID_GRASS))
    assert [pair.true.number for pair in matches.pairs] == [1]
    assert not matches.missed
    assert not matches.invented
    assert matches.crowds == 1


def test_the_head_noun_decides_on_classes() -> None:
    truth = case(halves(1, 2), DOG, GRASS)
    found = predicted(halves(1, 2), replace(SAID_DOG, caption="a brown cat"), SAID_GRASS)
    nouns = HeadNouns()
    matches = match_segments(truth, found, agrees=nouns.agrees)
    assert [pair.true.category for pair in matches.pairs] == ["grass"]
    counts = nouns.count_classes([truth], [matches])
    assert counts["dog"].missed == 1
    assert counts["dog"].invented == 0  # nobody knows cats here
    assert average_classes(counts)["pq"] == pytest.approx(0.5)
    plain = match_segments(truth, found)
    assert count_kind(plain, stuff=True).matched == count_kind(plain, stuff=False).matched == 1


def test_figures_of_a_run_say_what_has_no_caption_and_why() -> None:
    nameless = replace(SAID_GRASS, caption="", reason="the captioner was stopped")
    rows = [(case(halves(1, 2), DOG, GRASS), predicted(halves(1, 2), SAID_DOG, nameless))] * 2
    figures = summarise(rows, seed=0, meteor=False)
    assert {"pq", "sq", "rq", "coverage", "captions", "n"} <= set(figures)
    assert (figures["pq"], figures["n"], figures["coverage"]) == (1.0, 2, 1.0)
    assert figures["pq_interval"] == [1.0, 1.0]
    assert figures["segments"]["captioned"] == 2
    assert figures["segments"]["reasons"] == {"the captioner was stopped": 2}
    assert figures["head_noun"]["matched"] == 2


# --- captions: the released formula and the corrected one ----------------------------------------

MATCHES = match_segments(case(halves(1, 2), DOG, GRASS), predicted(halves(1, 2), SAID_DOG))


def test_both_formulas_multiply_by_the_share_of_matched_segments() -> None:
    assert compute_matched_share([MATCHES]) == 0.5
    released, corrected = score_as_released([MATCHES]), score_corrected([MATCHES], None)
    assert released["rouge_l"] == corrected["rouge_l"] == 0.5
    assert corrected["unweighted"]["rouge_l"] == 1.0


def test_defect_meteor_is_switched_off() -> None:
    class OneMeteor:
        def match(self, _caption, _references):
            return "row"

        def evaluate(self, rows):
            return [0.8 for _ in rows], 0.8

    assert score_as_released([MATCHES])["meteor"] == 0.0
    assert score_corrected([MATCHES], OneMeteor())["meteor"] == pytest.approx(0.4)
    assert score_corrected([MATCHES], None)["meteor"] is None


def test_defect_rouge_and_spice_change_places_when_printed() -> None:
    released = score_as_released([MATCHES])
    assert released["printed"] == {"rouge": None, "spice": released["rouge_l"]}  # SPICE: none
    assert "printed" not in score_corrected([MATCHES], None)


def pair(
    true: str, said: str, *, number: int = 1, iou: float = 0.9, score: float = 1
) -> SegmentPair:
    return SegmentPair(
        TrueSegment(number, "", (true,)), PredictedSegment(number, said, score=score), iou
    )


def test_defect_candidate_and_reference_are_exchanged() -> None:
    assert compute_word_meteor(["a"], [["a", "dog"]]) < compute_word_meteor(["a", "dog"], [["a"]])
    # One word of one against one word of two: precision and recall change places.
    assert compute_word_meteor(["a"], [["a", "dog"]]) == pytest.approx(0.5 * 0.5 / 0.95)
    released = compute_released_meteor(pair("a", "a dog"))
    assert released == pytest.approx(0.5)  # the truth "a" against the reference "a": equal
    assert compute_released_meteor(pair("a dog", "a")) == pytest.approx(0.5 * (0.5 / 0.55))


def test_defect_the_prediction_is_read_character_by_character() -> None:
    assert compute_released_meteor(pair("black dog", "black dog")) == 0.0
    assert compute_word_meteor(["black", "dog"], [["black", "dog"]]) == pytest.approx(0.9375)


def test_defect_detections_are_not_sorted() -> None:
    wrong = pair("a dog", "a cat on mats", number=1, iou=0.2, score=0.1)
    right = pair("a dog", "a dog", number=2, score=0.9)
    unsorted = replace(MATCHES, pairs=(right,), missed=(), overlaps=(wrong, right))
    assert score_corrected([unsorted], None)["map"] == 1.0
    assert compute_map([0.2, 0.9], [1, 1], 1) == 0.5


def test_defect_crowds_count_as_segments_to_be_found() -> None:
    only = pair("a", "a", number=1)
    matches = replace(MATCHES, pairs=(only,), missed=(), overlaps=(only,))
    crowded = replace(matches, crowds=1)
    assert score_as_released([matches])["map"] == 1.0
    assert score_as_released([crowded])["map"] == pytest.approx(51 / 101, abs=1e-3)
    assert score_corrected([crowded], None)["map"] == score_corrected([matches], None)["map"] == 1.0


def test_defect_every_overlap_is_a_detection() -> None:
    best = pair("a", "a", number=1)
    touching = SegmentPair(TrueSegment(2, "", ("a",)), best.predicted, 0.05)
    matches = replace(MATCHES, pairs=(best,), missed=(), overlaps=(touching, best))
    assert score_as_released([matches])["map"] == 0.5
    assert score_corrected([matches], None)["map"] == 1.0


def test_nothing_to_compare_is_nothing_to_score() -> None:
    nothing = match_segments(case(halves(1, 2), DOG, GRASS), predicted(halves(0, 0)))
    assert score_as_released([nothing])["cider"] is None
    assert score_corrected([nothing], None)["map"] == 0.0


# --- files and the command -----------------------------------------------------------------------


def write_data(root: Path, *, split: str = "test") -> Path:
    """Two pictures of which one is annotated pixel by pixel."""
    (root / "images").mkdir(parents=True)
    image = np.full((96, 128, 3), 90, np.uint8)
    image[30:70, 40:90] = (30, 30, 220)
    regions, images = [], []
    for key, panoptic in (("one", True), ("two", "semantic only")):
        cv2.imwrite(str(root / "images" / f"{key}.png"), image)
        images.append({"image_key": key, "width": 128, "height": 96, "panoptic": panoptic})
        thing = image[..., 2] == 220
        for name, mask, stuff in (("box", thing, False), ("wall", ~thing, True)):
            packed = rle.encode(mask)
            regions.append(
                {
                    "region_id": f"{key}-{name}",
                    "image_key": key,
                    "bbox": [0, 0, 128 - 64 * (not stuff), 96],
                    "rle": {"size": list(packed.size), "counts": packed.counts},
                    "category": name,
                    "stuff": stuff,
                    "expressions": [f"a {name}"],
                    "mask_source": "gt:x",
                    "split": split,
                }
            )
    for name, rows in (("images", images), ("regions", regions)):
        with gzip.open(root / f"{name}-{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return root


def test_only_pictures_with_every_pixel_annotated_count(tmp_path) -> None:
    (found,) = read_panoptic_cases([write_data(tmp_path / "data")], every=16)
    assert found.image_key == "one"
    assert [one.category for one in found.segments] == ["wall", "box"]
    assert found.segments[0].stuff
    assert (found.ids > 0).all()
    root = write_data(tmp_path / "train", split="train")
    with pytest.raises(ConfigError, match="no held-out pictures"):
        read_panoptic_cases([root], every=10**9)
    (used,) = read_panoptic_cases([root], every=10**9, held_out=False)
    assert used.image_key == "one"


def test_the_command_judges_the_shipped_bundle(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data")
    out = tmp_path / "figures.json"
    argv = ["panoptic", "--data", str(data), "--bundle", str(require_bundle()), "--no-meteor"]
    assert main([*argv, "--json", "-o", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(out.read_text())
    assert {"pq", "sq", "rq", "coverage", "captions", "n"} <= set(figures)
    assert figures["n"] == 1
    assert figures["coverage"] > 0.97
    assert figures["segments"]["predicted"] == figures["segments"]["captioned"] > 0
    assert main(argv) == 0
    assert "captions, corrected" in capsys.readouterr().out


def write_coco(path: Path, text: str) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    (folder / "one.png").write_bytes(encode_segment_png(halves(7, 70_000)))
    rows = [
        {"id": 7, "category_id": 1, "iscrowd": 0, "description": text},
        {"id": 70_000, "category_id": 2, "iscrowd": 0, "description": "the green grass"},
    ]
    annotation = {"image_id": 1, "file_name": "one.png", "segments_info": rows}
    categories = [{"id": 1, "name": "dog", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]
    images = [{"id": 1, "file_name": "one.jpg", "width": 10, "height": 10}]
    content = {"images": images, "annotations": [annotation], "categories": categories}
    path.write_text(json.dumps(content))
    return path


def test_any_systems_panoptic_files_are_judged(tmp_path, capsys) -> None:
    truth = write_coco(tmp_path / "truth.json", "a small dog")
    said = write_coco(tmp_path / "said.json", "a small dog")
    argv = ["panoptic", "--coco", str(truth), "--no-meteor", "--json", "--by-class"]
    assert main([*argv, "--predictions", str(said)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["pq"], figures["n"], figures["coverage"]) == (1.0, 1, 1.0)
    assert figures["captions"]["corrected"]["rouge_l"] == 1.0
    assert figures["stuff"]["matched"] == 1
    with pytest.raises(SystemExit):
        main(argv)
    (tmp_path / "truth" / "one.png").unlink()
    with pytest.raises(SourceError, match=r"no one\.png in"):
        list(read_coco_panoptic(truth))
