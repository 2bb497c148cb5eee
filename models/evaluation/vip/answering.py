"""Who answers ViP-Bench's questions: a file, a server that sees the marked picture, or a region
captioner that says what the marked regions are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
from tqdm import tqdm

from ureca.datatypes import Mask, RegionInput, RowDone
from ureca.engine import Engine
from ureca.errors import ConfigError, SourceError
from ureca.models.curation.errors import AnnotatorError, BudgetError
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion
from ureca.models.data.readers.core import Rejected, join_inside, load_json
from ureca.models.data.regions import ImageStore
from ureca.models.evaluation.vip.questions import Split, VipQuestion

_OBJECT = re.compile(r"<(obj\d*)>")
_LEAST_CORNERS = {"rectangle": 2, "polygon": 3}


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _Outlines(msgspec.Struct):
    shapes: list[_Shape]


def ask_server(
    annotator: Annotator, bench: Path, split: Split, questions: Sequence[VipQuestion], threads: int
) -> Iterator[tuple[str, str]]:
    """Answers by key of a model that sees the split's picture, with its marks, and the text."""
    images = ImageStore([bench / split / "images"])

    def answer(one: VipQuestion) -> str | None:
        image = images.read(Path(one.image).stem)
        question = AnnotatorQuestion(
            kind="long",
            region_id=one.key,
            image=image,
            mask=np.ones(image.shape[:2], np.bool_),
            views=(image,),
            prompt=one.text,
        )
        try:
            return annotator.answer(question).text
        except (AnnotatorError, BudgetError) as error:
            sys.stderr.write(f"{one.key}: no answer: {error}\n")
            return None

    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(questions, desc="answers", unit="question", disable=None)
        for one, said in zip(bar, pool.map(answer, questions), strict=True):
            if said is not None:
                yield one.key, said


def caption_objects(
    engine: Engine, bench: Path, questions: Sequence[VipQuestion]
) -> Iterator[tuple[str, str]]:
    """Long captions of the regions that a question is about, as its answer: a captioner reads no
    question. Questions without readable outlines are reported and have none.
    """
    images = ImageStore([bench / "source_image"])
    for one in tqdm(questions, desc="captions", unit="question", disable=None):
        try:
            image = images.read(Path(one.source).stem)
            masks = read_objects(bench, one, (image.shape[0], image.shape[1]))
        except SourceError as error:
            sys.stderr.write(f"{one.key}: no answer: {error}\n")
            continue
        limit = engine.info.max_new_tokens
        regions = [RegionInput(mask, "long", limit) for mask in masks.values()]
        events = engine.caption(engine.encode(image), regions)
        said = {event.row: event.text for event in events if isinstance(event, RowDone)}
        texts = [said.get(row, "") for row in range(len(regions))]
        several = len(texts) > 1
        yield (
            one.key,
            " ".join(
                f"Object {n}: {text}." if several else text for n, text in enumerate(texts, 1)
            ),
        )


def read_objects(bench: Path, question: VipQuestion, size: tuple[int, int]) -> dict[str, Mask]:
    """Masks bool [H, W] of `size` of the objects in a question's text, in their order. Raises
    `SourceError` for outlines that are missing or cannot be read.
    """
    names = list(dict.fromkeys(_OBJECT.findall(question.about)))
    if not names:
        raise SourceError(f"its text names no <obj>: {question.about!r:.80}")
    try:
        path = join_inside(bench / "source_image", f"{Path(question.source).stem}.json")
    except Rejected as error:
        raise SourceError(f"{question.source}: {error}") from error
    shapes = {one.label: one for one in reversed(load_json(path, _Outlines).shapes)}
    missing = [name for name in names if name not in shapes]
    if missing:
        raise SourceError(f"{path} has no outline of {', '.join(missing)}")
    return {name: _draw(shapes[name], size, path) for name in names}


def _draw(shape: _Shape, size: tuple[int, int], path: Path) -> Mask:
    least = _LEAST_CORNERS.get(shape.shape_type)
    if least is None or len(shape.points) < least:
        raise SourceError(
            f"{path}: {shape.label} is a {shape.shape_type} of {len(shape.points)} points; "
            "expected a rectangle or a polygon"
        )
    points = np.clip(np.array(shape.points), -1, 1 << 15).round().astype(np.int32)
    canvas = np.zeros(size, np.uint8)
    if shape.shape_type == "rectangle":
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1, y1), 1, cv2.FILLED)
    else:
        cv2.fillPoly(canvas, [points], 1)
    if not canvas.any():
        raise SourceError(f"{path}: {shape.label} lies outside of the picture")
    return canvas > 0


def read_answers(path: Path, questions: Sequence[VipQuestion]) -> dict[str, str]:
    """Answers by key from a JSON object, as the benchmark's own results are. Raises `ConfigError`
    when none is of a question.
    """
    found = load_json(path, dict[str, str])
    known = {one.key: found[one.key] for one in questions if one.key in found}
    if not known:
        raise ConfigError(f"{path} has no answer to any question; its keys are {list(found)[:3]}")
    return known
