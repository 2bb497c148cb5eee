"""What a configuration must fulfil."""

from __future__ import annotations

from ureca.errors import ConfigError


def ensure(condition: object, message: str) -> None:
    """Raises `ConfigError` with `message` unless the condition holds."""
    if not condition:
        raise ConfigError(message)
