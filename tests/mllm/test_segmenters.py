"""Segmenters of `transformers` on tiny models of the same classes with random weights."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from tiny_sams import make_sam2, save  # noqa: E402

from ureca.errors import ConfigError, EngineError, WeightsError  # noqa: E402
from ureca.models.runtime.segmentation.base import SegmenterPrompt  # noqa: E402
from ureca.models.runtime.segmentation.detectors.open_external import (  # noqa: E402
    open_external_segmenter,
)

WORDS = ("a cup", "a cat")


def is_close(one, other):
    spread = np.std(one)
    assert spread > 1e-2, "outputs that are all alike prove nothing"
    return bool(np.abs(np.asarray(one) - np.asarray(other)).max() < 1e-3 * spread)


class TinyPyramidConfig(transformers.PreTrainedConfig):
    model_type = "tiny_pyramid"


class TinyPyramid(transformers.PreTrainedModel):
    """Stands for EdgeTAM's RepViT, which needs timm: maps [B, C, H, W] at strides 4 to 32."""

    config_class = TinyPyramidConfig

    def __init__(self, config):
        super().__init__(config)
        steps = ((3, 8, 4), (8, 16, 2), (16, 32, 2), (32, 64, 2))
        self.stages = torch.nn.ModuleList(
            torch.nn.Conv2d(into, out, step, stride=step) for into, out, step in steps
        )
        self.post_init()

    def forward(self, pixel_values, **_):
        maps = []
        for stage in self.stages:
            pixel_values = torch.tanh(stage(pixel_values))
            maps.append(pixel_values)
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=maps)


transformers.AutoConfig.register("tiny_pyramid", TinyPyramidConfig)
transformers.AutoModel.register(TinyPyramidConfig, TinyPyramid)


def make_edgetam(folder):
    vision = {
        "backbone_config": TinyPyramidConfig(),
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    config = transformers.EdgeTamConfig(
        vision_config=transformers.EdgeTamVisionConfig(**vision),
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    save(transformers.EdgeTamModel(config), folder)


def make_sam3_parts():
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**small, "num_layers": 1, "intermediate_size": 32, "dropout": 0.0}
    text = {
        **small,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "projection_dim": 32,
        "vocab_size": 300,
        "max_position_embeddings": 32,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
    }
    return vision, small, layers, text


def make_sam3(folder):
    vision, small, layers, text = make_sam3_parts()
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config={**small, "num_upsampling_stages": 3},
    )
    save(transformers.Sam3Model(config), folder)
    save_tokenizer(folder)


def make_sam3_tracker(folder):
    vision, *_ = make_sam3_parts()
    config = transformers.Sam3TrackerConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 56, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    save(transformers.Sam3TrackerModel(config), folder)


