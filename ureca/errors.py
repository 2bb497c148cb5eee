"""Every error that the project raises on purpose.

    UrecaError
    ├── ConfigError            a configuration file or option is wrong (also a ValueError)
    ├── MissingExtraError      an optional package is not installed (also an ImportError)
    ├── WeightsError           weights or checkpoint are missing, altered or of another model
    ├── BundleError            an exported bundle is missing, altered, or made for another runtime
    ├── SourceError            a picture, video, camera or folder cannot be read
    ├── RegionError            a mask, box or point does not describe a region of its picture
    ├── WireError              a message breaks the protocol; carries a stable `code`
    │   └── VersionError       the peer speaks another major version
    ├── RequestError           the node answered a request with an error; carries `code`
    └── EngineError            the captioner failed on a batch it had accepted

A message says what was expected, what was found, and what to do.
"""

from __future__ import annotations


class UrecaError(Exception):
    """Base of all deliberate errors; commands print it without a traceback and exit 2."""


class ConfigError(UrecaError, ValueError):
    """A configuration file or option is wrong."""


class MissingExtraError(UrecaError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class WeightsError(UrecaError):
    """Weights or a checkpoint are missing, altered, or belong to another model."""


class BundleError(UrecaError):
    """An exported bundle is missing, altered, or was made for another runtime."""


class SourceError(UrecaError):
    """A picture, video, camera or folder cannot be read."""


class RegionError(UrecaError, ValueError):
    """A mask, box or point does not describe a region of its picture."""


class WireError(UrecaError):
    """A message breaks the protocol. `code` is one of the stable codes of `docs/protocol.md`."""

    def __init__(self, message: str, *, code: str = "BAD_SCHEMA") -> None:
        super().__init__(message)
        self.code = code


class VersionError(WireError):
    """The peer speaks another major version of the protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="BAD_VERSION")


class RequestError(UrecaError):
    """The node answered a request with an error."""

    def __init__(self, message: str, *, code: str, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_ms = retry_after_ms


class EngineError(UrecaError):
    """The captioner failed on a batch that it had accepted."""
