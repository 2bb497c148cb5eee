"""Files of a checkpoint: a JSON of settings, tensors, and frozen models that are named by hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors.torch import save_file
from torch import Tensor, nn

from ureca.config import from_plain, to_plain
from ureca.errors import ConfigError, WeightsError
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import hash_base, read_tensors

EXTRA = "mllm"
LEARNED = "learned.safetensors"
_MAX_CONFIG_BYTES = 1 << 20
Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], path: Path) -> Settings:
    """Read a settings file of a checkpoint. Raises `WeightsError`."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise WeightsError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes")
        return from_plain(kind, msgspec.json.decode(path.read_bytes()), where=str(path))
    except (OSError, ValueError, msgspec.MsgspecError, ConfigError) as error:
        raise WeightsError(f"{path} is not what a checkpoint has: {error}") from error


def write_settings(path: Path, settings: Any) -> None:
    """Write a settings file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(to_plain(settings)), indent=2)
    path.write_bytes(text + b"\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in float32; the file appears complete or not at all."""
    part = path.with_name(path.name + ".part")
    save_file({n: t.detach().float().cpu().contiguous() for n, t in tensors.items()}, part)
    part.replace(path)


def load_learned(model: nn.Module, path: Path) -> None:
    """Load what learnt into the parameters of the same names. Raises `WeightsError` for a name or
    shape that the model does not have.
    """
    own = dict(model.named_parameters())
    for name, tensor in read_tensors(path).items():
        if name not in own or own[name].shape != tensor.shape:
            have = list(own[name].shape) if name in own else "no such tensor"
            raise WeightsError(f"{path}: {name} is {list(tensor.shape)}, the model has {have}")
        own[name].data.copy_(tensor)


def open_frozen(folder: Path, kind: str, sha256: str = "", *, dtype: Any = "auto") -> Any:
    """Open a model of `transformers` from a folder of `save_pretrained`; `kind` is its class.

    Raises `WeightsError` for a folder that holds none, or another one than `sha256` says.
    """
    package = require("transformers", extra=EXTRA)
    if sha256 and (got := hash_base(folder)) != sha256:
        raise WeightsError(f"{folder} is another model: expected sha256 {sha256}, got {got}")
    try:
        return getattr(package, kind).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{folder} is not a {kind}: {error!s:.300}") from error


def read_model_type(folder: Path) -> str:
    """Return the `model_type` of a folder of `save_pretrained`. Raises `WeightsError`."""
    package = require("transformers", extra=EXTRA)
    try:
        found, _ = package.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} is no folder of save_pretrained: {error!s:.300}") from error
    return str(found.get("model_type", ""))


def relate(folder: Path, target: Path) -> str:
    """Return `target` as a path relative to `folder`, as checkpoints name what they do not hold."""
    return os.path.relpath(target.resolve(), folder.resolve())


def list_changed(
    model: nn.Module, before: set[str], learned: set[str]
) -> Iterator[tuple[str, Any]]:
    """Return the parameters that a checkpoint must hold: those it held, and those that learnt."""
    for name, parameter in model.named_parameters():
        if name in before or name in learned:
            yield name, parameter


def hash_files(*paths: Path, start: str = "") -> str:
    """Return one hash of files, and of a text before them."""
    digest = hashlib.sha256(start.encode())
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
