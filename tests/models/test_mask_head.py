"""The mask head: kernels, trunks, checkpoints, and a training that resumes exactly."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ureca.errors import ConfigError, WeightsError
from ureca.models.nano.detector import Detector, load_ncnn
from ureca.models.nano.masks.checkpoint import load_mask_checkpoint, save_mask_checkpoint
from ureca.models.nano.masks.config import MaskHeadConfig
from ureca.models.nano.masks.graphs import TorchMaskGraphs
from ureca.models.nano.masks.kernels import cut_at_boxes, draw, fold
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.segmentation.base import SegmenterPrompt
from ureca.models.runtime.segmentation.mask_head import OUTSIDE, MaskHeadSegmenter, cut_at_box
from ureca.models.training.masks.config import MaskSource, MaskTrainConfig
from ureca.models.training.masks.losses import (
    compute_mask_loss,
    compute_proposal_loss,
    compute_slot_shares,
)
from ureca.models.training.masks.plan import MaskPlan, Visit
from ureca.models.training.masks.samples import open_images, read_pictures
from ureca.models.training.masks.train import train
from ureca.protocol import rle

WEIGHTS = Path(os.environ.get("URECA_DATA", "../shared/data")).parent / "data2" / "weights"
SMALL = MaskHeadConfig(trunk="efficientnet-lite0", canvas_px=(64, 96), channels=16, map_channels=8)


def test_a_kernel_is_the_polynomial_that_the_page_says() -> None:
    torch.manual_seed(0)
    raw, masks = torch.randn(1, 1, 8 + 6), torch.randn(1, 8, 5, 7)
    middle, unit = torch.tensor([[[9.0, 6.0]]]), torch.tensor([[[20.0, 10.0]]])
    logits = draw(fold(raw, middle, unit), masks)[0, 0]
    weights, (a, b), (c, d), bias = raw[0, 0, :8], raw[0, 0, 8:10], raw[0, 0, 10:12], raw[0, 0, 12]
    a, b = (torch.nn.functional.softplus(one) for one in (a, b))
    for row, column in ((0, 0), (4, 6), (2, 3)):
        x, y = ((column + 0.5) * 4 - 9.0) / 20.0, ((row + 0.5) * 4 - 6.0) / 10.0
        wanted = weights @ masks[0, :, row, column] - a * x * x - b * y * y + c * x + d * y + bias
        assert logits[row, column] == pytest.approx(float(wanted), abs=1e-4)


def test_a_mask_ends_at_its_box() -> None:
    logits = cut_at_boxes(torch.ones(1, 1, 24, 32), torch.tensor([[[40.0, 20.0, 80.0, 60.0]]]))[
        0, 0
    ]
    rows, columns = np.nonzero(logits.numpy() > 0)
    # Centres of cells are at 4 n + 2; the margin is 6 % of 40 px and half a cell.
    assert (columns.min() * 4 + 2, columns.max() * 4 + 2) == (38, 82)
    assert (rows.min() * 4 + 2, rows.max() * 4 + 2) == (18, 62)
    assert logits.min() == OUTSIDE
    box = np.array([40, 20, 80, 60], np.float32)  # run time cuts as training does
    assert np.array_equal(cut_at_box(np.ones((24, 32), np.float32), box), logits.numpy())


def test_the_loss_prefers_the_mask_and_weighs_small_ones() -> None:
    wanted = torch.zeros(2, 16, 16)
    wanted[0, :8], wanted[1, :2, :2] = 1, 1
    right, wrong = (wanted * 2 - 1) * 8, (1 - wanted * 2) * 8
    assert (compute_mask_loss(right, wanted) < 0.1).all()
    assert (compute_mask_loss(wrong, wanted) > 2).all()


def test_boxes_that_drift_cost_where_something_was_seen() -> None:
    want = torch.zeros(1, 2, 85)
    want[0, 0, 4] = want[0, 0, 7] = 0.9  # the first cell sees something
    assert float(compute_proposal_loss(want, want)) == pytest.approx(0, abs=1e-4)
    elsewhere, there, silent = want.clone(), want.clone(), want.clone()
    elsewhere[0, 1, :4], there[0, 0, :4], silent[0, 0, 4] = 2.0, 2.0, 0.0
    assert float(compute_proposal_loss(elsewhere, want)) == pytest.approx(0, abs=1e-4)
    assert float(compute_proposal_loss(there, want)) > 1
    assert float(compute_proposal_loss(silent, want)) > 1


def test_told_masks_train_their_kernel_and_free_ones_the_best() -> None:
    losses = torch.tensor([[[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]])
    shares = compute_slot_shares(losses, torch.tensor([[2, -1]]))
    assert shares[0, 0].tolist() == [0, 0, 1]
    assert int(shares[0, 1].argmax()) == 1
    assert (shares[0, 1] > 0).all()
    assert float(shares[0, 1].sum()) == pytest.approx(1)


def test_another_file_is_no_detector(tmp_path) -> None:
    (tmp_path / "net.bin").write_bytes(b"1234")
    with pytest.raises(WeightsError, match="expected dcf9487b"):
        load_ncnn(Detector(), tmp_path / "net.bin")
    with pytest.raises(WeightsError, match="ureca weights get yolox-nano"):
        load_ncnn(Detector(), tmp_path / "none.bin")


@pytest.mark.data
@pytest.mark.skipif(not (WEIGHTS / "yolox-nano.onnx").is_file(), reason="no ../shared/data2")
def test_the_detector_equals_its_published_graph() -> None:
    import onnxruntime

    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 416, 416)
    session = onnxruntime.InferenceSession(str(WEIGHTS / "yolox-nano.onnx"))
    (published,) = session.run(None, {"images": pixels.numpy()})
    detector = Detector().eval()
    load_ncnn(detector, WEIGHTS / "yolox-nano.bin")
    with torch.inference_mode():
        ours = detector.detect(detector(pixels))[0].numpy()
    assert np.abs(ours[:, 4:] - published[0, :, 4:]).max() < 1e-3
    stride, x, y = 8, 3, 2  # the published boxes are offsets from the cell, ours are pixels
    centre = (ours[y * 52 + x, :2] + ours[y * 52 + x, 2:4]) / 2
    wanted = (published[0, y * 52 + x, :2] + (x, y)) * stride
    assert centre == pytest.approx(wanted, abs=1e-2)


def test_a_checkpoint_brings_back_the_same_masks(tmp_path) -> None:
    torch.manual_seed(1)
    model = MaskNetwork(SMALL)
    save_mask_checkpoint(tmp_path, model)
    again = load_mask_checkpoint(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    prompts = [SegmenterPrompt(points_xy_px=((60.0, 40.0),))]
    model.load_state_dict({n: t.half().float() for n, t in model.state_dict().items()})
    for one, other in zip(
        *(
            segmenter.segment(segmenter.encode(image), prompts)[0]
            for segmenter in (
                MaskHeadSegmenter(TorchMaskGraphs(model)),
                MaskHeadSegmenter(TorchMaskGraphs(again)),
            )
        ),
        strict=True,
    ):
        assert np.allclose(one.logits, other.logits, atol=1e-4)
        assert one.score == pytest.approx(other.score, abs=1e-5)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="does not fit"):
        load_mask_checkpoint(tmp_path)


def test_every_way_of_asking_gives_masks_of_the_pictures_shape() -> None:
    torch.manual_seed(1)
    segmenter = MaskHeadSegmenter(TorchMaskGraphs(MaskNetwork(SMALL)))
    encoded = segmenter.encode(np.zeros((120, 60, 3), np.uint8))  # half of the canvas is grey
    point, box = SegmenterPrompt(points_xy_px=((10, 10),)), (5.0, 5.0, 50.0, 90.0)
    several = SegmenterPrompt(points_xy_px=((10, 10), (20, 20)), not_points_xy_px=((50, 100),))
    soft = SegmenterPrompt(soft=np.eye(6, dtype=np.float32))
    answers = segmenter.segment(encoded, [point, SegmenterPrompt(box_xyxy_px=box), several, soft])
    assert [len(row) for row in answers] == [3, 4, 6, 4]
    assert {a.logits.shape for row in answers for a in row} == {(16, 8)}
    assert [a.score for a in answers[2]] == sorted((a.score for a in answers[2]), reverse=True)
    assert 0 < len(segmenter.everything(encoded)) <= 64
    assert segmenter.panoptic(encoded, (120, 60)).ids.shape == (120, 60)
    assert segmenter.features(encoded).shape == (16, 8, 4)


def test_no_mask_of_everything_lies_on_the_margin_alone() -> None:
    """A quarter of the canvas is image: kernels of the rest must not take places."""
    torch.manual_seed(1)
    image = np.random.default_rng(0).integers(0, 256, (120, 45, 3), np.uint8)
    graphs = TorchMaskGraphs(MaskNetwork(SMALL))
    segmenter = MaskHeadSegmenter(_MarginFirst(graphs))
    encoded = segmenter.encode(image)
    found = segmenter.everything(encoded)
    assert found
    assert all((one.logits > 0).any() for one in found)
    _, features = segmenter.describe_everything(encoded)
    assert all(np.isfinite(row).all() for row in features.values())


class _MarginFirst:
    """Graphs whose kernels are discs around their points, those on the margin the surest."""

    def __init__(self, graphs: TorchMaskGraphs) -> None:
        self.canvas_px, self._graphs = graphs.canvas_px, graphs

    def see(self, pixels):
        maps = self._graphs.see(pixels)
        rows, columns = np.mgrid[8:64:16, 8:96:16] / 64.0
        kernels = np.zeros_like(maps.kernels)
        kernels[..., -5:] = np.stack(
            [
                np.full_like(rows, -1.0),
                np.full_like(rows, -1.0),
                2 * columns,
                2 * rows,
                0.44**2 - rows**2 - columns**2,
            ],
            -1,
        )[:, :, None]
        scores = np.where(np.arange(6) * 16 >= 24, 0.9, 0.5)[None, :, None]
        scores = np.broadcast_to(scores, maps.scores.shape).astype(np.float32)
        return dataclasses.replace(maps, kernels=kernels, scores=scores)

    def make_kernels(self, maps, points_px, boxes_px):
        return self._graphs.make_kernels(maps, points_px, boxes_px)

    def draw(self, maps, kernels):
        return self._graphs.draw(maps, kernels)


# --- training ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures with a bright disc and a bar each."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rng, rows, images = np.random.default_rng(3), [], []
    with tarfile.open(root / "images" / "a.tar", "w") as tar:
        for number in range(12):
            picture = rng.integers(0, 60, (48, 64, 3)).astype(np.uint8)
            disc, bar = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
            cv2.circle(disc, (16 + number, 20), 9, 1, -1)
            bar[34:44, 8:56] = 1
            picture[disc > 0], picture[bar > 0] = (220, 40, 40), (40, 200, 60)
            body = bytes(cv2.imencode(".png", picture[..., ::-1])[1])
            info = tarfile.TarInfo(f"p{number}.png")
            info.size = len(body)
            tar.addfile(info, BytesIO(body))
            images.append({"image_key": f"p{number}", "width": 64, "height": 48})
            for name, mask in (("disc", disc), ("bar", bar)):
                x, y, width, height = cv2.boundingRect(mask)
                code = rle.encode(mask > 0).counts
                rows.append(
                    {
                        "region_id": f"p{number}_{name}",
                        "image_key": f"p{number}",
                        "bbox": [x, y, width, height],
                        "rle": {"size": [48, 64], "counts": code},
                        "mask_source": "gt:test",
                        "stuff": name == "bar",
                        "split": "train",
                    }
                )
    for name, lines in (("regions", rows), ("images", images)):
        with gzip.open(root / f"{name}-train.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return root


def recipe(folder: Path, **changes: object) -> MaskTrainConfig:
    source = MaskSource(
        regions=str(folder / "regions-train.jsonl.gz"), images=str(folder), things_told=False
    )
    base = MaskTrainConfig(
        data=(source,),
        model=SMALL,
        trunk="tail",
        steps=6,
        images_per_step=2,
        masks_per_image=3,
        window_px=(64, 64),
        warmup_steps=1,
        decay_steps=2,
        held_out_every=4,
        log_every=3,
        save_every=2,
        validation_batches=1,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_resumed_training_equals_an_unbroken_one(folder, tmp_path) -> None:
    config = recipe(folder)
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "broken", stop_after=3)
    resumed = train(config, tmp_path / "broken")
    one, other = (load_mask_checkpoint(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [
        json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [3, 6]
    assert 0 <= rows[-1]["held_out_click_iou"] <= 1


@pytest.mark.long
def test_training_on_a_frozen_trunk_learns_and_leaves_the_trunk_out(folder, tmp_path) -> None:
    config = recipe(folder, trunk="frozen", steps=60, log_every=30, learning_rate=4e-3)
    checkpoint = train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["box_iou"] > rows[0]["box_iou"]
    assert (checkpoint / "model.safetensors").stat().st_size < 1_000_000
    again = load_mask_checkpoint(checkpoint)
    assert isinstance(again, MaskNetwork)


def test_held_out_pictures_are_not_trained_on(folder) -> None:
    seen, held_out = read_pictures(recipe(folder))
    keys = {picture.image_key for picture in held_out}
    assert keys
    assert not keys & {picture.image_key for picture in seen}
    nothing = dataclasses.replace(recipe(folder).data[0], makers=("teacher",))
    with pytest.raises(ConfigError, match="no records with masks"):
        read_pictures(recipe(folder, data=(nothing,)))


def test_a_visit_is_what_its_seed_says_and_shows_what_it_clicks(folder) -> None:
    config = recipe(folder, window_px=(64, 96))
    seen, _ = read_pictures(config)
    plan = MaskPlan(seen, open_images(config), config)
    assert plan.epoch(0) == plan.epoch(0) != plan.epoch(1)
    one, other = (plan.collate([Visit(0, 77), Visit(1, 78)]) for _ in range(2))
    for name in ("pixels", "targets", "points_px", "boxes_px", "weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    plain = plan.collate([Visit(0, 0)])
    for n in np.flatnonzero(plain.weights[0]):
        x, y = plain.points_px[0, n]
        assert plain.targets[0, n, int(y) // 4, int(x) // 4] > 0.5
        inside = plain.pixels[0, :, int(y), int(x)]
        red_or_green = inside[:2].max() - inside[2]
        assert red_or_green > 1  # the disc or the bar, not the dark ground
