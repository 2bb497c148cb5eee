"""Composes a FineCaption base of pretrained parts: `ureca mllm join -o BASE --config FILE`.

Each part is a folder of `save_pretrained`: a CLIP with a vision part, a ConvNeXt or ConvNeXt V2, a
SAM, and any causal language model. `configs/finecaption/` has the paper's model and the rows of its
ablation. Adapter and mask convolution are new; the convolution starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER
from ureca.models.mllm.checkpoints.compose import read_language
from ureca.models.mllm.checkpoints.wrap import add_token_rows
from ureca.models.mllm.finecaption.sizes import CLIP, CONVNEXT, FINECAPTION, SAM
from ureca.models.mllm.network.families import find_family

EXTRA = "mllm"
_KINDS = {
    CLIP: {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel"},
    CONVNEXT: {"convnext": "ConvNextModel", "convnextv2": "ConvNextV2Model"},
    SAM: {"sam": "SamVisionModel", "sam_vision_model": "SamVisionModel"},
}
"""`model_type` of a folder, and the class of its vision part."""


@dataclass(frozen=True, kw_only=True)
class FineCaptionParts:
    """The parts of a FineCaption base: folders, and what is done with them."""

    language: str
    """A causal language model, or a folder with its GGUF file."""
    clip: str
    convnext: str = ""
    """Empty, here and in `sam`: the encoder is left out."""
    sam: str = ""
    masked: bool = True
    """CLIP reads the mask; without it the captioner does not know the region (ablation)."""
    tile_px: int = 1024
    """Side of the large picture."""
    clip_skip: int = 1
    """Last layers of CLIP that are left out: LLaVA reads the map before the last one."""
    dtype: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self) -> None:
        if self.tile_px < 1 or self.clip_skip < 0:
            raise ValueError(
                f"expected tile_px of 1 or more and clip_skip of 0 or more, got {self.tile_px} and "
                f"{self.clip_skip}"
            )

    @property
    def encoders(self) -> dict[str, str]:
        """Folders of the encoders by name."""
        named = {CLIP: self.clip, CONVNEXT: self.convnext, SAM: self.sam}
        return {name: folder for name, folder in named.items() if folder}


def join_finecaption(out: Path, parts: FineCaptionParts, *, seed: int = 0) -> Path:
    """Write the base `out`: a folder of `save_pretrained` with its `tokenizer.json`.

    Raises `WeightsError` when a part cannot be read or does not fit.
    """
    package = require("transformers", extra=EXTRA)
    if (out / "config.json").exists():
        raise WeightsError(f"{out} holds a model already: choose another folder")
    model = require("ureca.models.mllm.finecaption.model", extra=EXTRA)
    language, words = read_language(Path(parts.language))
    encoders = {n: _read_encoder(package, n, Path(f)) for n, f in parts.encoders.items()}
    tower = model.make_tower_config(
        _shorten(encoders[CLIP].config, parts.clip_skip),
        **{name: encoders[name].config for name in (CONVNEXT, SAM) if name in encoders},
        masked=parts.masked,
        tile_px=parts.tile_px,
    )
    torch.manual_seed(seed)
    base = model.assemble(tower, language, encoders)
    known, image = words.size, find_family(FINECAPTION).prompt.image_token
    words.add_special([image])
    base.config.image_token_id = words.id_of(image)
    add_token_rows(base, known=known, wanted=words.size)
    kind = torch.float32 if parts.dtype == "fp32" else torch.bfloat16
    base.to(kind).save_pretrained(out)
    words.save(out / TOKENIZER)
    return out


def _shorten(config: Any, skip: int) -> Any:
    """Return CLIP's configuration without its last layers."""
    layers = config.num_hidden_layers - skip
    if layers < 1:
        raise WeightsError(f"clip has {config.num_hidden_layers} layers: clip_skip is too large")
    return type(config)(**{**config.to_dict(), "num_hidden_layers": layers})


def _read_encoder(package: Any, name: str, folder: Path) -> Any:
    """Read the vision part of an encoder in float32."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        found = package.AutoConfig.from_pretrained(folder, **options).model_type
        if found not in _KINDS[name]:
            raise WeightsError(f"{folder} is a {found}: expected {' or '.join(_KINDS[name])}")
        kind = getattr(package, _KINDS[name][found])
        options |= {"dtype": torch.float32, "output_loading_info": True}
        model, told = kind.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} holds no encoder for {name}: {error}") from error
    if told["missing_keys"]:
        missing = sorted(told["missing_keys"])[:3]
        raise WeightsError(f"{folder} holds no encoder for {name}: it lacks {missing}")
    return model
