"""Loads YAML into frozen dataclasses: files and options override defaults, no key is ignored.

    config = load_config(NodeConfig, "configs/node/camera.yaml", ["scheduler.max_batch=4"])

An unknown key is an error that names the nearest one; a wrong type or value is an error that names
its path.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from ureca.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20
_Config = TypeVar("_Config")


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads `3e-4` as a number and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  (PyYAML's signature)
        """A mapping in which every key stands once."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = {str(key) for key in keys if keys.count(key) > 1}
        if double:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {min(double)!r} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot in every float, so `lr: 3e-4` would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+\Z"),
    list("-+0123456789"),
)


def load_config(
    kind: type[_Config], path: Path | str | None = None, overrides: Sequence[str] = ()
) -> _Config:
    """Read a file (or none) and `a.b=value` overrides into a dataclass; values are YAML.

    Raises `ConfigError` for an unreadable file, an unknown key, a wrong type or a refused value.
    """
    data = {} if path is None else read_yaml(path)
    for override in overrides:
        _override(data, override)
    return from_plain(kind, data, where=str(path) if path else "options")


def from_plain(kind: type[_Config], data: Mapping[str, Any], *, where: str = "config") -> _Config:
    """Plain data onto a dataclass; nested dataclasses, tuples and mappings follow annotations."""
    _check_keys(kind, data, where)
    _check_finite(data, where)
    try:
        return msgspec.convert(data, kind, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        spot = f"{where}: {place.rstrip('`')}" if place else where
        raise ConfigError(f"{spot}: {message}") from error


def to_plain(config: object) -> dict[str, Any]:
    """A config as data that `from_plain` and YAML can read back."""
    plain = msgspec.to_builtins(config, enc_hook=_write_path)
    if not isinstance(plain, dict):
        raise ConfigError(f"expected a dataclass, got {type(config).__name__}")
    return plain


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file whose top level is a mapping (or empty)."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"{path} is larger than {MAX_CONFIG_BYTES} bytes: not a configuration"
            )
        return _mapping(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected `key: value` lines, got {type(data).__name__}")
    return data


def _override(data: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in nested plain data."""
    dotted, equals, value = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"expected an override like scheduler.max_batch=4, got {override!r}")
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {override!r}: {key!r} is a value, not a section")
    data[keys[-1]] = _mapping(f"value: {value}", f"override {override!r}")["value"]


def _check_keys(kind: Any, data: object, where: str) -> None:  # `kind` is any annotation
    """Walk data and annotations together; a key that no dataclass has is a spelling mistake."""
    if isinstance(data, Mapping) and dataclasses.is_dataclass(kind):
        known = typing.get_type_hints(kind)
        for key, value in data.items():
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}{_nearest(str(key), known)}")
            _check_keys(known[key], value, f"{where}: {key}")
        return
    for inner in typing.get_args(kind):
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            _check_keys(inner, data, where)
        elif isinstance(data, Mapping):
            for key, value in data.items():
                _check_keys(inner, value, f"{where}.{key}")
        elif isinstance(data, list):
            for place, value in enumerate(data):
                _check_keys(inner, value, f"{where}[{place}]")


def _nearest(key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _check_finite(data: object, where: str) -> None:
    if isinstance(data, float) and not math.isfinite(data):
        raise ConfigError(f"{where}: expected a finite number, got {data}")
    if isinstance(data, Mapping):
        for key, value in data.items():
            _check_finite(value, f"{where}: {key}")
    elif isinstance(data, list):
        for place, value in enumerate(data):
            _check_finite(value, f"{where}[{place}]")


def _read_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} cannot be configured")


def _write_path(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise NotImplementedError(f"{type(value).__name__} cannot be written")
