"""RefCOCO, RefCOCO+ and RefCOCOg: `refs(...)` as JSON and the `instances.json` beside it.

The published refs are a pickle, which is never read; the same list dumped as JSON is. Other
published JSON (MDETR's `finetune_refcoco*.json`) goes through the format `coco`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ureca.errors import SourceError
from ureca.models.data.readers import coco
from ureca.models.data.readers.core import (
    ImportJob,
    SourcePicture,
    SourceRegion,
    is_list,
    load,
    parsed,
    picture_key,
)


class Sentence(msgspec.Struct):
    """One expression; `sent` is cut and lower-case, `raw` as it was typed."""

    sent: str = ""
    raw: str = ""


class Ref(msgspec.Struct):
    """What people said of one object in one picture."""

    ann_id: int
    image_id: int
    sentences: list[Sentence]
    split: str = ""


class Refs(msgspec.Struct):
    """A file that wraps the list."""

    refs: list[msgspec.Raw]


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with the objects that people referred to. Raises `SourceError` unless one file has
    refs and one has instances.
    """
    refs, instances = _told_apart(paths)
    images = {image.id: image for image in job.each(instances.images, coco.CocoImage)}
    rows = {row.id: row for row in job.each(instances.annotations, coco.CocoAnnotation)}
    names = {category.id: category.name for category in instances.categories}
    licenses = {entry.id: coco.license_name(entry) for entry in instances.licenses}
    groups: dict[tuple[int, str], list[Ref]] = {}
    for ref in job.each(refs.refs, Ref):
        if ref.image_id not in images or ref.ann_id not in rows:
            job.reject("no such region")
            continue
        groups.setdefault((ref.image_id, ref.split), []).append(ref)
    for (image_id, split), group in groups.items():
        image = images[image_id]
        yield SourcePicture(
            key=picture_key(job.name, image.file_name),
            file=image.file_name,
            size=(image.width, image.height),
            split=split,
            license=licenses.get(image.license or 0, ""),
            photo_id=coco.photo_id(image.flickr_url),
            regions=tuple(_regions(group, rows, names)),
        )


def _regions(
    group: Sequence[Ref], rows: dict[int, coco.CocoAnnotation], names: dict[int, str]
) -> Iterator[SourceRegion]:
    texts: dict[int, list[str]] = {}
    for ref in group:
        texts.setdefault(ref.ann_id, []).extend(s.sent or s.raw for s in ref.sentences)
    for number, said in texts.items():
        row = rows[number]
        category = names.get(row.category_id or 0, "")
        yield coco.region(row, region_id=str(number), texts=said, category=category)


def _told_apart(paths: Sequence[Path]) -> tuple[Refs, coco.CocoFile]:
    refs: Refs | None = None
    instances: coco.CocoFile | None = None
    for path in paths:
        content = load(path, msgspec.Raw)
        if is_list(content):
            refs = Refs(parsed(path, content, list[msgspec.Raw]))
        elif "refs" in parsed(path, content, dict[str, msgspec.Raw]):
            refs = parsed(path, content, Refs)
        else:
            instances = parsed(path, content, coco.CocoFile)
    if refs is None or instances is None:
        raise SourceError(
            f"expected a list of refs and instances.json, got {', '.join(map(str, paths))}; "
            "files of MDETR's form are read with: ureca data import coco"
        )
    return refs, instances
