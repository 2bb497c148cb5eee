"""Opens a segmenter of `transformers` by its folder or its name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ureca.errors import ConfigError, WeightsError
from ureca.models.mllm.segmentation.concepts import ClipSegConcepts, Sam3Concepts
from ureca.models.mllm.segmentation.prompted import PromptedSegmenter
from ureca.models.mllm.segmentation.settings import (
    TransformersSegmenterConfig,
    choose_device,
    load_settings,
    read_image_input,
)
from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_query_captioner,
    open_query_captioner,
)

_PROMPTED = {
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
}
_SAM3 = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}


def open_transformers_segmenter(
    name: str, *, settings_file: Path | None = None, threads: int = 1
) -> Segmenter:
    """Open the model in the folder `name`, or of that name on the hub (as `huggingface_hub` finds
    it: its cache, its token, its offline switch). Weights must be safetensors; no code of the model
    runs. Raises `ConfigError` for a model or settings that do not fit, `WeightsError` when it
    cannot be loaded.
    """
    import transformers

    if is_query_captioner(Path(name)):
        opened: Segmenter = open_query_captioner(Path(name))
        return opened
    settings = load_settings(settings_file)
    try:
        found, _ = transformers.PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no model of transformers {name!r} here or on the hub: {error!s:.300}"
        ) from error
    if "model_type" not in found:
        raise WeightsError(f"no model of transformers {name!r}: its config.json has no model_type")
    kind = str(found["model_type"])
    torch.set_num_threads(threads)
    if kind in _SAM3 and settings.classes:
        model = _load(_SAM3[kind], name, settings)
        image_input = read_image_input(name, _find_side(model), is_imagenet=False)
        return Sam3Concepts(model, _load_tokenizer(name), name, image_input, settings)
    prompted = {**_PROMPTED, **dict.fromkeys(("sam3", "sam3_video"), "Sam3TrackerModel")}
    if kind in prompted:
        model = _load(prompted[kind], name, settings)
        is_imagenet = not kind.startswith("sam3")
        image_input = read_image_input(name, _find_side(model), is_imagenet=is_imagenet)
        return PromptedSegmenter(model, name, image_input)
    if kind == "clipseg" and settings.classes:
        model = _load("CLIPSegForImageSegmentation", name, settings)
        side_px = model.config.vision_config.image_size
        image_input = read_image_input(name, side_px, is_imagenet=True)
        return ClipSegConcepts(model, _load_tokenizer(name), name, image_input, settings)
    if kind in {"clipseg", "sam3_lite_text"}:
        raise ConfigError(
            f"{name} is asked by words: name a YAML file with `classes: [...]` as segmenter.layout"
        )
    known = ", ".join(sorted({*_PROMPTED, *_SAM3, "clipseg"}))
    raise ConfigError(f"expected a model of type {known}; {name} is of type {kind!r}")


def _load(kind: str, name: str, settings: TransformersSegmenterConfig) -> Any:
    import transformers

    try:
        model = getattr(transformers, kind).from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise WeightsError(f"cannot load {name} as {kind}: {error!s:.300}") from error
    return model.eval().requires_grad_(requires_grad=False).to(choose_device(settings))


def _load_tokenizer(name: str) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot load the tokenizer of {name}: {error!s:.300}") from error


def _find_side(model: Any) -> int:
    """Side of the square input, in pixels."""
    config = model.config
    size = getattr(getattr(config, "prompt_encoder_config", None), "image_size", None)
    if size is None:
        size = config.vision_config.backbone_config.image_size
    return int(size if isinstance(size, int) else size[0])
