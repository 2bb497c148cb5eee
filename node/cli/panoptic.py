"""`ureca panoptic`: every pixel of pictures to a captioned segment, without a node."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.datatypes import Image
from ureca.engine import Engine
from ureca.errors import ConfigError, SourceError
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.base import EverythingSegmenter
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_query_captioner,
    open_query_captioner,
)
from ureca.models.runtime.segmentation.panoptic import PanopticMap, find_segments
from ureca.models.runtime.segmentation.panoptic.caption_segments import (
    SegmentCaption,
    caption_segments,
    resize_mask,
)
from ureca.models.runtime.segmentation.panoptic.coco_format import (
    encode_segment_png,
    make_segment_rows,
    write_coco_json,
)
from ureca.models.runtime.segmentation.panoptic.find_parts import find_parts
from ureca.node.captioning.engine_loader import open_engine
from ureca.node.captioning.person_words import neutralise
from ureca.node.cli.panoptic_maps import write_maps
from ureca.node.cli.region_options import add_person_words
from ureca.node.decoding.picture_files import is_picture_name
from ureca.node.sources.video_readers import open_clip
from ureca.protocol.rle import MAX_PIXELS
from ureca.security.keys import add_key_options
from ureca.visualization.files import save_segments

_PROGRESS = "progress.jsonl"
_EPILOG = """examples:
  ureca panoptic photos -o segments
  ureca panoptic photos -o segments --parts
  ureca panoptic clip.mp4 -o segments --every 10 --render
  ureca panoptic photos -o segments --bundle runs/pix2cap/checkpoint
  ureca panoptic --coco maps --duration 60             (of `ureca run --panoptic`, live)
  ureca panoptic --coco maps --recording run.mcap

Writes OUT/panoptic.json and OUT/panoptic/NAME.png in COCO's panoptic format, with the caption of
every segment as its `description`. A run that was stopped goes on where it was: start it again.
With --coco, a region has one id in all maps."""
Json = dict[str, Any]  # JSON values


def main(
    argv: Sequence[str] | None = None,
    *,
    engine_of: Callable[[str], Engine] = open_engine,
    segmenter_of: Callable[[Path], EverythingSegmenter] = open_mask_head,
) -> int:
    """The command; returns 1 when a picture could not be read. Raises deliberate errors."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.coco:
        return write_maps(options)
    if not options.source or not options.out:
        parser.error("expected FOLDER|VIDEO -o OUT, or --coco DIR for a node that runs")
    return _segment_source(options, engine_of, segmenter_of)


def _segment_source(
    options: argparse.Namespace,
    engine_of: Callable[[str], Engine],
    segmenter_of: Callable[[Path], EverythingSegmenter],
) -> int:
    """Pictures or a clip, one after another."""
    out = Path(options.out)
    (out / "panoptic").mkdir(parents=True, exist_ok=True)
    setting = {"bundle": options.bundle or "", "style": options.style}
    setting |= {"segmenter": options.segmenter} if options.segmenter else {}
    setting |= {"parts": True} if options.parts else {}
    rows = _read_progress(out / _PROGRESS, setting)
    known = {row["image"]["file_name"] for row in rows}
    bundle = Path(options.bundle) if options.bundle else require_bundle()
    tools: tuple[EverythingSegmenter, Engine] | None = None
    failed = 0
    _write_rows(out / _PROGRESS, [setting, *rows])
    with (out / _PROGRESS).open("a", encoding="utf8") as progress:
        for name, image in _read_pictures(Path(options.source), options.every, known):
            if isinstance(image, SourceError):
                sys.stderr.write(f"{name}: {image}\n")
                failed += 1
                continue
            tools = tools or _open_tools(bundle, options, segmenter_of, engine_of)
            row = _segment(name, image, *tools, options=options)
            row |= {"number": len(rows) + 1}
            progress.write(json.dumps(row) + "\n")
            progress.flush()
            rows.append(row)
            said = sum(bool(one["description"]) for one in row["segments"])
            count = len(row["segments"])
            sys.stderr.write(f"{len(rows)}: {name}: {count} segments, {said} captioned\n")
    if tools is not None and callable(tell := getattr(tools[0], "tell_savings", None)):
        sys.stderr.write(f"{tell()}\n")
    write_coco_json(out / "panoptic.json", *_arrange(rows, "segments"))
    if options.parts:
        write_coco_json(out / "parts.json", *_arrange(rows, "parts"))
    sys.stdout.write(f"{out / 'panoptic.json'}: {len(rows)} pictures, {failed} unreadable\n")
    return int(failed > 0)


def _open_tools(
    bundle: Path,
    options: argparse.Namespace,
    segmenter_of: Callable[[Path], EverythingSegmenter],
    engine_of: Callable[[str], Engine],
) -> tuple[EverythingSegmenter, Engine]:
    """What cuts segments, and what says them; of a query captioner both are one."""
    masks = Path(options.segmenter) if options.segmenter else bundle
    if not is_query_captioner(masks):
        return segmenter_of(masks), engine_of(options.bundle or "")
    captioner = open_query_captioner(masks)
    return captioner, captioner if masks == bundle else engine_of(options.bundle or "")


