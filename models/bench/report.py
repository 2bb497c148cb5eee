"""`ureca bench report`: one page of what `ureca bench engine` and `ureca bench node` measured on a
machine, to send to others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.bench.files import (
    EngineFile,
    EngineRow,
    NodeFile,
    NodeRow,
    Percentiles,
    read_measurement,
    write_document,
)
from ureca.models.bench.machine import BenchMachine
from ureca.models.bench.stock import EXTRA

_TEMPLATE = "report.html.j2"
_LEAST_FOR_P99 = 100
_ABSENT = "-"
_EPILOG = """example:
  ureca bench engine --bundle BUNDLE --regions 1,4,8,16,32 --frames 100 --out engine.json
  ureca bench node --bundle BUNDLE --regions 1,4,8,16,32 --out node.json
  ureca bench report engine.json node.json -o report.html

Files of several machines or power modes may stand on one page: each has a section. The page has no
scripts and loads nothing. It names no host, user or path."""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of texts, and the sentence below it."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


@dataclass(frozen=True, slots=True)
class Section:
    """One machine in one state, and what was measured there."""

    name: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[ReportTable]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    page = render_report([read_measurement(path) for path in options.files], options.title)
    write_document(options.out, page)
    sys.stdout.write(f"{options.out}: open it in a browser\n")
    return 0


def render_report(files: Sequence[EngineFile | NodeFile], title: str) -> str:
    """Return the page. Files of one machine in one state share a section.

    Raises `MissingExtraError` without `jinja2`, `ConfigError` without any row.
    """
    if not any(file.rows for file in files):
        raise ConfigError("these reports hold no measurements")
    jinja2 = require("jinja2", extra=EXTRA)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page: str = environment.get_template(_TEMPLATE).render(
        title=title, sections=make_sections(files)
    )
    return page


def make_sections(files: Sequence[EngineFile | NodeFile]) -> list[Section]:
    """Group the files by machine, in their order."""
    facts = [_list_facts(file.machine) for file in files]
    sections = []
    for told in dict.fromkeys(facts):
        mine = [file for file, its in zip(files, facts, strict=True) if its == told]
        name = next((value for key, value in told if key in {"board", "GPU", "processor"}), "")
        tables = [make_table(file) for file in mine if file.rows]
        sections.append(Section(name or "a machine that was not described", told, tables))
    return sections


def make_table(file: EngineFile | NodeFile) -> ReportTable:
    """Return the rows of one file as texts."""
    if isinstance(file, EngineFile):
        return ReportTable(
            "One frame: encode and one batch of regions (ureca bench engine)",
            [*_ENGINE_HEADING],
            [_format_engine_row(row) for row in file.rows],
            "ms for a frame, in one process, methods in turn. same: share of captions that equal "
            "those of the first method, or of float32 torch if it ran. Load average at the end: "
            f"{_format_load(file.load_average)}.",
        )
    return ReportTable(
        "From capture to caption (ureca bench node)",
        [*_NODE_HEADING],
        [_format_node_row(row) for row in file.rows],
        "From the capture of a frame until a subscriber process has the decoded caption; frames "
        "are sent on time. J a caption holds idle power and is of the processor or the whole "
        "module, never of a GPU in a slot.",
    )


_ENGINE_HEADING = (
    "regions", "method", "runtime", "precision", "bundle", "frames", "p50 ms", "p95 ms", "p99 ms",
    "captions/s", "same", "stages ms",
)  # fmt: skip
_NODE_HEADING = (
    "regions", "frames/s", "masks", "model", "captions", "p50 ms", "p95 ms", "p99 ms",
    "first text p50 ms", "captions/s", "frames dropped", "cores", "MB", "J a caption",
    "load", "accounts",
)  # fmt: skip


def _format_engine_row(row: EngineRow) -> list[str]:
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in row.stages_ms.items())
    p99 = row.ms_p99 if row.frames >= _LEAST_FOR_P99 else None
    return [
        str(row.regions),
        row.arm,
        row.runtime,
        row.precision,
        Path(row.bundle).name,
        str(row.frames),
        *map(_format_ms, (row.ms_median, row.ms_p95, p99)),
        f"{row.captions_per_s:.1f}",
        f"{row.same_captions:.3f}",
        stages or _ABSENT,
    ]


def _format_node_row(row: NodeRow) -> list[str]:
    late, first = (ms.get("all", Percentiles(n=0)) for ms in (row.c2c_ms, row.ttfd_ms))
    p99 = late.p99 if late.n >= _LEAST_FOR_P99 else None
    joule = row.joule_per_caption
    cores, rss_mb = row.node.cpu_cores, row.node.rss_mb
    return [
        str(row.plan.regions),
        f"{row.plan.fps:g}",
        _describe_masks(row),
        f"{row.model} {row.precision}".strip() or _ABSENT,
        str(late.n),
        *map(_format_ms, (late.p50, late.p95, p99, first.p50)),
        f"{row.captions.per_s:.1f}",
        _format_drops(row),
        _ABSENT if cores is None else f"{cores:.2f}",
        _ABSENT if rss_mb is None else f"{rss_mb:.0f}",
        f"{joule:.2f}" if isinstance(joule, float) else joule,
        _format_load(row.load_average),
        {True: "balance", False: "DO NOT BALANCE", None: _ABSENT}[row.books_balance],
    ]


def _describe_masks(row: NodeRow) -> str:
    if row.plan.panoptic:
        return "whole frames"
    if row.plan.auto:
        return "found by the node"
    return {"every": "of the sender", "warm-up": "propagated"}.get(row.plan.masks, row.plan.masks)


def _format_drops(row: NodeRow) -> str:
    lost = sum(row.frames.measured_dropped.values())
    if not row.frames.measured_in:
        return _ABSENT
    return f"{lost} of {row.frames.measured_in}"


def _format_load(load: Sequence[float]) -> str:
    return f"{load[0]:.1f}" if load else _ABSENT


def _format_ms(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.1f}"


def _list_facts(machine: BenchMachine) -> tuple[tuple[str, str], ...]:
    """Name what is known of a machine; what a measurement did not record is left out."""
    known = (
        ("board", machine.board),
        ("GPU", machine.gpu or machine.compute_capability),
        ("processor", machine.processor),
        ("power mode", machine.power_mode),
        ("clock policy", machine.governor),
        ("GPU power limit", machine.gpu_power_limit),
        ("GPU clock limit", machine.gpu_clock_limit),
        ("GPU driver", machine.gpu_driver),
        ("Jetson Linux", machine.jetson_linux),
        ("system", machine.system),
        ("Python", machine.python),
        ("versions", _format_versions(machine.versions)),
    )
    return tuple((name, value) for name, value in known if value)


def _format_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench report",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="JSON", help="what --out of the benches wrote")
    add("-o", "--out", type=Path, required=True, metavar="HTML", help="the page")
    add("--title", default="ureca: measured", help="heading of the page (%(default)s)")
    return parser
