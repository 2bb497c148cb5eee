"""COCO's panoptic format: a JSON of segments, and a PNG of ids for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ureca.errors import ConfigError, RegionError, SourceError
from ureca.models.data.readers.coco import Category, CocoImage
from ureca.models.data.readers.core import ImportJob, Rejected, join_inside, load_json
from ureca.models.data.readers.pix2cap import Pix2CapAnnotation, Pix2CapFile, read_segment_ids
from ureca.models.evaluation.panoptic.cases import I64, PanopticCase, TrueSegment
from ureca.models.evaluation.panoptic.matching import PredictedSegment, Prediction

_LEAST_CHARS = 3
"""The authors of Pix2Cap take shorter descriptions for missing ones."""


class CocoSegment(msgspec.Struct, omit_defaults=True):
    """One row of `segments_info`; of a prediction the words may be under `caption`."""

    id: int
    category_id: int = 0
    iscrowd: int = 0
    description: str = ""
    caption: str = ""
    score: float = 1.0
    isthing: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CocoPicture:
    """One picture of a file: its stem, its file, its ids, and its segments with their classes; of a
    frame also its video and its number, which is its place in the file where nothing is said.
    """

    key: str
    file_name: str
    ids: I64
    rows: tuple[tuple[CocoSegment, Category | None], ...]
    video: str = "0"
    frame: int = 0


def read_coco_panoptic(path: Path) -> Iterator[CocoPicture]:
    """The pictures of a panoptic JSON; PNGs are in the folder beside it of the same name, or where
    the JSON is. Raises `SourceError` for a file that cannot be read.
    """
    file = load_json(path, Pix2CapFile)
    job = ImportJob(name=path.stem)
    names = {category.id: category for category in file.categories}
    images = {image.id: image for image in job.parse_rows(file.images, CocoImage)}
    folders = [folder for folder in (path.with_suffix(""), path.parent) if folder.is_dir()]
    for number, row in enumerate(job.parse_rows(file.annotations, Pix2CapAnnotation)):
        image = images.get(row.image_id)
        name = image.file_name if image else f"{Path(row.file_name).stem}.jpg"
        segments = tuple(
            (one, names.get(one.category_id))
            for one in job.parse_rows(row.segments_info, CocoSegment)
        )
        yield CocoPicture(
            key=Path(name).stem,
            file_name=name,
            ids=_read_ids(folders, row.file_name),
            rows=segments,
            video=str(image.video_id) if image else "0",
            frame=number if image is None or image.frame_id is None else image.frame_id,
        )


def _read_ids(folders: Sequence[Path], name: str) -> I64:
    try:
        paths = [path for folder in folders if (path := join_inside(folder, name)).is_file()]
        if paths:
            return np.asarray(read_segment_ids(paths[0]), np.int64)
    except (Rejected, RegionError) as error:
        raise SourceError(f"{name}: {error}") from error
    where = " or ".join(map(str, folders))
    raise SourceError(f"no {name} in {where}: expected the panoptic PNG of each picture")


def make_true_case(picture: CocoPicture) -> PanopticCase:
    """What the file says of one picture, as the truth."""
    segments = tuple(
        TrueSegment(
            number=one.id,
            category=category.name if category else "",
            references=tuple(
                text for text in (one.description,) if len(text.strip()) >= _LEAST_CHARS
            ),
            stuff=category is not None and not category.isthing,
            crowd=bool(one.iscrowd),
        )
        for one, category in picture.rows
    )
    return PanopticCase(picture.key, picture.ids, segments, "coco-panoptic")


def make_prediction(picture: CocoPicture) -> Prediction:
    """What the file says of one picture, as a system's prediction."""
    segments = tuple(
        PredictedSegment(
            number=one.id,
            caption=one.caption or one.description,
            reason=one.reason,
            score=one.score,
            category=category.name if category else "",
            stuff=_is_stuff(one, category),
        )
        for one, category in picture.rows
    )
    return Prediction(picture.ids, segments)


def _is_stuff(segment: CocoSegment, category: Category | None) -> bool:
    if segment.isthing is not None:
        return not segment.isthing
    return category is not None and not category.isthing


def read_predictions(path: Path, cases: Sequence[PanopticCase]) -> dict[str, Prediction]:
    """Predictions by picture. Raises `ConfigError` when they are about none of the pictures, or a
    map has another size than its picture's.
    """
    found = {one.key: make_prediction(one) for one in read_coco_panoptic(path)}
    if not any(case.image_key in found for case in cases):
        raise ConfigError(
            f"{path} has no prediction for any picture of the data; its pictures are named "
            f"{', '.join(list(found)[:3])}"
        )
    for case in cases:
        prediction = found.get(case.image_key)
        if prediction is not None and prediction.ids.shape != case.ids.shape:
            raise ConfigError(
                f"{path}: the map of {case.image_key} has {list(prediction.ids.shape)}, its "
                f"picture {list(case.ids.shape)}"
            )
    return found
