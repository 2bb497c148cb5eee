"""What every message of protocol v2 has in common: limits, ids, topics, and careful MessagePack.

Input is not trusted: every length is limited before it is allocated, duplicate keys and extension
types are refused, and numbers must be finite. Invalid bytes raise only `WireError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

import msgpack
import msgspec

from ureca.errors import VersionError, WireError
from ureca.protocol.event_table import TOPIC_PARTS
from ureca.protocol.events import PROTOCOL_VERSION

MAJOR = PROTOCOL_VERSION[0]
NO_STREAM = "_"
"""Stands for the stream in topics of events about the whole node (`heartbeat`,
`recording.stopped`)."""

ERROR_CODES = frozenset(
    {
        "BAD_VERSION",
        "BAD_SCHEMA",
        "TOO_LARGE",
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "NOT_FOUND",
        "GONE",
        "STALE_FRAME",
        "DEADLINE",
        "BUSY",
        "LIMIT",
        "NO_STREAM",
        "NO_MODEL",
        "ENGINE",
        "BAD_OUTPUT",
        "INTERNAL",
    }
)

_ID = re.compile(r"[a-z0-9_-]{1,64}\Z")
_PREFIX = re.compile(rb"ureca(0|[1-9]\d{0,3})/")
_MAX_TOPIC_BYTES = 5 + 4 + 4 * 65 + 16
_Message = TypeVar("_Message")


@dataclass(frozen=True, kw_only=True)
class WireLimits:
    """Limits of messages from a peer; a larger message is refused with `TOO_LARGE`."""

    max_header_bytes: int = 1 << 20
    max_reply_bytes: int = 1 << 24
    max_payload_bytes: int = 1 << 26
    max_pixels: int = 1 << 25
    max_regions: int = 256
    max_string_bytes: int = 1 << 18
    max_binary_bytes: int = 1 << 14
    max_items: int = 1 << 12
    """Of one list or map."""
    max_total_items: int = 1 << 17
    """Of all lists and maps of a header together."""
    max_request_bytes: int = 1 << 16
    max_request_items: int = 1 << 12

    @property
    def max_message_bytes(self) -> int:
        """For `ZMQ_MAXMSGSIZE`: no single part may be larger."""
        return max(self.max_header_bytes, self.max_reply_bytes, self.max_payload_bytes)

    @property
    def for_replies(self) -> WireLimits:
        """Replies may be longer: a snapshot carries a mask or two for every live region, `picture`
        a JPEG.
        """
        most = self.max_reply_bytes
        return replace(
            self, max_header_bytes=most, max_binary_bytes=most, max_total_items=most >> 3
        )

    @property
    def for_requests(self) -> WireLimits:
        """Requests are short: the longest has the mask of one region."""
        return replace(
            self,
            max_header_bytes=min(self.max_header_bytes, self.max_request_bytes),
            max_total_items=self.max_request_items,
        )


LIMITS = WireLimits()


@dataclass(frozen=True, slots=True)
class Topic:
    """`ureca2/<node>/<stream>/<kind>[/<region>]` and NUL, so that `cam1` does not match `cam10`."""

    node: str
    stream: str
    kind: str
    region: str | None = None

    def __post_init__(self) -> None:
        check_id(self.node, "node")
        check_id(self.stream, "stream")
        if self.kind not in TOPIC_PARTS:
            raise WireError(f"expected a topic kind of {sorted(TOPIC_PARTS)}, got {self.kind!r}")
        if self.region is not None:
            check_id(self.region, "region")

    def encode(self) -> bytes:
        """The bytes of the first message part."""
        parts = (self.node, self.stream, self.kind, *([self.region] if self.region else []))
        return f"ureca{MAJOR}/{'/'.join(parts)}\0".encode("ascii")


def subscription(node: str = "", stream: str = "", kind: str = "") -> bytes:
    """The prefix for `ZMQ_SUBSCRIBE`: later parts need the earlier ones, none means everything."""
    given = (node, stream, kind)
    count = next((place for place, part in enumerate(given) if not part), len(given))
    if any(given[count:]):
        raise WireError(f"a subscription narrows from the left, got node, stream, kind = {given}")
    return f"ureca{MAJOR}/{''.join(part + '/' for part in given[:count])}".encode("ascii")


def parse_topic(part: bytes) -> Topic:
    """Read a topic; `VersionError` for another major version, `WireError` for anything else."""
    found = _PREFIX.match(part)
    if found and int(found.group(1)) != MAJOR:
        raise VersionError(
            f"the peer speaks protocol {int(found.group(1))}, this side speaks {MAJOR}; "
            "use a client and a node of the same major version"
        )
    if not found or not part.endswith(b"\0") or len(part) > _MAX_TOPIC_BYTES:
        raise WireError(
            f"expected a topic ureca{MAJOR}/NODE/STREAM/KIND[/REGION] and NUL, got {part[:80]!r}"
        )
    fields = part[found.end() : -1].decode("ascii", "replace").split("/")
    if len(fields) not in (3, 4):
        raise WireError(f"expected a topic of 4 or 5 parts, got {len(fields) + 1} in {part[:80]!r}")
    return Topic(*fields)


def check_id(value: str, what: str) -> str:
    """An id is `[a-z0-9_-]{1,64}`; `WireError` names which id is not."""
    if not _ID.match(value):
        raise WireError(
            f"a {what} id is 1 to 64 characters of a-z, 0-9, '_' and '-', got {value[:80]!r}"
        )
    return value


def is_id(value: str | None) -> bool:
    """Whether `value` is an id that topics can carry."""
    return value is not None and _ID.match(value) is not None


def check_version(data: Mapping[str, Any]) -> None:
    """Every header carries `v` = [major, minor]; another major version is refused."""
    version = data.get("v")
    if (
        not isinstance(version, list)
        or len(version) != 2
        or any(type(number) is not int or number < 0 for number in version)
    ):
        raise WireError(f"expected 'v' as [major, minor], got {version!r:.80}")
    if version[0] != MAJOR:
        raise VersionError(
            f"the peer speaks protocol {version[0]}.{version[1]}, this side speaks {MAJOR}; "
            "use a client and a node of the same major version"
        )


def check_parts(parts: Sequence[bytes | memoryview], *, least: int, most: int, what: str) -> None:
    """A message of the wrong number of parts was cut off or is of another kind."""
    if not least <= len(parts) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise WireError(f"expected {what} of {wanted} parts, got {len(parts)}")


def unpack(part: bytes, limits: WireLimits = LIMITS) -> dict[str, Any]:
    """MessagePack bytes to a map with text keys: limited, free of duplicates, finite.

    The values are plain data that still need a schema. Raises `WireError`.
    """
    if len(part) > limits.max_header_bytes:
        raise WireError(
            f"expected a header of at most {limits.max_header_bytes} bytes, got {len(part)}",
            code="TOO_LARGE",
        )
    items = _ItemCount(limits.max_total_items)
    try:
        data = msgpack.unpackb(
            part,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=items.read_map,
            list_hook=items.read_list,
            max_str_len=limits.max_string_bytes,
            max_bin_len=limits.max_binary_bytes,
            max_array_len=limits.max_items,
            max_map_len=limits.max_items,
            max_ext_len=0,
        )
    except _TooManyItemsError as error:
        raise WireError(str(error), code="TOO_LARGE") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"expected a MessagePack map, got {error!s:.200}") from error
    if not isinstance(data, dict):
        raise WireError(f"expected a MessagePack map, got {type(data).__name__}")
    check_finite(data)
    return data


def pack(message: object, limits: WireLimits = LIMITS) -> bytes:
    """Encode a message as MessagePack; refuses numbers and sizes that the peer would refuse."""
    plain = msgspec.to_builtins(message, builtin_types=(bytes,))
    check_finite(plain)
    part = msgspec.msgpack.encode(plain)
    if len(part) > limits.max_header_bytes:
        raise WireError(
            f"a header of {len(part)} bytes exceeds {limits.max_header_bytes}; send fewer regions "
            "or leave the masks out",
            code="TOO_LARGE",
        )
    return part


def _explained(error: Exception, kind: object) -> str:
    """The allowed values of a field with another value; empty for every other error."""
    found = re.fullmatch(r"Invalid enum value (.{1,80}) - at `\$\.(\w+)`", str(error))
    if found is None or not isinstance(kind, type):
        return ""
    allowed = get_args(get_type_hints(kind).get(found[2]))
    if not allowed or not all(isinstance(value, str) for value in allowed):
        return ""
    return f"{found[2]} must be {' or '.join(map(repr, allowed))}, got {found[1]}"


def convert(data: object, kind: type[_Message], what: str) -> _Message:
    """Convert data to a typed message; unknown keys are ignored, wrong types raise `WireError`."""
    try:
        return msgspec.convert(data, kind, builtin_types=(bytes,))
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise WireError(_explained(error, kind) or f"not a valid {what}: {error!s:.300}") from error


def or_unknown(data: dict[str, Any], known: Mapping[str, frozenset[str]]) -> None:
    """Map values that a later minor version may have added to `unknown`, in place."""
    for key, words in known.items():
        if isinstance(data.get(key), str) and data[key] not in words:
            data[key] = "unknown"


def check_finite(data: object) -> None:
    """No NaN and no infinity anywhere in plain data; `WireError` otherwise."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                raise WireError(f"expected finite numbers, got {value}")
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)


class _TooManyItemsError(ValueError):
    pass


class _ItemCount:
    """Counts lists, maps and their items while they are read: a megabyte of empty maps takes 70
    MiB.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def read_map(self, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        listed = list(pairs)
        self._count(len(listed))
        data = dict(listed)
        if len(data) != len(listed):
            raise ValueError("a map with duplicate keys")
        return data

    def read_list(self, items: list[Any]) -> list[Any]:
        self._count(len(items))
        return items

    def _count(self, items: int) -> None:
        self._left -= 1 + items
        if self._left < 0:
            raise _TooManyItemsError(f"expected at most {self._most} items in a message, got more")
