"""Converts the published URECA checkpoint to a `ureca-mllm` checkpoint: `ureca mllm convert
FOLDER`.

It was written from the description of the layout (paper and key names). None of the published code
is run, and weights are read as safetensors, or with torch's `weights_only`. Differences of the
published training are options: masks of 0..255 on the dynamic path, Pillow's smooth thumbnail,
InternVL's system message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import read_tensors
from ureca.models.mllm.checkpoints.key_map import (
    State,
    check_arch,
    fill,
    merge_adapters,
    rename_tensors,
    split_parts,
)
from ureca.models.mllm.checkpoints.wrap import load_base_tokenizer, save_wrapped
from ureca.models.mllm.config import MaskConfig, MllmConfig, PictureConfig, PromptConfig

EXTRA = "mllm"
_MAX_CONFIG_BYTES = 1 << 20
_SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001, E501  (InternVL's own words, which the weights were trained with)
_LANGUAGE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
)
_VISION_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "norm_type",
)


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """What the published weights expect and their configuration does not say."""

    legacy_scale: bool | None = None
    """Masks of 0..255; None: exactly when `dynamic_mask_size` is on."""
    alpha_over_rank: float = 2.0
    """Scale of adapters that were never merged: alpha is twice the rank in its recipes."""
    max_tiles: int | None = None
    """None: `max_dynamic_patch`, as in training; the demonstration used 12."""


def convert_checkpoint(folder: Path, out: Path, how: Compatibility | None = None) -> Path:
    """Read the published layout in `folder`, write the checkpoint `out`.

    Raises `WeightsError` for another architecture, a missing key or weights that do not fit.
    """
    how = how or Compatibility()
    if (out / "mllm.json").exists():
        raise WeightsError(f"{out} holds a checkpoint already: choose another folder")
    official = read_official_config(folder)
    state = read_weights(folder)
    check_arch(state)
    base_state, mask_state = split_parts(merge_adapters(state, alpha_over_rank=how.alpha_over_rank))
    config = make_captioner_config(official, mask_state, how)
    words = load_base_tokenizer(folder)
    language = official["llm_config"]
    heads = language["num_attention_heads"]
    tensors = rename_tensors(
        base_state, heads=heads, shared=language.get("num_key_value_heads") or heads
    )
    base = _make_base(official, tensors, image_id=words.id_of(config.prompt.image_token))
    return save_wrapped(out, base, words, config, mask=mask_state)


def read_official_config(folder: Path) -> dict[str, Any]:
    """Read and check its `config.json`. Raises `WeightsError` with what is missing or unknown."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise WeightsError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{folder} is not the published layout: {error}") from error
    absent = [k for k in ("vision_config", "llm_config", "num_mask_token") if k not in found]
    if absent:
        raise WeightsError(f"{path} lacks {absent}: expected the configuration of URECA's weights")
    if found.get("ps_version", "v2") != "v2":
        raise WeightsError(f"{path}: pixel shuffle {found['ps_version']!r}, only 'v2' is known")
    return found


def read_weights(folder: Path) -> State:
    """Read all tensors: safetensors, or `pytorch_model*.bin` that holds nothing but tensors."""
    paths = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not paths:
        raise WeightsError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin")
    state: State = {}
    for path in paths:
        state |= read_tensors(path) if path.suffix == ".safetensors" else _load_bin(path)
    return state


