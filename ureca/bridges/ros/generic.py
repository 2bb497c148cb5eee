"""Between our plain messages and any library's: all have the fields of the `.msg` files."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from ureca.bridges.ros.messages import Message

_M = TypeVar("_M", bound=Message)
Foreign = Any  # a message of cyclonedds or rclpy, both optional
_HINTS: dict[type[Message], dict[str, Any]] = {}
TypeOf = Callable[[type[Message]], Callable[..., Foreign]]


def hints(kind: type[Message]) -> dict[str, Any]:
    """The annotations of a message's fields, resolved."""
    if kind not in _HINTS:
        found = get_type_hints(kind, include_extras=True)
        _HINTS[kind] = {name: found[name] for name in kind.__dataclass_fields__}
    return _HINTS[kind]


def wire_type(hint: Any) -> str | None:
    """`int32` and the like, None for texts and messages."""
    return get_args(hint)[1] if get_origin(hint) is Annotated else None


def item_type(hint: Any) -> type[Message] | None:
    """The message of a field that is a sequence of messages."""
    if isinstance(hint, types.GenericAlias) and get_origin(hint) is tuple:
        item: type[Message] = get_args(hint)[0]
        return item
    return None


def to_foreign(
    message: Message, type_of: TypeOf, as_bytes: Callable[[bytes], Any] = bytes
) -> Foreign:
    """The same message made of another library's classes; `as_bytes` is how it takes `uint8[]`."""
    values = {
        name: _out(getattr(message, name), type_of, as_bytes) for name in hints(type(message))
    }
    return type_of(type(message))(**values)


def _out(value: Any, type_of: TypeOf, as_bytes: Callable[[bytes], Any]) -> Any:
    if isinstance(value, Message):
        return to_foreign(value, type_of, as_bytes)
    if isinstance(value, bytes):
        return as_bytes(value)
    if isinstance(value, tuple):
        return [_out(item, type_of, as_bytes) for item in value]
    return value


def from_foreign(kind: type[_M], message: Foreign) -> _M:
    """Convert a message of another library; raises `ValueError` or `TypeError` for another type."""
    return kind(**{name: _in(hint, getattr(message, name)) for name, hint in hints(kind).items()})


def _in(hint: Any, value: Any) -> Any:
    item = item_type(hint)
    if item is not None:
        return tuple(from_foreign(item, one) for one in value)
    wire = wire_type(hint)
    if wire == "uint8[]":
        return bytes(value)
    if wire is not None and wire.endswith("]"):
        return tuple(value)
    return value if wire is not None or hint is str else from_foreign(hint, value)
