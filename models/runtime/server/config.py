"""The file that describes a server as captioner (`--bundle` of `ureca run`)."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from ureca.config import load_config, to_plain
from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.models.runtime.server.client import ServerConfig, parse_host
from ureca.models.runtime.server.prompts import STYLE_PROMPTS, Pictures

_RESERVED = ("model", "messages", "max_tokens", "temperature", "stream", "n", "response_format")


@dataclass(frozen=True, kw_only=True)
class StylePrompts:
    """What to write about each region, by style; the rest of the prompt is fixed."""

    short: str = STYLE_PROMPTS["short"]
    long: str = STYLE_PROMPTS["long"]

    def of(self, style: Style) -> str:
        """The text for a style."""
        return self.short if style == "short" else self.long


@dataclass(frozen=True, kw_only=True)
class ServerEngineConfig:
    """Settings of a captioner behind an OpenAI-compatible endpoint.

    Raises `ConfigError` for values out of range, and for a host that is not this machine and is not
    in `allow_hosts`: nothing is sent there.
    """

    url: str
    model: str
    allow_hosts: tuple[str, ...] = ()
    """Hosts other than this machine that may get pictures, by name as in the URL."""
    fallback: str = "none"
    """Whose words go out until the server's come, and stay where it fails: `none`, `shipped`, or
    the folder of a bundle, as seen from this file.
    """
    prompts: StylePrompts = field(default_factory=StylePrompts)
    pictures: Pictures = "both"
    """What is sent: the whole picture with outlines, a crop of each region, or both."""
    max_side_px: int = 1024
    """Pictures are shrunk to this before they are sent."""
    regions_per_request: int = 1
    max_concurrency: int = 4
    requests_per_minute: float = 0.0
    """0: no limit."""
    timeout_s: float = 20.0
    """A region without an answer after this fails; retries and waiting are in it."""
    retries: int = 2
    max_tokens: int = 128
    """Of the answer, for each region in the request."""
    max_answer_bytes: int = 256 * 1024
    temperature: float = 0.0
    response_format: Literal["json_object", "none"] = "json_object"
    """`none` for servers that do not know it."""
    price_in_per_1k: float = 0.0
    price_out_per_1k: float = 0.0
    """Price of 1,000 tokens of prompts and of answers, in any currency."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of every request, such as `chat_template_kwargs` of vLLM."""

    def __post_init__(self) -> None:
        self._check_ranges()
        check_host(self.url, self.allow_hosts)
        taken = sorted(set(_RESERVED) & set(self.extra_body))
        if taken:
            raise ConfigError(f"extra_body cannot hold {taken[0]!r}: it has a setting of its own")
        self.client()

    def _check_ranges(self) -> None:
        for name, low, high in (
            ("max_side_px", 64, 4096),
            ("regions_per_request", 1, 16),
            ("max_concurrency", 1, 64),
            ("requests_per_minute", 0, 1e6),
            ("timeout_s", 0.01, 3600),
            ("retries", 0, 10),
            ("max_tokens", 8, 4096),
            ("max_answer_bytes", 1024, 16 << 20),
            ("temperature", 0, 2),
            ("price_in_per_1k", 0, 1e6),
            ("price_out_per_1k", 0, 1e6),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be {low:g}..{high:g}, got {value}")

    def client(self) -> ServerConfig:
        """The settings of the client. The environment's proxies never get a picture."""
        extra = dict(self.extra_body)
        if self.response_format != "none":
            extra["response_format"] = {"type": self.response_format}
        return ServerConfig(
            url=self.url,
            model=self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            retries=self.retries,
            timeout_s=self.timeout_s,
            per_minute=self.requests_per_minute,
            max_answer_bytes=self.max_answer_bytes,
            extra_body=extra,
            uses_proxy=False,
        )

    def sha256(self) -> str:
        """A hash of all settings, which stands for the bundle's in events."""
        return hashlib.sha256(msgspec.json.encode(to_plain(self), order="sorted")).hexdigest()


def load_server_config(path: Path) -> ServerEngineConfig:
    """Read the YAML file. Raises `ConfigError` for unknown keys and values out of range."""
    try:
        return load_config(ServerEngineConfig, path)
    except ConfigError as error:
        words = str(error)
        raise ConfigError(words if str(path) in words else f"{path}: {words}") from error


def check_host(url: str, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless the host of `url` is this machine or named in `allowed`."""
    host = parse_host(url)
    if _is_loopback(host) or host in {name.lower() for name in allowed}:
        return
    raise ConfigError(
        f"{url} is not on this machine, and pictures of your camera would be sent there. If that "
        f"is what you want, write into the file:\n    allow_hosts: [{host}]"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
