"""Checkpoints of `ureca-mllm`: a folder of tensors and JSON, no code and no pickle.

mllm.json           MllmConfig
mask.safetensors    mask encoder (names of the published weights) or the mask convolution of the
                    picture tower, marks, tokens of features
projector.safetensors  an image projector that learnt, in place of the base's
lora.safetensors    adapters of the language model, if there are any
tokenizer.json      the base's own, with the mask tokens
base/               the base model as `save_pretrained` wrote it (or `base` names it elsewhere)
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ureca.config import from_plain, to_plain
from ureca.errors import ConfigError, MissingExtraError, WeightsError
from ureca.extras import require
from ureca.models.mllm.config import MllmConfig, Precision
from ureca.models.mllm.network.families import find_family, register_base
from ureca.models.mllm.network.lora import add_lora, get_lora_tensors, load_lora, merge_lora
from ureca.models.mllm.network.model import Mllm

EXTRA = "mllm"
CONFIG, MASK, PROJECTOR, LORA, TOKENIZER = (
    "mllm.json",
    "mask.safetensors",
    "projector.safetensors",
    "lora.safetensors",
    "tokenizer.json",
)
_MAX_CONFIG_BYTES = 1 << 20
Loaded = Precision | Literal["stored"]
"""`stored`: every tensor in the type that it has in the file."""
_DTYPES: dict[str, Any] = {"fp32": torch.float32, "stored": "auto"}
_BITS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "int4": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
}


def read_config(folder: Path) -> MllmConfig:
    """Read `mllm.json` of a checkpoint or bundle. Raises `WeightsError`."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise WeightsError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes")
        return from_plain(MllmConfig, msgspec.json.decode(path.read_bytes()), where=str(path))
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError, ConfigError) as error:
        raise WeightsError(f"{folder} is not a `ureca-mllm` checkpoint: {error}") from error


def write_config(folder: Path, config: MllmConfig) -> None:
    """Write `mllm.json`."""
    text = msgspec.json.format(msgspec.json.encode(to_plain(config)), indent=2)
    (folder / CONFIG).write_bytes(text + b"\n")


