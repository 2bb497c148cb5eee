"""Reads and writes the files of measurements, and describes what they hold.

A file may come from another machine: its size is limited, and every field that is used is checked.
Fields that are not named here are ignored, so newer and older files are read, too.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ureca.errors import ConfigError
from ureca.models.bench.machine import BenchMachine

_MAX_BYTES = 256 << 20
"""`ureca bench node --out` writes every sample: some MB for an hour."""


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a report shows of a row of `ureca bench engine`; times in ms for each frame."""

    arm: str
    runtime: str
    precision: str
    bundle: str
    regions: int
    frames: int
    ms_median: float
    ms_p95: float
    captions_per_s: float
    same_captions: float
    ms_p99: float | None = None
    stages_ms: dict[str, float] = {}


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of `n` values in ms."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The load of a row of `ureca bench node`."""

    regions: int
    fps: float
    masks: str = "every"
    auto: bool = False
    panoptic: bool = False
    duration_s: float = 0.0


class Captions(msgspec.Struct, frozen=True, kw_only=True):
    """Captions in the measured time."""

    per_s: float


class Frames(msgspec.Struct, frozen=True, kw_only=True):
    """Frames in the measured time, and why some were dropped."""

    measured_in: int
    measured_dropped: dict[str, int] = {}


class NodeUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's process used."""

    cpu_cores: float | None = None
    rss_mb: float | None = None


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a report shows of a row of `ureca bench node`."""

    plan: NodePlan
    c2c_ms: dict[str, Percentiles]
    ttfd_ms: dict[str, Percentiles]
    captions: Captions
    frames: Frames
    node: NodeUse
    joule_per_caption: float | str
    model: str = ""
    precision: str = ""
    load_average: tuple[float, ...] = ()
    books_balance: bool | None = None


class EngineFile(msgspec.Struct, frozen=True, kw_only=True, tag_field="bench", tag="engine"):
    """The JSON of `ureca bench engine`."""

    machine: BenchMachine
    rows: list[EngineRow]
    load_average: tuple[float, ...] = ()


class NodeFile(msgspec.Struct, frozen=True, kw_only=True, tag_field="bench", tag="node"):
    """The JSON of `ureca bench node`."""

    machine: BenchMachine
    rows: list[NodeRow]


def read_measurement(path: Path) -> EngineFile | NodeFile:
    """Read what a bench wrote: its `--out`, or its output, whose last line is JSON.

    Raises `ConfigError` for a file that holds no such measurement.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MB: no report of a bench")
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(content.rpartition(b"\n")[2], type=EngineFile | NodeFile)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{path} is no report of `ureca bench engine` or `ureca bench node`: {error}; give the "
            "file that their --out wrote, or their output"
        ) from error


def write_document(path: Path, text: str) -> None:
    """Write a text file. Raises `ConfigError` where that cannot be done."""
    try:
        path.write_text(text, encoding="utf8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
