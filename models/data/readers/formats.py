"""The formats that `ureca data import` knows: one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ureca.models.data.readers import (
    coco,
    compositioncap,
    core,
    flickr30k,
    grefcoco,
    pix2cap,
    refcoco,
    refcocom,
    sa1b,
    visual_genome,
    webdataset,
)
from ureca.models.data.shards import ShardSample

Samples = Callable[[Sequence[Path], core.ImportJob], Iterator[ShardSample]]


@dataclass(frozen=True, slots=True)
class Format:
    """What is read, from which files, and under which terms where they name none."""

    files: str
    license: str
    samples: Samples
    brings_pictures: bool = False
    """The pictures lie among its files: no --pictures."""


def _make_format(
    read: Callable[[Sequence[Path], core.ImportJob], Iterator[core.SourcePicture]],
) -> Samples:
    return lambda paths, job: core.make_samples(read(paths, job), job)


FORMATS: dict[str, Format] = {
    "ureca": Format(
        "URECA's .jsonl and SA-1B's folder of sa_*.json and sa_*.jpg",
        "SA-1B dataset research licence; URECA's captions carry none",
        _make_format(sa1b.read),
        brings_pictures=True,
    ),
    "refcoco": Format(
        "refs(...).json and instances.json",
        "COCO: a licence per picture",
        _make_format(refcoco.read),
    ),
    "grefcoco": Format(
        "grefs(unc).json and instances.json",
        "COCO: a licence per picture",
        _make_format(grefcoco.read),
    ),
    "refcocom": Format(
        "val.json, testA.json, ... as CRIS prepares them, and the folder of masks",
        "COCO: a licence per picture",
        _make_format(refcocom.read),
    ),
    "coco": Format(
        "instances_*.json, captions_*.json, MDETR's and GRiT's files",
        "COCO: a licence per picture",
        _make_format(coco.read),
    ),
    "flickr30k": Format(
        "the folder with Annotations and Sentences (and train|val|test.txt)",
        "Flickr terms; research and education use only",
        _make_format(flickr30k.read),
    ),
    "vg": Format(
        "region_descriptions.json, image_data.json (and densecap_splits.json)",
        "Visual Genome annotations CC BY 4.0; photographs under Flickr terms",
        _make_format(visual_genome.read),
    ),
    "pix2cap": Format(
        "pix2cap_coco_*.json and the folder of panoptic PNGs",
        "COCO: a licence per picture",
        _make_format(pix2cap.read),
    ),
    "compositioncap": Format(
        "a list of masked entities (docs/finecaption.md) and filename2oiid.json",
        "Open Images: CC BY 2.0 photographs; the captions carry none",
        _make_format(compositioncap.read),
    ),
    "webdataset": Format(
        "*.tar shards of `ureca data shards`, or folders of them",
        "",
        webdataset.read_webdataset,
        brings_pictures=True,
    ),
}
