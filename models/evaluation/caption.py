"""`ureca caption`: captions a file of regions and writes the captions line by line.

Regions are grouped by image: each image is encoded once and its regions are decoded in one batch,
as in the node. A region that cannot be captioned is counted and reported on stderr. It never
becomes text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from tqdm import tqdm

from ureca.datatypes import Image, Mask, RegionInput, Rle, RowDone, Style
from ureca.engine import Engine
from ureca.errors import RegionError, SourceError, UrecaError
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.captioners.mask_variants import MaskEdit, make_mask_edit
from ureca.protocol import rle

StyleChoice = Literal["auto", "short", "long"]
Row = tuple[str, RegionInput]

_EPILOG = """examples:
  ureca caption regions.jsonl.gz --images images --bundle BUNDLE -o captions.jsonl
  ureca caption regions.jsonl.gz --images a.tar b.tar --bundle BUNDLE -o out.jsonl \\
      --held-out-every 16 --limit 1000 --style short

Each line of the output is {"region_id": ..., "caption": ..., "score": ...}. A second run continues
where the first one stopped. Exit status 1: some regions failed, see stderr."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """One region's caption; `score` is the geometric mean of its tokens' probabilities."""

    region_id: str
    caption: str
    score: float


@dataclass(frozen=True, slots=True)
class FailedCaption:
    """One region without a caption, and the reason."""

    region_id: str
    reason: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    records = _select_records(options.regions, every=options.held_out_every, limit=options.limit)
    done = set() if options.overwrite else read_captioned_ids(options.out)
    todo = [record for record in records if record.region_id not in done]
    engine = open_engine(options.bundle, threads=options.threads)
    store = ImageStore(options.images)
    results = caption_records(
        engine, store, todo, style=options.style, image_only=options.image_only
    )
    if options.render is not None:
        # Imported here: it draws, and captioning alone needs nothing to draw with.
        from ureca.models.evaluation.reports.captioned_images import render_captions

        results = render_captions(results, todo, store, options.render)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w" if options.overwrite else "a", encoding="utf8") as out:
        failed = _write_captions(tqdm(results, total=len(todo), unit="region"), out)
    sys.stderr.write(
        f"{len(todo) - failed} captioned, {failed} failed, {len(done)} were there already\n"
    )
    return 1 if failed else 0


def caption_records(
    engine: Engine,
    store: ImageStore,
    records: Sequence[RegionRecord],
    *,
    style: StyleChoice = "auto",
    image_only: bool = False,
    edit: MaskEdit | None = None,
) -> Iterator[Captioned | FailedCaption]:
    """Caption the records image by image; yield one result per record.

    With `image_only` every region gets a full-frame mask, which has no information on the region:
    the control that shows how much the region contributes. `edit` changes the masks in another way
    (`mask_variants.make_mask_edit`).
    """
    shown = edit or make_mask_edit("image" if image_only else "true")
    for image_key, group in _group_by_picture(records).items():
        try:
            image = store.read(image_key)
            frame = engine.encode(image)
        except UrecaError as error:
            yield from (FailedCaption(record.region_id, str(error)) for record in group)
            continue
        made = [_make_request(record, image, engine, style, shown) for record in group]
        yield from (row for row in made if isinstance(row, FailedCaption))
        rows = [row for row in made if not isinstance(row, FailedCaption)]
        for start in range(0, len(rows), engine.info.max_regions):
            yield from _caption_batch(engine, frame, rows[start : start + engine.info.max_regions])


def caption_crops(
    engine: Engine, store: ImageStore, records: Sequence[RegionRecord], *, style: StyleChoice
) -> Iterator[Captioned | FailedCaption]:
    """Cut each region's box out and caption the whole crop, as a captioner of whole images does,
    without context. Yield one result per record.
    """
    for image_key, group in _group_by_picture(records).items():
        try:
            image = store.read(image_key)
        except UrecaError as error:
            yield from (FailedCaption(record.region_id, str(error)) for record in group)
            continue
        for record in group:
            row = _make_request(record, image, engine, style, make_mask_edit("box"))
            if isinstance(row, FailedCaption):
                yield row
                continue
            box = row[1].mask
            crop = image[np.ix_(box.any(axis=1), box.any(axis=0))]
            whole = replace(row[1], mask=np.ones(crop.shape[:2], np.bool_))
            yield from _caption_batch(engine, engine.encode(crop), [(row[0], whole)])


def choose_style(record: RegionRecord, choice: StyleChoice) -> Style:
    """Return the style. `auto` is long only if people wrote sentences and no phrase for the
    region.
    """
    if choice != "auto":
        return choice
    return "long" if record.long and not record.short else "short"


def read_captioned_ids(path: Path) -> set[str]:
    """Read the ids in an output file; remove a last line that a kill cut short.

    Raises `SourceError` for a file that is not such an output.
    """
    if not path.is_file():
        return set()
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    try:
        return {json.loads(line)["region_id"] for line in whole.splitlines()}
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not a file of captions ({error}): use --overwrite or another name"
        ) from error


def _caption_batch(
    engine: Engine, frame: object, rows: Sequence[Row]
) -> Iterator[Captioned | FailedCaption]:
    try:
        ends = [e for e in engine.caption(frame, [r for _, r in rows]) if isinstance(e, RowDone)]
    except UrecaError as error:
        yield from (FailedCaption(region_id, str(error)) for region_id, _ in rows)
        return
    for end in sorted(ends, key=lambda e: e.row):
        region_id = rows[end.row][0]
        if end.stop in ("eos", "length"):
            yield Captioned(region_id, end.text, end.score)
        else:
            yield FailedCaption(region_id, f"the caption ended with {end.stop!r}")


def _make_request(
    record: RegionRecord, image: Image, engine: Engine, style: StyleChoice, edit: MaskEdit
) -> Row | FailedCaption:
    try:
        mask = _refuse_empty(edit(_refuse_empty(_read_mask(record, image)), record.region_id))
    except RegionError as error:
        return FailedCaption(record.region_id, str(error))
    region = RegionInput(
        mask, style=choose_style(record, style), max_new_tokens=engine.info.max_new_tokens
    )
    return record.region_id, region


def _read_mask(record: RegionRecord, image: Image) -> Mask:
    mask = rle.decode(Rle((record.height, record.width), record.counts))
    if mask.shape != image.shape[:2]:
        raise RegionError(
            f"expected a mask of the image's size {list(image.shape[:2])}, got {list(mask.shape)}"
        )
    return mask


def _refuse_empty(mask: Mask) -> Mask:
    if not mask.any():  # one such row would fail the whole batch
        raise RegionError("the mask is empty: a region needs at least one pixel")
    return mask


def _group_by_picture(records: Iterable[RegionRecord]) -> dict[str, list[RegionRecord]]:
    groups: dict[str, list[RegionRecord]] = {}
    for record in records:
        groups.setdefault(record.image_key, []).append(record)
    return groups


def _select_records(path: Path, *, every: int | None, limit: int | None) -> list[RegionRecord]:
    records = [r for r in read_regions(path) if every is None or r.is_held_out(every)]
    if not records:
        raise SourceError(f"{path} has no regions to caption: check --held-out-every")
    return records[:limit]


def _write_captions(results: Iterable[Captioned | FailedCaption], out: TextIO) -> int:
    """Write captions as they come and failures to stderr; return the number of failures."""
    failed = 0
    for result in results:
        if isinstance(result, FailedCaption):
            failed += 1
            sys.stderr.write(f"{result.region_id}: {result.reason}\n")
            continue
        row = {
            "region_id": result.region_id,
            "caption": result.caption,
            "score": round(result.score, 5),
        }
        out.write(json.dumps(row) + "\n")
        out.flush()
    return failed


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca caption",
        description="Caption every region of a file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("regions", type=Path, help="regions-*.jsonl or .jsonl.gz")
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, help="folders or tars with the pictures"
    )
    parser.add_argument(
        "--bundle", type=Path, required=True, help="bundle of ureca export, or a checkpoint folder"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="captions, one JSON a line")
    parser.add_argument("--limit", type=_parse_positive, help="at most this many regions")
    parser.add_argument(
        "--held-out-every",
        type=_parse_positive,
        metavar="N",
        help="only pictures whose hash is held out of training (one in N)",
    )
    parser.add_argument("--style", choices=("auto", "short", "long"), default="auto")
    parser.add_argument(
        "--image-only",
        action="store_true",
        help="control: full-frame masks, no information on the region",
    )
    parser.add_argument(
        "--render", type=Path, metavar="DIR", help="write each picture with its captions as PNG"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite the output")
    parser.add_argument("--threads", type=_parse_positive, help="threads of ONNX Runtime")
    return parser


def _parse_positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
