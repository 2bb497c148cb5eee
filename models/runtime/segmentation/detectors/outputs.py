"""Which output of an ONNX file is which, and whether its values may be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import BundleError, ConfigError, EngineError

MOST_VALUES = 1 << 28
"""Of all outputs of one run together."""
Arrays = Mapping[str, npt.NDArray[Any]]
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class OutputRole:
    """What a layout needs: `axes` name its dimensions, a number stands for itself. `names` are
    those of the project's own exporters.
    """

    axes: tuple[str | int, ...]
    names: tuple[str, ...]
    whole_numbers: bool = False

    def fits(self, output: GraphValue) -> bool:
        """Whether an output may have this role, by its shape and type."""
        if len(output.shape) != len(self.axes) or output.has_whole_numbers != self.whole_numbers:
            return False
        pairs = zip(self.axes, output.shape, strict=True)
        return all(
            not (isinstance(axis, int) and isinstance(side, int)) or axis == side
            for axis, side in pairs
        )

    @property
    def text(self) -> str:
        """Its shape in words."""
        kind = "int64" if self.whole_numbers else "float"
        return f"{kind}[{', '.join(map(str, self.axes))}]"


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output of an ONNX file; sides that the file leaves open are texts or None."""

    name: str
    type: str
    shape: Shape

    @property
    def has_whole_numbers(self) -> bool:
        """Whether its values are integers."""
        return "int" in self.type

    @property
    def text(self) -> str:
        """Name, type and shape."""
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.type.removeprefix('tensor(').removesuffix(')')}[{sides}]"


def describe(values: Sequence[GraphValue]) -> str:
    """All of them in one line."""
    return "; ".join(value.text for value in values) or "none"


def assign_outputs(
    roles: Mapping[str, OutputRole],
    outputs: Sequence[GraphValue],
    given: Mapping[str, str],
    *,
    where: str,
) -> dict[str, str]:
    """Role to output name: as `given`, else by the names that are usual, else by shape where just
    one fits. Raises `ConfigError` that lists what the file has.
    """
    known = {output.name: output for output in outputs}
    _check_given(roles, known, given, where)
    found = dict(given)
    for role, needs in roles.items():
        usual = [
            name
            for name in needs.names
            if name in known and name not in found.values() and needs.fits(known[name])
        ]
        if role not in found and usual:
            found[role] = usual[0]
    for role, needs in roles.items():
        free = [one.name for one in outputs if one.name not in found.values() and needs.fits(one)]
        if role not in found and len(free) == 1:
            found[role] = free[0]
        if role not in found:
            raise ConfigError(
                f"{where}: expected one output {role} {needs.text}, {len(free) or 'none'} of the "
                f"file's outputs fit. It has: {describe(outputs)}. Name it with "
                f"`outputs: {{{role}: NAME}}`, or choose another layout"
            )
    for role, name in found.items():
        if not roles[role].fits(known[name]):
            raise ConfigError(
                f"{where}: expected {role} {roles[role].text}, the output is {known[name].text}"
            )
    return found


def _check_given(
    roles: Mapping[str, OutputRole],
    known: Mapping[str, GraphValue],
    given: Mapping[str, str],
    where: str,
) -> None:
    for role, name in given.items():
        if role not in roles:
            raise ConfigError(f"{where}: outputs: expected {', '.join(roles)}, got {role!r}")
        if name not in known:
            raise ConfigError(
                f"{where}: outputs: {role}: no output {name!r}; the file has: "
                f"{describe(tuple(known.values()))}"
            )


def check_arrays(
    roles: Mapping[str, OutputRole], arrays: Arrays, *, where: str
) -> dict[str, npt.NDArray[Any]]:
    """The outputs of one run as f32 or i64. Raises `BundleError` for shapes that do not fit each
    other or are too large, `EngineError` for values that are not finite.
    """
    total = sum(array.size for array in arrays.values())
    if total > MOST_VALUES:
        raise BundleError(f"{where}: expected at most {MOST_VALUES} output values, got {total}")
    sides: dict[str | int, int] = {}
    for role, needs in roles.items():
        shape = arrays[role].shape
        fits = len(shape) == len(needs.axes) and all(
            side == (axis if isinstance(axis, int) else sides.setdefault(axis, side))
            for axis, side in zip(needs.axes, shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{axis} = {side}" for axis, side in sides.items())
            raise BundleError(
                f"{where}: expected {role} {needs.text}{f' with {known}' if known else ''}, got "
                f"{list(shape)}: is the layout right?"
            )
    found: dict[str, npt.NDArray[Any]] = {}
    for role, array in arrays.items():
        if roles[role].whole_numbers:
            found[role] = np.asarray(array, np.int64)
            continue
        found[role] = np.asarray(array, np.float32)
        if not np.isfinite(found[role]).all():
            raise EngineError(f"{where}: {role} has values that are not finite")
    return found
