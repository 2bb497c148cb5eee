"""Checks an ONNX file of somebody else before ONNX Runtime opens it: size, and where its weights
are.

An ONNX file may name other files that hold its weights ("external data"). A file from outside must
not make the node read anything beyond its own folder. ONNX itself is not installed beside the node,
so the few fields that matter are read from the protocol-buffer message here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ureca.errors import BundleError

MOST_BYTES = 4 << 30
"""Of the file and its external data together."""
_DEEPEST = 32
_Buffer = memoryview

# Fields of onnx.proto that lead to tensors: message -> field number -> message.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2


def check_onnx_file(path: Path) -> None:
    """Raise `BundleError` when `path` is no ONNX file, is too large, or names external data outside
    its folder.
    """
    if path.suffix != ".onnx":
        raise BundleError(f"expected a file NAME.onnx, got {path}")
    if not path.is_file():
        raise BundleError(f"no {path}: expected an ONNX file there")
    total = path.stat().st_size
    if not 0 < total <= MOST_BYTES:
        raise BundleError(f"expected {path} with 1..{MOST_BYTES} bytes, it has {total}")
    for file in find_external_data(path):
        total += file.stat().st_size
        if total > MOST_BYTES:
            raise BundleError(f"{path} and its external data are more than {MOST_BYTES} bytes")


def find_external_data(path: Path) -> list[Path]:
    """The files of external data that an ONNX file names. Raises `BundleError` when it is no ONNX
    file, or names a file that is missing or outside its folder.
    """
    return [_find_external(path, location) for location in list_external_data(path)]


def list_external_data(path: Path) -> list[str]:
    """The different locations of external data that an ONNX file names, sorted."""
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return sorted(set(_walk(memoryview(content), "model", 0)))
    except (IndexError, ValueError) as error:  # an empty file cannot be mapped
        raise BundleError(f"{path} is no ONNX file ({error}): export the model again") from error


class _NotAMessageError(ValueError):
    """Bytes that are no protocol-buffer message."""


def _find_external(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    named = PurePosixPath(location)
    inside = (folder / named).resolve() if location else folder
    is_plain = location and not named.is_absolute() and "\\" not in location
    if not is_plain or not inside.is_relative_to(folder):
        raise BundleError(
            f"{path} wants its weights from {location!r}: expected a file in {folder} and no path "
            "that leads out of it; save the model again with its weights beside it"
        )
    if not inside.is_file():
        raise BundleError(f"{path} wants its weights from {location!r}: no such file in {folder}")
    return inside


def _walk(message: _Buffer, kind: str, depth: int) -> Iterator[str]:
    """Locations of external data in a message of onnx.proto."""
    if depth > _DEEPEST:
        raise _NotAMessageError(f"it nests more than {_DEEPEST} messages")
    leads = _LEADS[kind]
    for number, value in _read_fields(message):
        inner = leads.get(number)
        if inner is None or value is None:
            continue
        if inner == "entry":
            entry = {key: bytes(text) for key, text in _read_fields(value) if text is not None}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8")
        else:
            yield from _walk(value, inner, depth + 1)


def _read_fields(message: _Buffer) -> Iterator[tuple[int, _Buffer | None]]:
    """Number and content of each field; None for numbers."""
    place, end = 0, len(message)
    while place < end:
        tag, place = _read_varint(message, place)
        kind = tag & 7
        value = None
        if kind == 0:
            _, place = _read_varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, place = _read_varint(message, place)
            value = message[place : place + length]
            place += length
        else:
            raise _NotAMessageError(f"it has a field of unknown kind {kind}")
        if place > end:
            raise _NotAMessageError("it is cut")
        yield tag >> 3, value


def _read_varint(message: _Buffer, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _NotAMessageError("it has a number of more than ten bytes")
