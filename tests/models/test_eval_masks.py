"""`ureca eval masks`: measures, held-out pictures, and a segmenter whose answers are exact."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.errors import ConfigError
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.masks.cases import read_cases
from ureca.models.evaluation.masks.measures import (
    compute_average_recall,
    compute_iou_matrix,
)
from ureca.models.evaluation.masks.run import Results, evaluate_picture, summarise
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.protocol import rle

SIZE = (60, 80)


def test_recall_is_averaged_over_the_thresholds() -> None:
    assert compute_average_recall([1.0, 0.0]) == pytest.approx(0.5)
    assert compute_average_recall([0.74]) == pytest.approx(0.5)  # .5 .55 .6 .65 .7 of ten
    one, other = np.zeros((1, 4), bool), np.ones((1, 4), bool)
    one[0, :2] = True
    assert compute_iou_matrix([one], [other, one]).tolist() == [[0.5, 1.0]]
    assert compute_iou_matrix([], [one]).shape == (0, 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of a development split: two shapes of one colour each, and one on a third of them
    that only has a box.
    """
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(3):
        picture = np.full((*SIZE, 3), 90, np.uint8)
        shapes = {"a": np.zeros(SIZE, np.uint8), "b": np.zeros(SIZE, np.uint8)}
        cv2.circle(shapes["a"], (20 + number, 30), 12, 1, -1)
        shapes["b"][10:40, 50:70] = 1
        for shape, colour in zip(shapes.values(), ((220, 30, 30), (30, 30, 220)), strict=True):
            picture[shape > 0] = colour
        cv2.imwrite(str(root / "images" / f"k{number}.png"), picture[..., ::-1])
        for name, shape in shapes.items():
            rows.append(
                {
                    "region_id": f"k{number}_{name}",
                    "image_key": f"k{number}",
                    "bbox": list(cv2.boundingRect(shape)),
                    "rle": {"size": list(SIZE), "counts": rle.encode(shape > 0).counts},
                    "mask_source": "gt:test" if name == "a" or number else "pseudo:grabcut",
                    "source": "ureca-worlds",
                    "part": name == "b",
                    "split": "dev",
                }
            )
    with gzip.open(root / "regions-dev.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return root


def test_exact_answers_score_one_and_pseudo_masks_do_not_count(data) -> None:
    cases = read_cases([data], every=16, limit=None)
    assert sum(len(case.records) for case in cases) == 5
    results = Results()
    for case in cases:
        image = cv2.imread(str(data / "images" / f"{case.image_key}.png"))[..., ::-1].copy()
        evaluate_picture(ScriptedSegmenter(), image, case, results, with_tidy=True)
    figures = summarise(results)
    assert figures["n"] == 5
    for name in ("click_iou", "click_chosen_iou", "box_iou", "everything_recall_50"):
        assert figures[name] == 1.0, name
    assert figures["box_tidy_iou"] > 0.9
    assert set(figures["by_source"]) == {"ureca-worlds part", "ureca-worlds thing"}
    assert figures["coverage"]["ureca-worlds"] == 1.0
    assert [case.image_key for case in read_cases([data], every=16, limit=1)] == [
        cases[0].image_key
    ]


def test_the_command_says_what_it_cannot_do(data, tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds neither a bundle"):
        main(["masks", "--bundle", str(tmp_path), "--data", str(data)])
    with pytest.raises(ConfigError, match="has no regions"):
        read_cases([tmp_path], every=16, limit=None)
    with gzip.open(data / "regions-dev.jsonl.gz", "wt") as file:
        file.write("")
    with pytest.raises(ConfigError, match="no held-out pictures with true masks"):
        read_cases([data], every=16, limit=None)


def test_the_command_prints_one_object(data, tmp_path, capsys) -> None:
    import torch

    from ureca.models.nano.masks.checkpoint import save_mask_checkpoint
    from ureca.models.nano.masks.config import MaskHeadConfig
    from ureca.models.nano.masks.network import MaskNetwork

    torch.manual_seed(0)
    config = MaskHeadConfig(trunk="efficientnet-lite0", canvas_px=(64, 96), channels=16)
    save_mask_checkpoint(tmp_path / "head", MaskNetwork(config))
    command = ["masks", "--bundle", str(tmp_path / "head"), "--data", str(data)]
    assert main([*command, "--json", "--no-tidy", "-o", str(tmp_path / "figures.json")]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((tmp_path / "figures.json").read_text())
    assert {"click_iou", "box_iou", "everything_recall_50", "n", "by_source"} <= set(figures)
    assert figures["click_tidy_iou"] is None
    assert figures["panoptic_quality"]["ureca-worlds"] is not None
    assert main([*command, "--no-tidy"]) == 0
    assert "ureca-worlds thing" in capsys.readouterr().out
