"""Composes a base model: the nano's vision trunk before a small language model.

`ureca mllm join -o BASE` reads SmolLM2 as `ureca weights get smollm2` downloads it (a GGUF file,
dequantised by `transformers`), or any folder of `save_pretrained`, and the nano's checkpoint. The
image projector between them starts at random: `ureca mllm wrap` and stage 1 are the next steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER
from ureca.models.mllm.checkpoints.wrap import add_token_rows, load_base_tokenizer
from ureca.models.mllm.network.families import find_family
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.nano.checkpoint import load_checkpoint as load_nano
from ureca.models.runtime.pretrained import CHECKOUT_BUNDLE
from ureca.weights import WEIGHTS, cached

EXTRA, GGUF_EXTRA = "mllm", "gguf"
LANGUAGE = "smollm2"
NANO = CHECKOUT_BUNDLE / "checkpoint"


def join_models(
    out: Path, *, language: Path | None = None, nano: Path = NANO, seed: int = 0
) -> Path:
    """Write the base `out`: a folder of `save_pretrained` with its `tokenizer.json`.

    `language` is a folder with one GGUF file or of `save_pretrained`; None takes the weights
    `smollm2`. Raises `WeightsError` when either part cannot be read, and `MissingExtraError`
    without the packages that read a GGUF file.
    """
    require("transformers", extra=EXTRA)
    if (out / "config.json").exists():
        raise WeightsError(f"{out} holds a model already: choose another folder")
    model, words = read_language(language or _find_downloaded())
    known = words.size
    torch.manual_seed(seed)
    base = assemble(model, nano)
    image = find_family(base.config.model_type).prompt.image_token
    words.add_special([image])
    base.config.image_token_index = words.id_of(image)
    add_token_rows(base, known=known, wanted=words.size)
    base.save_pretrained(out)
    words.save(out / TOKENIZER)
    return out


def assemble(language: Any, nano: Path) -> Any:
    """Build one model from a causal language model of `transformers` and the nano's tower.

    The language model is kept in float16 and the tower in float32, whatever they were.
    """
    tower = require("ureca.models.mllm.network.nano_tower", extra=EXTRA)
    tower.register_tower()
    eyes = load_nano(nano)
    config = tower.NanoLmConfig(
        vision_config=tower.make_tower_config(eyes.config).to_dict(),
        text_config=language.config.to_dict(),
        image_seq_length=eyes.config.vision.tokens_per_tile,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
    )
    base = tower.NanoLm(config)
    base.model.language_model.load_state_dict(language.model.state_dict())
    base.lm_head.load_state_dict(language.lm_head.state_dict())
    base.half()
    seeing = base.model.vision_tower.float()
    seen = eyes.state_dict()
    seeing.load_state_dict({name: seen[name] for name in seeing.state_dict()})
    return base


def read_language(folder: Path) -> tuple[Any, TextTokenizer]:
    """Read a causal language model and its tokenizer from one GGUF file or a folder of
    `save_pretrained`.

    Raises `WeightsError` for a folder that holds neither or another kind of model.
    """
    package = require("transformers", extra=EXTRA)
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        return _read_model(package, folder), load_base_tokenizer(folder)
    for name in ("gguf", "accelerate"):
        require(name, extra=GGUF_EXTRA)
    options = {"gguf_file": files[0].name}
    unpacked = package.GgufConfig(dequantize=True)
    model = _read_model(package, folder, **options, quantization_config=unpacked)
    tokenizer = package.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    return model, TextTokenizer(tokenizer.backend_tokenizer)


def _read_model(package: Any, folder: Path, **options: Any) -> Any:
    try:
        model = package.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{folder} holds no language model: {error}; bring one with "
            f"`ureca weights get {LANGUAGE}`, or name a folder of save_pretrained"
        ) from error
    if not hasattr(model, "model") or not hasattr(model, "lm_head"):
        raise WeightsError(f"{folder} holds a {type(model).__name__}: expected one like Llama")
    return model


def _find_downloaded() -> Path:
    folder = cached(LANGUAGE)
    if not all((folder / file.name).is_file() for file in WEIGHTS[LANGUAGE].files):
        raise WeightsError(f"{folder} does not hold {LANGUAGE}: ureca weights get {LANGUAGE}")
    return folder