def make_captioner_config(
    official: Mapping[str, Any], mask: State, how: Compatibility
) -> MllmConfig:
    """Return the captioner's configuration. Mask sizes are read from the file and checked on the
    weights.
    """
    count, side = int(official["num_mask_token"]), int(official.get("force_image_size") or 448)
    dynamic = bool(official.get("dynamic_mask_size", False))
    legacy = dynamic if how.legacy_scale is None else how.legacy_scale
    found = MaskConfig(num_mask_tokens=count, side_px=side, legacy_scale=legacy)
    shapes = mask["mask_encoder.0.weight"].shape[0], mask["mask_linear.weight"].shape[1]
    if shapes != (count, found.cells):
        raise WeightsError(
            f"the configuration says {count} mask tokens of {found.cells} cells, the weights have "
            f"{shapes[0]} of {shapes[1]}"
        )
    tiles = how.max_tiles or int(official.get("max_dynamic_patch") or 6)
    picture = PictureConfig(
        tile_px=side,
        tokens_per_tile=_count_tokens(official, side),
        max_tiles=tiles if dynamic else 1,
        resampling="official",
    )
    prompt = make_official_prompt(bos=official["llm_config"].get("model_type") == "internlm2")
    return MllmConfig(name="ureca-official", picture=picture, mask=found, prompt=prompt)


def make_official_prompt(*, bos: bool) -> PromptConfig:
    """Return template `mug-cap`: MPT style with InternVL's system message, one instruction for
    all.
    """
    begin = f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n"
    ask = "Describe this region."
    return replace(PromptConfig(), begin=("<s>" if bos else "") + begin, short=ask, long=ask)


def _make_base(official: Mapping[str, Any], tensors: State, *, image_id: int) -> Any:
    """Return the base model of `transformers` with the weights in their own dtype."""
    package = require("transformers", extra=EXTRA)
    tied = "lm_head.weight" not in tensors
    table = tensors["model.language_model.embed_tokens.weight"]
    if tied:
        tensors["lm_head.weight"] = table
    config = package.InternVLConfig(
        vision_config=_make_vision_config(package, official["vision_config"]),
        text_config=_make_language_config(package, official["llm_config"], vocab_size=len(table)),
        image_token_id=image_id,
        image_seq_length=_count_tokens(official, int(official.get("force_image_size") or 448)),
        downsample_ratio=float(official.get("downsample_ratio", 0.5)),
        vision_feature_layer=int(official.get("select_layer", -1)),
        tie_word_embeddings=tied,
    )
    base = package.InternVLForConditionalGeneration(config).to(table.dtype)
    fill(base, tensors)
    return base.eval()


def _make_vision_config(package: Any, given: Mapping[str, Any]) -> Any:
    known = {key: given[key] for key in _VISION_KEYS if key in given}
    return package.InternVLVisionConfig(
        **{"norm_type": "rms_norm", **known},
        attention_bias=bool(given.get("qkv_bias", False)),
        use_qk_norm=bool(given.get("qk_normalization", True)),
    )


def _make_language_config(package: Any, given: Mapping[str, Any], *, vocab_size: int) -> Any:
    """Qwen2 and Llama use their own classes; InternLM2 is a Llama under other names."""
    kinds = {
        "qwen2": package.Qwen2Config,
        "llama": package.LlamaConfig,
        "internlm2": package.LlamaConfig,
    }
    kind = given.get("model_type")
    if kind not in kinds:
        raise WeightsError(f"a language model of {list(kinds)} is expected, got {kind!r}")
    known = {key: given[key] for key in _LANGUAGE_KEYS if given.get(key) is not None}
    rope = {"rope_type": "default", "rope_theta": float(given.get("rope_theta", 10_000.0))}
    scaling = given.get("rope_scaling") or {}
    if scaling:
        rope |= {"rope_type": scaling["type"], "factor": float(scaling["factor"])}
    return kinds[kind](
        **known, vocab_size=vocab_size, rope_parameters=rope, tie_word_embeddings=False
    )


def _count_tokens(official: Mapping[str, Any], side: int) -> int:
    ratio = float(official.get("downsample_ratio", 0.5))
    return int(side // int(official["vision_config"].get("patch_size", 14)) * ratio) ** 2


def _load_bin(path: Path) -> State:
    try:
        found: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its unpickler's own errors
        raise WeightsError(f"{path} holds more than tensors, or is damaged: {error}") from error
    return found
