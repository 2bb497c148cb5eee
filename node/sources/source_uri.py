"""Parses `NAME=URI` of a source, and formats URIs without their secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ureca.errors import SourceError
from ureca.node.config import SourceConfig

SNAPSHOT = "snapshot+"
_WEB = frozenset({"http", "https"})
NETWORK = (
    frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp"})
    | _WEB
    | {SNAPSHOT + scheme for scheme in _WEB}
)
_NAMED = re.compile(r"([a-z0-9_-]{1,64})=(.+)", re.DOTALL)
_MISNAMED = re.compile(r"([^=:?/.][^=:?]{0,199})=(.+)", re.DOTALL)
_DEVICE = re.compile(r"(?:v4l2:)?(/dev/video\d+(?:\?.*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """One source: the stream that its frames belong to, and where it is."""

    stream: str
    uri: str
    is_named: bool = False


def addresses_of(source: SourceConfig) -> tuple[Address, ...]:
    """All sources of a configuration; `SourceError` when two of them would share a stream."""
    first = _parted(source.uri, source.stream)
    also = (_parted(text, f"cam{place}") for place, text in enumerate(source.also, 1))
    addresses = (first, *also)
    streams = [address.stream for address in addresses]
    twice = {stream for stream in streams if streams.count(stream) > 1}
    if twice:
        raise SourceError(
            f"two sources have the stream {min(twice)!r}: name them, --source front=URI"
        )
    return addresses


def _parted(text: str, stream: str) -> Address:
    """`NAME=URI` or `URI`; a file whose name looks like that is given as `./NAME=…`. Cameras that
    speak the protocol bring their names along.
    """
    found = _NAMED.fullmatch(text)
    if found is None:
        _check_name(text)
        return Address(stream, _spelled_out(text))
    if found.group(2).startswith(("zmq+", "credit+")):
        raise SourceError(f"{text}: the cameras there name their streams, leave out the name")
    return Address(found.group(1), _spelled_out(found.group(2)), is_named=True)


def _check_name(text: str) -> None:
    """Refuse `NAME=URI` whose name no stream can have, unless a file is called so."""
    found = _MISNAMED.fullmatch(text)
    if found is not None and not Path(text).exists():
        raise SourceError(
            f"the name {found.group(1)!r} of a source: expected 1 to 64 of a-z, 0-9, _ and -, as "
            f"in front={hide_secrets(found.group(2))}"
        )


def _spelled_out(text: str) -> str:
    """A URI as the sources take it: `0` and `/dev/video0` are cameras."""
    if text.isdecimal() and not Path(text).exists():
        return f"v4l2:///dev/video{int(text)}"
    found = _DEVICE.fullmatch(text)
    return f"v4l2://{found.group(1)}" if found is not None else text


def path_of(uri: str) -> Path:
    """The file that `file://…` or a plain path names."""
    if not uri.startswith("file://"):
        return Path(uri)
    raw = uri.removeprefix("file://").removeprefix("localhost")
    return Path(raw) if Path(raw).exists() else Path(unquote(raw))


def split(uri: str) -> SplitResult:
    """The parts of a URI; `SourceError` for one that has none."""
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError as error:
        raise SourceError(f"{hide_secrets(uri)} is no URI: {error}") from error
    return parts


def hide_secrets(uri: str) -> str:
    """A URI without secrets, for logs and events: of a network stream only scheme, host and port.

    User, password, path and query are removed: cameras accept passwords in all of these places.
    """
    scheme, marker, rest = uri.partition("://")
    if scheme.lower() not in NETWORK or not marker:
        return uri
    # Whatever may be before the last @ is secret, wherever a careless URI puts its slashes.
    after = rest.rsplit("@", 1)[-1]
    return f"{scheme}://{re.split('[/?#]', after, maxsplit=1)[0]}/…"


def without_secrets(source: SourceConfig) -> SourceConfig:
    """A configuration as it may be written to a file that others read."""
    return replace(
        source,
        uri=_shown_named(source.uri),
        also=tuple(_shown_named(text) for text in source.also),
    )


def _shown_named(text: str) -> str:
    address = _parted(text, "")
    return (
        f"{address.stream}={hide_secrets(address.uri)}" if address.is_named else hide_secrets(text)
    )


def sources_of(texts: Sequence[str], source: SourceConfig) -> SourceConfig:
    """`source` with the URIs of a command line: the first in `uri`, the others in `also`."""
    if not texts:
        return source
    first = _parted(texts[0], source.stream)
    return replace(source, uri=first.uri, stream=first.stream, also=tuple(texts[1:]))