def save_parts(
    folder: Path,
    model: Mllm,
    *,
    config: MllmConfig,
    tokenizer: Path,
    low: dict[str, Tensor] | None = None,
) -> None:
    """Write everything except the base. Each file appears complete or not at all. `low`: the
    adapters, if the model does not hold them complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_trained(folder, model, config=config, low=low)
    text = tokenizer.read_text(encoding="utf8")
    (folder / TOKENIZER).write_text(text, encoding="utf8")
    write_config(folder, config)


def save_trained(
    folder: Path,
    model: Mllm,
    *,
    config: MllmConfig,
    half: bool = False,
    low: dict[str, Tensor] | None = None,
) -> None:
    """Write the trained tensors, `half` in float16. `low`: as in `save_parts`."""
    parts = {
        MASK: get_mask_tensors(model),
        LORA: get_lora_tensors(model.language) if low is None else low,
    }
    if config.projector:
        parts[PROJECTOR] = get_projector_tensors(model)
    kind = torch.float16 if half else torch.float32
    for name, tensors in parts.items():
        if tensors:
            _save({n: t.detach().to(kind) for n, t in tensors.items()}, folder / name)


def load_trained(model: Mllm, folder: Path) -> None:
    """Load everything beside the base from the files of a checkpoint; adapters stay separate.
    Raises `WeightsError` for a file that is missing or does not fit.
    """
    load_mask_tensors(model, read_tensors(folder / MASK))
    if model.config.projector:
        load_projector(model, read_tensors(folder / PROJECTOR))
    if model.config.lora is not None:
        add_lora(model.language, model.config.lora)
        load_lora(model.language, read_tensors(folder / LORA))


def get_projector_tensors(model: Mllm) -> dict[str, Tensor]:
    """Return the image projector's tensors under the base's names."""
    return dict(getattr(model.base.model, model.family.projector).state_dict())


def load_projector(model: Mllm, tensors: dict[str, Tensor]) -> None:
    """Load the image projector. Raises `WeightsError` for other names or shapes."""
    try:
        getattr(model.base.model, model.family.projector).load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{PROJECTOR} does not fit the base: {error}") from error


def get_mask_tensors(model: Mllm) -> dict[str, Tensor]:
    """Return mask encoder or convolution, marks and feature token under the names in the file."""
    return {name: tensor.detach().float() for name, tensor in _list_mask_tensors(model).items()}


def _list_mask_tensors(model: Mllm) -> dict[str, Tensor]:
    found = {
        name.removeprefix("masks."): tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not name.startswith("base.")
    }
    if (layer := model.mask_convolution) is not None:
        state = layer.state_dict(keep_vars=True)
        found |= {f"mask_convolution.{name}": tensor for name, tensor in state.items()}
    return found


def load_mask_tensors(model: Mllm, tensors: dict[str, Tensor]) -> None:
    """Load them. Raises `WeightsError` for other names or shapes."""
    own = get_mask_tensors(model)
    wrong = sorted(set(own) ^ set(tensors))
    shapes = [n for n in set(own) & set(tensors) if own[n].shape != tensors[n].shape]
    if wrong or shapes:
        raise WeightsError(
            f"the mask encoder does not fit its configuration: names {wrong[:4]}, shapes "
            f"{[(n, list(tensors[n].shape), list(own[n].shape)) for n in shapes[:4]]}"
        )
    state = _list_mask_tensors(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def load_checkpoint(
    folder: Path,
    *,
    precision: Loaded | None = None,
    device: str = "cpu",
    merge: bool = True,
) -> Mllm:
    """Read a checkpoint, in eval mode; adapters are merged unless the weights are quantised.

    `precision` replaces the configuration's. Raises `WeightsError` when something is missing,
    damaged or does not fit, and `MissingExtraError` when int8 or int4 lacks its package.
    """
    config = read_config(folder)
    base_folder = (folder / config.base).resolve()
    if config.base_sha256 and (got := hash_base(base_folder)) != config.base_sha256:
        raise WeightsError(
            f"{base_folder} is another base model: expected sha256 {config.base_sha256}, got {got}"
        )
    kind: Loaded = precision or config.precision
    if find_family(config.family).own_tokens is not None and kind in _BITS:
        raise WeightsError(f"precision {kind}: a {config.family} base runs in fp32 or bf16")
    model = Mllm(load_base(base_folder, kind, device=device), config)
    for part in (model.masks, model.feature, model.region_tokens):
        if part is not None:
            part.to(device)
    model.marks.data = model.marks.data.to(device)
    load_trained(model, folder)
    if merge and kind not in _BITS:
        merge_lora(model.language)
    return model.eval()


def load_base(folder: Path, precision: Loaded, *, device: str = "cpu") -> Any:
    """Load the base model of `transformers` from safetensors, without remote code."""
    package = require("transformers", extra=EXTRA)
    register_base(folder)
    options: dict[str, Any] = {"dtype": _DTYPES.get(precision, torch.bfloat16)}
    if precision in _BITS:
        options |= {
            "quantization_config": _make_quantisation(package, precision),
            "device_map": device,
        }
    try:
        base = package.AutoModelForImageTextToText.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} is not a base model: {error}") from error
    return base if precision in _BITS else base.to(device)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises `WeightsError`."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the tensors {path}: {error}") from error


def hash_checkpoint(folder: Path) -> str:
    """Return one hash of a checkpoint: mask encoder, adapters, tokenizer, and the base's hash."""
    config = read_config(folder)
    digest = hashlib.sha256(hash_base((folder / config.base).resolve()).encode())
    for name in (MASK, PROJECTOR, LORA, TOKENIZER):
        if (folder / name).is_file():
            digest.update(_hash_file(folder / name))
    return digest.hexdigest()


def hash_base(folder: Path) -> str:
    """Return one hash of configuration and weights of a base model. Raises `WeightsError`."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if len(files) == 1 or not files[0].is_file():
        raise WeightsError(f"{folder} is not a base model: expected config.json and *.safetensors")
    return hashlib.sha256(b"".join(map(_hash_file, files))).hexdigest()


def _hash_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _make_quantisation(package: Any, precision: Loaded) -> Any:
    """Return the quantisation of `bitsandbytes`. Raises `MissingExtraError` if it is not
    installed.
    """
    try:
        require("bitsandbytes", extra="mllm-bits")
        require("accelerate", extra="mllm-bits")
    except MissingExtraError as error:
        raise MissingExtraError(f"precision {precision}: {error}; or load in bf16") from error
    return package.BitsAndBytesConfig(**_BITS[precision])


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_name(path.name + ".part")
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part)
    part.replace(path)