def make_clipseg(folder):
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPSegConfig(
        text_config={
            **small,
            "vocab_size": 300,
            "max_position_embeddings": 32,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "pad_token_id": 257,
        },
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    save(transformers.CLIPSegForImageSegmentation(config), folder)
    save_tokenizer(folder)


def save_tokenizer(folder):
    """CLIP's, with a word for each byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    rows = [*letters, "<|startoftext|>", "<|endoftext|>", *(f"{one}</w>" for one in "acput")]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(rows)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def picture(size=(50, 70)):
    image = np.zeros((*size, 3), np.uint8)
    image[10:30, 20:50] = (220, 30, 40)
    return image


def opened(make, folder, settings=""):
    torch.manual_seed(0)
    make(folder)
    (folder / "settings.yaml").write_text(settings or "device: cpu\n")
    return open_external_segmenter(f"transformers:{folder}", layout=str(folder / "settings.yaml"))


@pytest.mark.parametrize("make", [make_sam2, make_edgetam, make_sam3_tracker])
def test_points_boxes_and_masks_become_three_masks_each(tmp_path, make):
    segmenter = opened(make, tmp_path)
    encoded = segmenter.encode(picture())
    channels, height, width = segmenter.features(encoded).shape
    assert channels == 32
    assert height == width
    prompts = [
        SegmenterPrompt(points_xy_px=((30, 20),)),
        SegmenterPrompt(box_xyxy_px=(20, 10, 50, 30)),
        SegmenterPrompt(points_xy_px=((30, 20), (40, 25)), not_points_xy_px=((2, 2),)),
        SegmenterPrompt(soft=np.eye(9, dtype=np.float32)),
        SegmenterPrompt(((30, 20),), (), (20, 10, 50, 30), np.eye(9, dtype=np.float32)),
        SegmenterPrompt(points_xy_px=((30, 20),), box_xyxy_px=(20, 10, 50, 30)),
    ]
    answers = segmenter.segment(encoded, prompts)
    assert [len(row) for row in answers] == [3] * 6
    for row in answers:
        for one in row:
            assert one.mask((50, 70)).shape == (50, 70)
            assert 0 <= one.score <= 1
    # Batched together or alone, in any order: the same answer to the same prompt.
    for prompt, together in zip(prompts, answers, strict=True):
        alone = segmenter.segment(encoded, [prompt])[0]
        assert is_close(alone[0].logits, together[0].logits)
    far = segmenter.segment(encoded, [SegmenterPrompt(points_xy_px=((65, 45),))])[0]
    assert not is_close(far[0].logits, answers[0][0].logits)
    assert segmenter.segment(encoded, []) == []


def test_prompts_are_scaled_to_the_input(tmp_path):
    """The same scene at two sizes, with the same click on it, gives the same mask."""
    segmenter = opened(make_sam2, tmp_path)
    small, large = picture((64, 64)), np.kron(picture((64, 64)), np.ones((2, 2, 1), np.uint8))
    one = segmenter.segment(segmenter.encode(small), [SegmenterPrompt(points_xy_px=((30, 20),))])
    two = segmenter.segment(segmenter.encode(large), [SegmenterPrompt(points_xy_px=((60, 40),))])
    assert np.abs(one[0][0].logits - two[0][0].logits).mean() < 0.1 * np.std(one[0][0].logits)


def test_the_answers_are_those_of_the_model(tmp_path):
    """Clicks and a box by `Sam2Model.forward` from pixels equal the adapter's."""
    segmenter = opened(make_sam2, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    points = {"points_xy_px": ((40, 35),), "not_points_xy_px": ((5, 10),)}
    prompts = [SegmenterPrompt(**points), SegmenterPrompt(**points, box_xyxy_px=(20, 10, 100, 50))]
    mine = segmenter.segment(segmenter.encode(image), prompts)
    model = transformers.Sam2Model.from_pretrained(tmp_path).eval()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    square = cv2.resize(image, (128, 128), interpolation=cv2.INTER_LINEAR)
    values = ((square / 255 - mean) / std).transpose(2, 0, 1)[None]
    given = {
        "pixel_values": torch.tensor(values, dtype=torch.float32),
        "input_points": torch.tensor([[[[40.0, 70.0], [5.0, 20.0]]]]),
        "input_labels": torch.tensor([[[1, 0]]]),
    }
    with torch.inference_mode():
        clicks = model(**given)
        box = model(**given, input_boxes=torch.tensor([[[20.0, 20.0, 100.0, 100.0]]]))
    for answer, theirs in zip(mine, (clicks, box), strict=True):
        assert is_close(theirs.pred_masks[0, 0].numpy(), [one.logits for one in answer])


@pytest.mark.parametrize("make", [make_sam3, make_clipseg])
def test_words_become_labelled_masks_best_first(tmp_path, make):
    words = "classes: [a cup, a cat]\ndevice: cpu\n"
    segmenter = opened(make, tmp_path, f"{words}score_threshold: 0.05\nmask_threshold: 0.3\n")
    encoded = segmenter.encode(picture())
    found = segmenter.everything(encoded)
    assert found, "the random weights of this seed find something"
    assert {one.label for one in found} <= set(WORDS)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.05
    assert all(one.mask((50, 70)).any() for one in found)
    assert segmenter.features(encoded).shape[0] == 8
    y, x = np.argwhere(found[0].mask((50, 70)))[0]
    answer = segmenter.segment(encoded, [SegmenterPrompt(points_xy_px=((x + 0.5, y + 0.5),))])[0]
    assert answer[0].label in WORDS
    none = opened(make, tmp_path, f"{words}score_threshold: 0.999\n")
    assert none.everything(none.encode(picture())) == []


def test_sam3_finds_what_its_processor_would_keep(tmp_path):
    """Number, order and scores are those of the formula in `Sam3ImageSegmentationOutput`."""
    settings = "classes: [a cup]\ndevice: cpu\nscore_threshold: 0.05\nmask_threshold: 0.01\n"
    segmenter = opened(make_sam3, tmp_path, settings)
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    found = segmenter.everything(segmenter.encode(image))
    model = transformers.Sam3Model.from_pretrained(tmp_path).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        "a cup", return_tensors="pt", padding="max_length", max_length=32
    )
    pixels = torch.tensor((image.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5, dtype=torch.float32)
    with torch.inference_mode():
        output = model(pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
    kept = sorted((float(score) for score in scores if score >= 0.05), reverse=True)
    assert [one.score for one in found] == pytest.approx(kept, abs=1e-5)


def test_a_stopped_segmenter_raises(tmp_path):
    segmenter = opened(make_sam2, tmp_path)
    encoded = segmenter.encode(picture())
    segmenter.stop()
    with pytest.raises(EngineError, match="was stopped"):
        segmenter.segment(encoded, [SegmenterPrompt(points_xy_px=((3, 3),))])


def test_what_does_not_fit_is_refused_with_reasons(tmp_path):
    with pytest.raises(ConfigError, match="classes"):
        opened(make_clipseg, tmp_path)
    with pytest.raises(WeightsError, match="no model of transformers"):
        open_external_segmenter(f"transformers:{tmp_path / 'none'}")
    with pytest.raises(ConfigError, match="did you mean 'classes'"):
        opened(make_clipseg, tmp_path, "clases: [a cup]\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="is of type 'bert'"):
        open_external_segmenter(f"transformers:{tmp_path}")


def test_weights_that_are_no_safetensors_are_not_read(tmp_path):
    make_sam2(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot load"):
        open_external_segmenter(f"transformers:{tmp_path}")