def _read_pictures(
    source: Path, every: int, known: set[str]
) -> Iterator[tuple[str, Image | SourceError]]:
    """Names and pictures that are not done yet: of a folder its files, of a clip its frames."""
    if source.is_dir():
        names = sorted(
            str(path.relative_to(source))
            for path in source.rglob("*")
            if path.is_file() and is_picture_name(str(path.relative_to(source)))
        )
        if not names:
            raise ConfigError(f"{source} has no pictures: expected JPEG, PNG, WebP or BMP files")
        for name in names[::every]:
            if name not in known:
                yield name, _read_picture(source / name)
        return
    if not source.exists():
        raise ConfigError(f"no {source}: expected a folder of pictures, or a video")
    clip = open_clip(source, fps=0.0, max_px=MAX_PIXELS)
    for number, (_, image) in enumerate(clip.shots()):
        name = f"{source.stem}-{number:06d}.png"
        if number % every == 0 and name not in known:
            yield name, image


def _read_picture(path: Path) -> Image | SourceError:
    from ureca.node.cli.describe import read_picture

    try:
        return read_picture(path)
    except SourceError as error:
        return error


def _segment(
    name: str,
    image: Image,
    segmenter: EverythingSegmenter,
    engine: Engine,
    *,
    options: argparse.Namespace,
) -> Json:
    """Segment and caption one picture, and write its map."""
    encoded = segmenter.encode(image)
    found = find_segments(segmenter, encoded, image.shape[:2])
    captions = _caption(engine, image, found, options)
    png = f"{Path(name).with_suffix('').as_posix().replace('/', '__')}.png"
    path = Path(options.out) / "panoptic" / png
    path.write_bytes(encode_segment_png(found.ids))
    if options.render:
        masks = [resize_mask(found.mask(one.number), image.shape) for one in found.segments]
        texts = [captions[one.number].text for one in found.segments]
        folder = Path(options.out) / "pictures"
        folder.mkdir(exist_ok=True)
        stuff = [one.kind == "stuff" for one in found.segments]
        save_segments(folder / png, image, masks, texts, stuff)
    height, width = found.ids.shape
    row = {
        "image": {"file_name": name, "width": width, "height": height},
        "png": png,
        "coverage": round(found.coverage, 4),
        "segments": make_segment_rows(found, captions),
    }
    if options.parts:
        parts = find_parts(segmenter, encoded, found)
        (Path(options.out) / "parts").mkdir(exist_ok=True)
        (Path(options.out) / "parts" / png).write_bytes(encode_segment_png(parts.found.ids))
        rows = make_segment_rows(parts.found, _caption(engine, image, parts.found, options))
        row["parts"] = [one | {"parent": parts.parents[one["id"]]} for one in rows]
    return row


def _caption(
    engine: Engine, image: Image, found: PanopticMap, options: argparse.Namespace
) -> dict[int, SegmentCaption]:
    captions = caption_segments(engine, image, found, style=options.style)
    if options.person_words == "full":
        return captions
    return {n: replace(one, text=neutralise(one.text)) for n, one in captions.items()}


def _read_progress(path: Path, setting: Json) -> list[Json]:
    """What an earlier run of the same setting has done; a line that was cut is done again."""
    if not path.is_file():
        return []
    lines = path.read_text("utf8").splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # noqa: PERF203  (the last line of a run that was killed)
            continue
    if rows and rows[0] != setting:
        raise ConfigError(
            f"{path} is of a run with {rows[0]}, this one has {setting}: give another folder"
        )
    return [row for row in rows[1:] if "segments" in row]


def _write_rows(path: Path, rows: Sequence[Json]) -> None:
    """Write what is known again, without a line that was cut."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    draft.replace(path)


def _arrange(rows: Sequence[Json], level: str) -> tuple[list[Json], list[Json]]:
    """Images and annotations of COCO's file, of `segments` or their `parts`."""
    images = [{"id": row["number"], **row["image"]} for row in rows]
    annotations = [
        {"image_id": row["number"], "file_name": row["png"], "segments_info": row[level]}
        for row in rows
    ]
    return images, annotations


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca panoptic",
        description="Give every pixel of pictures to a segment, and every segment a caption.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", metavar="FOLDER|VIDEO", help="pictures, or a clip")
    parser.add_argument("-o", "--out", metavar="OUT", help="folder of the results")
    parser.add_argument("--every", type=_positive, default=1, help="only every n-th picture [1]")
    parser.add_argument("--style", choices=("short", "long"), default="short", help="[short]")
    parser.add_argument(
        "--bundle",
        metavar="DIR",
        help="captioner and mask head, or a checkpoint of `ureca mllm pix2cap` [shipped]",
    )
    parser.add_argument(
        "--segmenter", metavar="DIR", help="masks of another bundle or `pix2cap` checkpoint"
    )
    parser.add_argument("--parts", action="store_true", help="also parts of things: OUT/parts.json")
    parser.add_argument("--render", action="store_true", help="also draw them: OUT/pictures")
    add_person_words(parser)
    _add_live_options(parser)
    return parser


def _add_live_options(parser: argparse.ArgumentParser) -> None:
    live = parser.add_argument_group("maps of a node that runs, or of a recording of it")
    live.add_argument("--coco", metavar="DIR", help="write them here; ids are those of regions")
    live.add_argument("--recording", metavar="MCAP", help="of `ureca run --panoptic --record`")
    live.add_argument("--stream", help="only this stream [that of the first map]")
    live.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    live.add_argument("--events", default=EVENTS_ADDRESS, help="[%(default)s]")
    live.add_argument("--requests", default=REQUESTS_ADDRESS, help="[%(default)s]")
    add_key_options(parser)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return value
