"""`ureca curate parts`: texts about parts and wholes, as MRES-32M has them."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ureca.errors import ConfigError, SourceError
from ureca.models.curation.parts.phrases import name_part, write_queries
from ureca.models.data.queries import QueryRecord
from ureca.models.data.regions import RegionRecord, read_regions

_EPILOG = """examples:
  ureca curate parts runs/worlds -o runs/parts
  ureca eval res --data runs/parts --bundle models/pretrained/ureca-nano
  ureca mllm unires train configs/train/unires-stage1.yaml --set data.0.root=runs/parts

DATA is a folder of ours whose parts name their wholes (`parent`), as `ureca curate` and
`ureca worlds make` write them. OUT has its regions, `queries-parts.jsonl.gz`, and a link to its
pictures. No model is asked: masks and names are those of DATA."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; print how many texts of each kind it has."""
    options = _build_parser().parse_args(argv)
    if options.out.exists():
        raise ConfigError(f"{options.out} is there already: give another folder")
    report = make_folder(options.data, options.out, limit=options.limit)
    text = json.dumps(report) if options.json else _tell(report)
    sys.stdout.write(f"{text}\n")
    return 0


def make_folder(data: Path, out: Path, *, limit: int | None = None) -> dict[str, Any]:
    """Write regions and texts of the pictures of `data` that have parts. Raises `SourceError` when
    none has.
    """
    pictures: dict[str, list[RegionRecord]] = {}
    known: set[str] = set()
    for path in sorted(data.glob("regions-*.jsonl*")):
        for record in read_regions(path):
            if record.region_id not in known:
                known.add(record.region_id)
                pictures.setdefault(record.image_key, []).append(record)
    chosen = [rows for rows in pictures.values() if any(r.part and r.parent for r in rows)][:limit]
    if not chosen:
        raise SourceError(f"{data} has no regions that are parts and name their `parent`")
    foreign = sorted({name_part(r) for rows in chosen for r in rows if r.part} - {""})
    queries = [query for rows in chosen for query in write_queries(rows, foreign)]
    out.mkdir(parents=True)
    _write(out / "regions-parts.jsonl.gz", (r.to_json() for rows in chosen for r in rows))
    _write(out / "queries-parts.jsonl.gz", (query.to_json() for query in queries))
    (out / "images").symlink_to(os.path.relpath((data / "images").resolve(), out.resolve()))
    return _count(queries, pictures=len(chosen))


def _count(queries: Sequence[QueryRecord], *, pictures: int) -> dict[str, Any]:
    kinds = Counter(query.kind for query in queries)
    words = sum(len(query.text.split()) for query in queries)
    return {
        "pictures": pictures,
        "texts": len(queries),
        "words_a_text": round(words / max(len(queries), 1), 2),
        **{kind: kinds[kind] for kind in ("part", "thing", "several", "none")},
    }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _tell(report: dict[str, Any]) -> str:
    kinds = ", ".join(f"{report[kind]} {kind}" for kind in ("part", "thing", "several", "none"))
    return (
        f"{report['texts']} texts of {report['words_a_text']} words about {report['pictures']} "
        f"pictures: {kinds}"
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca curate parts",
        description="Write texts about parts, things, several and none for regions with parents.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="a data folder of ours")
    parser.add_argument("-o", "--out", type=Path, required=True, help="output folder")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
