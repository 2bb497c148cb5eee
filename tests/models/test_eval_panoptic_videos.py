"""VPQ, STQ and kept ids: figures worked out by hand, and pixel by pixel in another way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ureca.errors import ConfigError
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment
from ureca.models.evaluation.panoptic.matching import PredictedSegment, Prediction, count_pixels
from ureca.models.evaluation.panoptic.videos import VideoFrame, judge_videos
from ureca.models.runtime.segmentation.panoptic.coco_format import encode_segment_png


def halves(left: int, right: int) -> np.ndarray:
    """A map 10 x 10 of two numbers."""
    ids = np.full((10, 10), left, np.int64)
    ids[:, 5:] = right
    return ids


DOG, GRASS = TrueSegment(1, "dog"), TrueSegment(2, "grass", stuff=True)


def frame(number, true, said, *, video="v", crowd=False, stuff=(2,), classes=None) -> VideoFrame:
    segments = {1: DOG, 2: GRASS}
    if crowd:
        segments[1] = TrueSegment(1, "dog", crowd=True)
    names = classes or {}
    predicted = tuple(
        PredictedSegment(n, stuff=n in stuff, category=names.get(n, ""))
        for n in map(int, np.unique(said))
        if n
    )
    case = PanopticCase("p", true, tuple(segments[n] for n in map(int, np.unique(true)) if n))
    return VideoFrame(video, number, case, Prediction(said, predicted), count_pixels(true, said))


def test_what_is_right_on_every_frame_is_one() -> None:
    found = judge_videos([frame(n, halves(1, 2), halves(1, 2)) for n in range(5)])
    assert found["vpq"] == found["stq"] == found["aq"] == found["sq_classes"] == 1.0
    assert [found["vpq_windows"][str(k)]["matched"] for k in (1, 2, 3, 4)] == [10, 8, 6, 4]
    assert found["ids_kept"]["things"] == {"share": 1.0, "found": 5, "n": 5}


def test_an_id_that_changes_costs_windows_and_tracking_but_no_single_frame() -> None:
    frames = [frame(0, halves(1, 2), halves(1, 2)), frame(1, halves(1, 2), halves(3, 2))]
    found = judge_videos(frames)
    assert found["vpq_windows"]["1"]["pq"] == 1.0
    # Two frames as one: the dog's pixels are half of each id's union, .5 is no pair.
    assert found["vpq_windows"]["2"] == {
        "pq": 0.4,
        "sq": 1.0,
        "rq": 0.4,
        "matched": 1,
        "missed": 1,
        "invented": 2,
    }
    assert found["vpq_windows"]["3"]["pq"] is None
    assert found["vpq"] == 0.7
    # AQ: two ids, each with half of the pixels and IoU .5: .25 + .25.
    assert (found["aq"], found["sq_classes"]) == (0.5, 1.0)
    assert found["stq"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert found["ids_kept"]["things"] == {"share": 0.5, "found": 2, "n": 2}
    assert found["ids_kept"]["stuff"] == {"share": 1.0, "found": 2, "n": 2}


def test_a_thing_that_is_called_stuff_costs_its_class_and_its_track() -> None:
    found = judge_videos([frame(0, halves(1, 2), halves(1, 2), stuff=(1, 2))])
    assert found["vpq"] == 1.0  # without classes
    # Things: IoU 0; stuff: 50 right of 100 said.
    assert (found["aq"], found["sq_classes"], found["stq"]) == (0.0, 0.25, 0.0)


def test_with_classes_only_what_agrees_is_a_pair() -> None:
    said = {"classes": {1: "cat", 2: "grass"}}
    found = judge_videos([frame(0, halves(1, 2), halves(1, 2), **said)], by_class=True)
    assert found["vpq_windows"]["1"]["matched"] == 1
    assert found["sq_classes"] == pytest.approx(1 / 3, abs=1e-4)  # dog 0, cat 0, grass 1
    assert found["aq"] == 1.0  # ids are followed whatever they are called


def test_crowds_and_the_void_count_nowhere() -> None:
    wrong = frame(0, halves(1, 2), halves(3, 2), crowd=True)
    found = judge_videos([wrong])
    assert (found["vpq"], found["sq_classes"], found["aq"]) == (1.0, 1.0, None)
    empty = judge_videos([frame(0, halves(1, 0), halves(1, 1))])
    assert (empty["vpq"], empty["aq"], empty["stq"]) == (1.0, 1.0, 1.0)


def test_ids_of_two_videos_have_nothing_to_do_with_each_other() -> None:
    frames = [
        frame(0, halves(1, 2), halves(1, 2), video="a"),
        frame(1, halves(1, 2), halves(1, 2), video="a"),
        frame(0, halves(1, 2), halves(7, 2), video="b"),
        frame(1, halves(1, 2), halves(7, 2), video="b"),
    ]
    found = judge_videos(frames)
    assert (found["vpq"], found["stq"], found["videos"]) == (1.0, 1.0, 2)
    assert found["ids_kept"]["things"]["share"] == 1.0


def follow_pixel_by_pixel(frames: list[VideoFrame]) -> tuple[float, float]:
    """AQ and SQ from lists of pixels, as the definition says."""
    true, said, both = Counter(), Counter(), Counter()
    classes = Counter()
    for number, one in enumerate(frames):
        for t, p in zip(one.case.ids.ravel().tolist(), one.found.ids.ravel().tolist(), strict=True):
            true[t] += t == 1
            said[p] += p not in (0, 2)
            both[t, p] += t == 1 and p not in (0, 2)
            kinds = (t == 1, None if p == 0 else p != 2)
            classes[kinds] += 1
        assert number < len(frames)
    aq = sum(n / true[t] * n / (true[t] + said[p] - n) for (t, p), n in both.items() if n)
    ious = []
    for kind in (True, False):
        hit = classes[kind, kind]
        rows = sum(n for (t, _), n in classes.items() if t is kind)
        columns = sum(n for (_, p), n in classes.items() if p is kind)
        ious.append(hit / (rows + columns - hit))
    return aq, sum(ious) / 2


@pytest.mark.parametrize("seed", range(6))
def test_tracking_quality_is_that_of_the_definition(seed) -> None:
    rng = np.random.default_rng(seed)
    frames = [
        frame(n, rng.integers(1, 3, (6, 7)), rng.choice([0, 1, 2, 5], (6, 7))) for n in range(3)
    ]
    aq, sq = follow_pixel_by_pixel(frames)
    found = judge_videos(frames)
    assert found["aq"] == pytest.approx(aq, abs=1e-4)
    assert found["sq_classes"] == pytest.approx(sq, abs=1e-4)


# --- files and the command -----------------------------------------------------------------------


def write_video(path: Path, maps: dict[int, np.ndarray], *, video: str = "v") -> Path:
    path.with_suffix("").mkdir()
    images, annotations = [], []
    for number, ids in maps.items():
        name = f"{path.stem}-{number}.png"
        (path.with_suffix("") / name).write_bytes(encode_segment_png(ids))
        row = {"id": number, "file_name": name, "width": 10, "height": 10}
        images.append(row | {"video_id": video, "frame_id": number})
        rows = [
            {"id": n, "category_id": 1 + (n == 2), "description": f"number {n}"}
            for n in map(int, np.unique(ids))
        ]
        annotations.append({"image_id": number, "file_name": name, "segments_info": rows})
    names = [{"id": 1, "name": "dog", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": names}
    path.write_text(json.dumps(content))
    return path


def test_the_command_judges_a_run_over_time(tmp_path, capsys) -> None:
    truth = write_video(tmp_path / "truth.json", {n: halves(1, 2) for n in range(7)})
    said = {0: halves(1, 2), 3: halves(1, 2), 6: halves(4, 2)}
    run = write_video(tmp_path / "run.json", said)
    argv = ["panoptic", "--video", "--coco", str(truth), "--predictions", str(run), "--no-meteor"]
    assert main([*argv, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n"], figures["frames_true"], figures["pq"]) == (3, 7, 1.0)
    assert figures["pq_interval"] is None
    assert figures["over_time"]["vpq_windows"]["2"]["matched"] == 3
    assert figures["over_time"]["ids_kept"]["things"]["share"] == pytest.approx(2 / 3, abs=1e-4)
    assert main([*argv, "--by-class"]) == 0
    assert "3 of 7 frames have a map" in capsys.readouterr().out


def test_frames_that_do_not_fit_are_refused(tmp_path) -> None:
    truth = write_video(tmp_path / "truth.json", {0: halves(1, 2)})
    other = write_video(tmp_path / "other.json", {0: halves(1, 2)}, video="w")
    small = write_video(tmp_path / "small.json", {0: halves(1, 2)[:5]})
    start = ["panoptic", "--video", "--coco", str(truth)]
    with pytest.raises(ConfigError, match="has no frame of"):
        main([*start, "--predictions", str(other)])
    with pytest.raises(ConfigError, match=r"has \[5, 10\]"):
        main([*start, "--predictions", str(small)])
    with pytest.raises(SystemExit):
        main([*start, "--bundle", "x"])
