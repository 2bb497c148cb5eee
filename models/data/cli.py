"""`ureca data`: `check` counts, validates and draws data folders before anything is trained;
`import` and `shards` make them (`readers/cli.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ureca.models.data.check import DataFinding, check_texts
from ureca.models.data.contact_sheet import choose_regions, write_sheets
from ureca.models.data.counts import Counts, count_records, format_table
from ureca.models.data.folders import check_pictures, check_regions, read_folders
from ureca.models.data.readers.cli import add_import, add_shards
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.tokenizer import Tokenizer

_NAMED = 10
_EPILOG = """examples:
  ureca data check ../shared/data -o report
  ureca data check ../shared/data worlds worlds-test --json
  ureca data check worlds --pictures 20 --sheet 100 --seed 1 -o report

A folder holds regions-*.jsonl.gz, images-*.jsonl.gz and images/*.tar (docs/data.md). With -o DIR a
contact sheet (PNG) and report.json are written into DIR. Exit status 1: there are faults, the first
ten are named; 2: a folder cannot be read at all."""


@dataclass(frozen=True)
class CheckReport:
    """The result of a check."""

    counts: Counts
    findings: tuple[DataFinding, ...]

    @property
    def faults(self) -> list[DataFinding]:
        """Findings that make the data wrong."""
        return [finding for finding in self.findings if finding.is_fault]

    def to_json(self) -> dict[str, object]:
        """For `--json` and `report.json`."""
        return {
            **self.counts.to_json(),
            "faults": len(self.faults),
            "findings": self._count_kinds(),
            "first_faults": [str(fault) for fault in self.faults[:_NAMED]],
            "first_notes": list(self._list_first_notes()),
        }

    def format_lines(self) -> Iterator[str]:
        """Format the report for a terminal."""
        yield from format_table(self.counts)
        yield f"  {len(self.faults)} faults; findings by kind: {self._count_kinds() or 'none'}"
        yield from (f"  note   {text}" for text in self._list_first_notes())
        yield from (f"  FAULT  {fault}" for fault in self.faults[:_NAMED])

    def _count_kinds(self) -> dict[str, int]:
        return dict(Counter(finding.kind for finding in self.findings))

    def _list_first_notes(self) -> Iterable[str]:
        """Return three notes of every kind."""
        seen: Counter[str] = Counter()
        for finding in self.findings:
            seen[finding.kind] += 1
            if not finding.is_fault and seen[finding.kind] <= 3:
                yield str(finding)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    options = _build_parser().parse_args(argv)
    return int(options.run(options))


def _run_check(options: argparse.Namespace) -> int:
    data = read_folders(options.roots)
    store = ImageStore([root / "images" for root in options.roots])
    tokenizer = Tokenizer.load(options.tokenizer or require_bundle() / "tokenizer.json")
    findings = [*data.unreadable, *check_regions(data, options.held_out_every)]
    texts = tqdm(data.records, desc="texts", unit="region", disable=None)
    findings += check_texts(texts, tokenizer.encode, options.max_tokens)
    findings += check_pictures(data, store, part=options.pictures, every=options.held_out_every)
    report = CheckReport(
        count_records(data.records, data.images, options.held_out_every), tuple(findings)
    )
    text = json.dumps(report.to_json(), indent=1) + "\n"
    if options.out:
        chosen = choose_regions(data.records, options.sheet, options.seed)
        for path in write_sheets(chosen, store, options.out):
            sys.stderr.write(f"{path}\n")
        (options.out / "report.json").write_text(text, encoding="utf8")
    sys.stdout.write(text if options.json else "\n".join(report.format_lines()) + "\n")
    return 1 if report.faults else 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca data", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="check|import|shards")
    add_import(commands)
    add_shards(commands)
    check = commands.add_parser(
        "check",
        help="count, validate and draw data folders",
        description="Count, validate and draw data folders.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    check.set_defaults(run=_run_check)
    add = check.add_argument
    add("roots", nargs="+", type=Path, metavar="ROOT", help="data folders")
    add(
        "-o", "--out", type=Path, metavar="DIR", help="folder for the contact sheet and report.json"
    )
    add("--sheet", type=int, default=60, metavar="N", help="regions on the sheet (60)")
    add("--seed", type=int, default=0, help="random seed of the contact sheet (0)")
    add("--pictures", type=int, default=1, metavar="N", help="decode one image in N (1: all)")
    add(
        "--held-out-every",
        type=int,
        default=HELD_OUT_EVERY,
        metavar="N",
        help=f"divisor of the split ({HELD_OUT_EVERY})",
    )
    add("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json (the shipped)")
    add(
        "--max-tokens",
        type=int,
        default=32,
        help="longest caption in tokens, end token included (32)",
    )
    add("--json", action="store_true", help="one JSON object instead of tables")
    return parser
