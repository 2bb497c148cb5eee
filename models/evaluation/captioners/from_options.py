"""Makes the captioner of an evaluation: an engine, a baseline, or a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ureca.datatypes import Style
from ureca.engine import Engine
from ureca.errors import SourceError
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.caption import Captioned, FailedCaption, caption_crops, caption_records
from ureca.models.evaluation.captioners.baselines import Captioner, make_baseline
from ureca.models.evaluation.captioners.mask_variants import make_mask_edit
from ureca.models.evaluation.options import Options
from ureca.models.evaluation.test_set import EvaluationCase, TestSet


def make_captioner(data: TestSet, options: Options, engine: Engine | None) -> Captioner:
    """Make the captioner that the options select. Raises `UrecaError`s of images, packages and
    files.
    """
    if options.captions is not None:
        return read_captioner(options.captions)
    store, edit = (
        ImageStore([data.root / "images"]),
        make_mask_edit(options.masks, seed=options.seed),
    )
    if options.baseline is not None:
        return make_baseline(options.baseline, data, store, edit, pictures=options.train_pictures)
    assert engine is not None

    def caption(
        cases: Sequence[EvaluationCase], style: Style
    ) -> Iterator[Captioned | FailedCaption]:
        records = [case.record for case in cases]
        if options.masks == "crop":
            return caption_crops(engine, store, records, style=style)
        return caption_records(engine, store, records, style=style, edit=edit)

    return caption


def read_captioner(path: Path) -> Captioner:
    """Return captions from a file. Regions that the file lacks are left out."""
    said = read_captions(path)

    def caption(cases: Sequence[EvaluationCase], _: Style) -> Iterator[Captioned | FailedCaption]:
        for case in cases:
            if case.region_id in said:
                yield said[case.region_id]

    return caption


def read_captions(path: Path) -> dict[str, Captioned]:
    """Read lines with `region_id` and `caption`; the last line of a region counts.

    Raises `SourceError` with the line that is invalid.
    """
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except OSError as error:
        raise SourceError(f"cannot read captions from {path}: {error}") from error
    said = (_parse_caption(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1))
    return {one.region_id: one for one in said}


def _parse_caption(line: str, *, where: str) -> Captioned:
    try:
        row = json.loads(line)
        return Captioned(str(row["region_id"]), str(row["caption"] or ""), row.get("score", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{where}: expected region_id and caption ({error!r})") from error
