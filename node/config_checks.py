"""What the settings of a node are checked with."""

from __future__ import annotations

import re

from ureca.errors import ConfigError

ID_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")


def ensure(condition: object, message: str) -> None:
    """Raises `ConfigError` with `message` unless the condition holds."""
    if not condition:
        raise ConfigError(message)
