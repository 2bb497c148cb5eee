"""`ureca describe`: caption regions of one image, without a node."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from msgspec import to_builtins

from ureca.attributes import ATTRIBUTES, check_attributes, complete_answers, compose_dense
from ureca.datatypes import AskedStyle, Image, Mask, RegionInput, RowDone, Style
from ureca.engine import Engine, is_remote, supports_attributes
from ureca.errors import BundleError, ConfigError, EngineError, SourceError
from ureca.node.captioning.engine_loader import NO_ATTRIBUTES, open_engine
from ureca.node.captioning.output_filter import find_rejection
from ureca.node.captioning.person_words import neutralise, neutralise_answers
from ureca.node.cli.describe_texts import find_texts
from ureca.node.cli.region_options import (
    BUNDLE_HELP,
    add_person_words,
    add_region_options,
    named_seeds,
)
from ureca.node.config import CaptionConfig
from ureca.node.decoding.bounded_files import read_file
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.visualization.files import check_name, save


def main(
    argv: Sequence[str] | None = None, *, engine_of: Callable[[str], Engine] = open_engine
) -> int:
    """Print one line per region; returns 1 when a caption failed. Raises deliberate errors."""
    options = _parser().parse_args(argv)
    if options.text:
        return find_texts(options, read_picture(Path(options.image)), engine_of=engine_of)
    if not options.region:
        raise ConfigError(
            "no region: give --mask FILE.png, --box x0,y0,x1,y1 or --point x,y, or --text TEXT"
        )
    if options.render:
        check_name(Path(options.render))
    image = read_picture(Path(options.image))
    named = named_seeds(options.region)
    masks = [seed_mask(seed, image) for _, seed in named]
    engine = engine_of(options.bundle or "")
    caption = CaptionConfig(person_words=options.person_words or CaptionConfig().person_words)
    regions = _list_inputs(options, masks, engine)
    try:
        ends = _caption(engine, image, regions)
    finally:
        if is_remote(engine):
            print(f"server: {engine.summarise()}", file=sys.stderr)
    ends = [_complete(done, options, caption) for done in ends]
    if options.render:
        save(Path(options.render), image, masks, [_words(done) for done in ends])
    failed = False
    for (name, _), done in zip(named, ends, strict=True):
        found = find_rejection(done, CaptionConfig())
        problem = None if found is None else found.words
        failed = failed or problem is not None
        _show(name, done, problem, as_json=options.json)
    return int(failed)


def _list_inputs(
    options: argparse.Namespace, masks: Sequence[Mask], engine: Engine
) -> list[RegionInput]:
    """The rows of the batch. Raises `BundleError` where attributes are asked and there are none."""
    is_dense, asked = options.style == "dense", options.attributes
    if (is_dense or asked) and not supports_attributes(engine):
        raise BundleError(NO_ATTRIBUTES.format(bundle=options.bundle or engine.info.model))
    if is_dense and supports_attributes(engine):
        asked = tuple(dict.fromkeys((*asked, *engine.attributes)))
    limit = min(CaptionConfig().max_new_tokens, engine.info.max_new_tokens)
    style: Style = "long" if options.style == "long" else "short"
    return [RegionInput(mask, style, limit, attributes=asked) for mask in masks]


def _complete(done: RowDone, options: argparse.Namespace, caption: CaptionConfig) -> RowDone:
    """The caption as it is told: with clauses if it is dense, without words that are off."""
    off = caption.attributes_off
    text = done.text
    if options.style == "dense":
        text = compose_dense(text, [one for one in done.attributes if one.name not in off])
    answers = done.attributes
    if caption.person_words == "neutral":
        text, answers = neutralise(text), neutralise_answers(answers)
    answers = complete_answers(options.attributes, answers, off=off)
    return replace(done, text=text, attributes=answers)


def _attribute_names(text: str) -> tuple[str, ...]:
    try:
        return check_attributes(name.strip() for name in text.split(",") if name.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca describe",
        description="Caption one or several regions of one image, or find texts among them.",
        epilog="example: ureca describe photo.jpg --box 40,30,200,180 --point 320,200 "
        "--render out.png; ureca describe photo.jpg --text 'the red mug'; ureca "
        "describe photo.jpg --box 40,30,200,180 --bundle server.yaml; "
        "ureca describe photo.jpg --box 40,30,200,180 --attributes colour,material",
    )
    parser.add_argument("image", metavar="IMAGE", help="JPEG, PNG, WebP or BMP")
    add_region_options(parser, of="")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="TEXT",
        help="say which regions this is true of; without regions, of all that the segmenter cuts "
        "out; repeatable",
    )
    parser.add_argument(
        "--segmenter",
        choices=("nano", "sam2-hiera-tiny", "scripted"),
        help="cut regions out of the whole image for --text: the mask head of the bundle (nano) "
        "[if no regions are given], or SAM 2 (ureca weights get sam2-hiera-tiny)",
    )
    parser.add_argument(
        "--style",
        choices=get_args(AskedStyle),
        default="short",
        help="a noun phrase [short], a sentence, or a noun phrase with what is known of its "
        "attributes",
    )
    parser.add_argument(
        "--attributes",
        type=_attribute_names,
        default=(),
        metavar="NAME,...",
        help=f"also answer these: {', '.join(ATTRIBUTES)}",
    )
    add_person_words(parser)
    parser.add_argument("--bundle", metavar="DIR|YAML", help=BUNDLE_HELP)
    parser.add_argument("--json", action="store_true", help="one JSON object per region")
    parser.add_argument(
        "--render", metavar="OUT.png", help="write the image with masks and captions drawn on it"
    )
    return parser


def read_picture(path: Path) -> Image:
    """The image u8 [H, W, 3] RGB in a file. Raises `SourceError`."""
    data = read_file(path)
    try:
        return decode_picture(data)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


def _caption(engine: Engine, image: Image, regions: list[RegionInput]) -> list[RowDone]:
    """One end per region, in the regions' order, in batches that the engine takes."""
    frame = engine.encode(image)
    ends: list[RowDone] = []
    for first in range(0, len(regions), engine.info.max_regions):
        batch = regions[first : first + engine.info.max_regions]
        rows = {out.row: out for out in engine.caption(frame, batch) if isinstance(out, RowDone)}
        if len(rows) != len(batch):
            raise EngineError(f"the engine finished {len(rows)} of {len(batch)} regions")
        ends += [rows[row] for row in range(len(batch))]
    return ends


def _words(done: RowDone) -> str:
    return "(no caption)" if find_rejection(done, CaptionConfig()) else done.text.strip()


def _show(region: str, done: RowDone, problem: str | None, *, as_json: bool) -> None:
    if as_json:
        text = None if problem else done.text.strip()
        fields = {"region": region, "text": text, "error": problem}
        sure = None if done.confidence is None else round(done.confidence, 4)
        unsure = sure is not None and sure < CaptionConfig().min_confidence
        score = {"score": round(done.score, 4), "confidence": sure, "unsure": unsure}
        score["n_tok"] = done.n_tok
        more = {"attributes": to_builtins(done.attributes)} if done.attributes else {}
        print(json.dumps({**fields, **score, **more}))
    elif problem:
        print(f"{region}: no caption: {problem}", file=sys.stderr)
    else:
        print(f"{region}: {done.text.strip()}")
        for one in done.attributes:
            chance = "" if one.probability is None else f" ({one.probability:.2f})"
            print(f"  {one.name}: {one.text or one.status.replace('_', ' ')}{chance}")
