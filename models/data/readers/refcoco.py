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
    SourceQuery,
    SourceRegion,
    is_list,
    load_json,
    make_picture_key,
    parse_json,
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
    refs, instances = sort_files(paths)
    images = {image.id: image for image in job.parse_rows(instances.images, coco.CocoImage)}
    rows = {row.id: row for row in job.parse_rows(instances.annotations, coco.CocoAnnotation)}
    names = {category.id: category.name for category in instances.categories}
    licenses = {entry.id: coco.shorten_license(entry) for entry in instances.licenses}
    groups: dict[tuple[int, str], list[Ref]] = {}
    for ref in job.parse_rows(refs.refs, Ref):
        if ref.image_id not in images or ref.ann_id not in rows:
            job.reject("no such region")
            continue
        groups.setdefault((ref.image_id, ref.split), []).append(ref)
    for (image_id, split), group in groups.items():
        image = images[image_id]
        yield SourcePicture(
            key=make_picture_key(job.name, image.file_name),
            file=image.file_name,
            size=(image.width, image.height),
            split=split,
            license=licenses.get(image.license or 0, ""),
            photo_id=coco.parse_photo_id(image.flickr_url),
            regions=tuple(_make_regions(group, rows, names)),
            queries=tuple(
                SourceQuery(sentence.sent or sentence.raw, (str(ref.ann_id),))
                for ref in group
                for sentence in ref.sentences
            ),
        )


def _make_regions(
    group: Sequence[Ref], rows: dict[int, coco.CocoAnnotation], names: dict[int, str]
) -> Iterator[SourceRegion]:
    texts: dict[int, list[str]] = {}
    for ref in group:
        texts.setdefault(ref.ann_id, []).extend(s.sent or s.raw for s in ref.sentences)
    for number, said in texts.items():
        row = rows[number]
        category = names.get(row.category_id or 0, "")
        yield coco.make_region(row, region_id=str(number), texts=said, category=category)


def sort_files(paths: Sequence[Path]) -> tuple[Refs, coco.CocoFile]:
    """The list of refs and the instances. Raises `SourceError` unless there is one of each."""
    refs: Refs | None = None
    instances: coco.CocoFile | None = None
    for path in paths:
        content = load_json(path, msgspec.Raw)
        if is_list(content):
            refs = Refs(parse_json(path, content, list[msgspec.Raw]))
        elif "refs" in parse_json(path, content, dict[str, msgspec.Raw]):
            refs = parse_json(path, content, Refs)
        else:
            instances = parse_json(path, content, coco.CocoFile)
    if refs is None or instances is None:
        raise SourceError(
            f"expected a list of refs and instances.json, got {', '.join(map(str, paths))}; "
            "files of MDETR's form are read with: ureca data import coco"
        )
    return refs, instances
