"""Whether and where `/metrics` and `/healthz` are served."""

from __future__ import annotations

from dataclasses import dataclass

from ureca.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """Where people and Prometheus look; port 0 is off."""

    port: int = 0
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"http.port must be 0..65535, got {self.port}")
        if self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                f"http.host must be a loopback address, got {self.host!r}: nobody is asked for a "
                "key there. Let a reverse proxy or an SSH tunnel carry it further."
            )
