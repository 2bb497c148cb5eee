"""Random bases of the other families, by the package's own classes."""

from __future__ import annotations

from worlds import scaled, words_json

from ureca.models.mllm.prompt import TextTokenizer

PREFIXED = (
    *("end_of_utterance", "fake_token_around_image", "global-img", "row_1_col_1"),
    *("|vision_start|", "|image_pad|", "|vision_end|"),
)


def other_base(kind, folder):
    """A random base of another family, by the package's own classes."""
    import transformers as package

    text = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 7,
    }
    words = TextTokenizer.load(_written(folder))
    words.add_special([f"<{name}>" for name in PREFIXED])
    words.save(folder / "tokenizer.json")
    if kind.startswith("qwen"):
        base = qwen_base(kind, text, image_token_id=words.id_of("<|image_pad|>"))
    elif kind == "llava_onevision":
        config = package.LlavaOnevisionConfig(
            vision_config=package.SiglipVisionConfig(**vision),
            text_config=package.Qwen2Config(**text),
            image_token_id=5,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )
        base = package.LlavaOnevisionForConditionalGeneration(config)
    else:
        names = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}
        kinds = {n: getattr(package, f"{names[kind]}{n}") for n in ("Config", "VisionConfig")}
        config = kinds["Config"](
            vision_config=kinds["VisionConfig"](**vision),
            text_config=package.LlamaConfig(**text),
            image_token_id=5,
            scale_factor=2,
            tie_word_embeddings=False,
        )
        base = getattr(package, f"{names[kind]}ForConditionalGeneration")(config)
    scaled(base).save_pretrained(folder)
    return folder, base


def qwen_base(kind, text, *, image_token_id):
    """Qwen2-VL or Qwen2.5-VL: 8 numbers a head, of which 4 pairs turn by time, height and width."""
    import transformers as package

    vision = {"depth": 2, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    if kind == "qwen2_vl":
        name, vision = "Qwen2VL", {**vision, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        name = "Qwen2_5_VL"
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
        vision |= {"window_size": 14, "fullatt_block_indexes": [1]}
    config = getattr(package, f"{name}Config")(
        vision_config=vision,
        text_config={**text, "rope_parameters": rope},
        image_token_id=image_token_id,
        tie_word_embeddings=False,
    )
    return getattr(package, f"{name}ForConditionalGeneration")(config)


def _written(folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(words_json(), encoding="utf8")
    return path
