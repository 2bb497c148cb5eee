"""gRefCOCO (arXiv 2306.00968): `grefs(unc).json` and the `instances.json` beside it.

An expression there means one object, several, or nothing in its picture (`ann_id` is a list, [-1]
for nothing). All objects of a picture become regions, so that there is something to choose from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ureca.models.data.readers import coco
from ureca.models.data.readers.core import (
    ImportJob,
    SourcePicture,
    SourceQuery,
    SourceRegion,
    make_picture_key,
)
from ureca.models.data.readers.refcoco import Sentence, sort_files

_NOTHING = -1


class GeneralRef(msgspec.Struct):
    """What people said, and the objects that they meant."""

    ann_id: int | list[int]
    image_id: int
    sentences: list[Sentence]
    split: str = ""

    @property
    def objects(self) -> list[int]:
        """The ids of the annotations; none where nothing is meant."""
        ids = self.ann_id if isinstance(self.ann_id, list) else [self.ann_id]
        return [number for number in ids if number != _NOTHING]


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with all of their objects, and the expressions about them. Raises `SourceError`
    unless one file has refs and one has instances.
    """
    refs, instances = sort_files(paths)
    images = {image.id: image for image in job.parse_rows(instances.images, coco.CocoImage)}
    names = {category.id: category.name for category in instances.categories}
    licenses = {entry.id: coco.shorten_license(entry) for entry in instances.licenses}
    rows: dict[int, list[coco.CocoAnnotation]] = {}
    for row in job.parse_rows(instances.annotations, coco.CocoAnnotation):
        rows.setdefault(row.image_id, []).append(row)
    groups: dict[tuple[int, str], list[GeneralRef]] = {}
    for ref in job.parse_rows(refs.refs, GeneralRef):
        if ref.image_id in images:
            groups.setdefault((ref.image_id, ref.split), []).append(ref)
        else:
            job.reject("no such picture")
    for (image_id, split), group in groups.items():
        image = images[image_id]
        yield SourcePicture(
            key=make_picture_key(job.name, image.file_name),
            file=image.file_name,
            size=(image.width, image.height),
            split=split,
            license=licenses.get(image.license or 0, ""),
            photo_id=coco.parse_photo_id(image.flickr_url),
            regions=tuple(_regions(group, rows.get(image_id, ()), names)),
            queries=tuple(
                SourceQuery(sentence.sent or sentence.raw, tuple(map(str, ref.objects)))
                for ref in group
                for sentence in ref.sentences
            ),
        )


def _regions(
    group: Sequence[GeneralRef], rows: Sequence[coco.CocoAnnotation], names: dict[int, str]
) -> Iterator[SourceRegion]:
    """All objects; what people said of one of them alone are its words. Crowds only where meant."""
    texts: dict[int, list[str]] = {}
    meant = {number for ref in group for number in ref.objects}
    for ref in group:
        if len(ref.objects) == 1:
            said = [sentence.sent or sentence.raw for sentence in ref.sentences]
            texts.setdefault(ref.objects[0], []).extend(said)
    for row in rows:
        if not row.iscrowd or row.id in meant:
            category = names.get(row.category_id or 0, "")
            said = texts.get(row.id, [])
            yield coco.make_region(row, region_id=str(row.id), texts=said, category=category)
