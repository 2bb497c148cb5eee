"""`ureca describe --text`: which regions of one image is a text true of?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ureca.bundle import load_manifest
from ureca.datatypes import Image, TextPrompt
from ureca.engine import Engine
from ureca.errors import BundleError, ConfigError
from ureca.models.runtime.grounding import Candidate, FoundRegion, GroundingResult
from ureca.models.runtime.grounding.phrases import asks_for_part
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.bundled import has_mask_head
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_text_segmenter,
    open_text_segmenter,
)
from ureca.node.captioning.engine_loader import NO_GROUNDING, open_grounder
from ureca.node.cli.region_options import named_seeds
from ureca.node.config import GroundingConfig
from ureca.node.masks.geometry import box_of
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.segmentation.automatic_masks import generate_masks
from ureca.node.segmentation.factory import open_segmenter
from ureca.node.segmenter_config import SegmenterConfig
from ureca.visualization.files import check_name, save


@dataclass(frozen=True, slots=True)
class _Named:
    """A candidate and what it is called in the output."""

    name: str
    candidate: Candidate


def find_texts(
    options: argparse.Namespace, image: Image, *, engine_of: Callable[[str], Engine]
) -> int:
    """Print the answers to each text; returns 1 when one of them is not there."""
    texts = [TextPrompt(text).text for text in options.text]
    if options.bundle and is_text_segmenter(Path(options.bundle)):
        return _show_all(options, image, *_find_own_masks(options, image, texts))
    if not options.region and not options.segmenter:
        options.segmenter = _choose_segmenter(options.bundle)
    if options.render:
        check_name(Path(options.render))
    engine = engine_of(options.bundle or "")
    grounder = open_grounder(engine, options.bundle or "")
    if grounder is None:
        raise BundleError(NO_GROUNDING.format(bundle=options.bundle or engine.info.model))
    named = _candidates(options, image, with_parts=any(map(asks_for_part, texts)))
    candidates = [one.candidate for one in named]
    results = grounder.find(engine.encode(image), candidates, texts)
    return _show_all(options, image, results, named)


def _choose_segmenter(bundle: str | None) -> str:
    """What cuts regions out of the image when nobody says: the mask head of the bundle."""
    folder = Path(bundle) if bundle else require_bundle()
    if folder.is_dir() and has_mask_head(load_manifest(folder)):
        return "nano"
    raise ConfigError(
        f"--text: there is nothing that it could be true of: {folder} has no mask head. Give "
        "regions (--mask, --box, --point), or --segmenter sam2-hiera-tiny"
    )


def _show_all(
    options: argparse.Namespace,
    image: Image,
    results: Sequence[GroundingResult],
    named: Sequence[_Named],
) -> int:
    for result in results:
        _show(result, named, as_json=options.json)
    if options.render:
        _render(Path(options.render), image, results, named)
    return int(not all(result.regions for result in results))


def _find_own_masks(
    options: argparse.Namespace, image: Image, texts: Sequence[str]
) -> tuple[list[GroundingResult], list[_Named]]:
    """Answers of a checkpoint of `ureca mllm unires`, which cuts its masks itself."""
    if options.region or options.segmenter:
        raise ConfigError(
            f"--text: {options.bundle} cuts its own masks: leave out regions and --segmenter"
        )
    model = open_text_segmenter(Path(options.bundle))
    named: list[_Named] = []
    results = []
    for told in model.find_masks(model.encode(image), texts):
        first = len(named)
        named += [
            _Named(f"cut {','.join(map(str, box_of(one.mask)))}", Candidate(one.mask, one.score))
            for one in told.masks
        ]
        found = (FoundRegion(n, 1 - told.none_probability) for n in range(first, len(named)))
        results.append(GroundingResult(told.text, told.none_probability, tuple(found)))
    return results, named


def _candidates(options: argparse.Namespace, image: Image, *, with_parts: bool) -> list[_Named]:
    given = [
        _Named(name, Candidate(seed_mask(seed, image)))
        for name, seed in named_seeds(options.region)
    ]
    if not options.segmenter:
        return given
    folder = options.bundle or "" if options.segmenter == "nano" else ""
    config = SegmenterConfig(model=options.segmenter, folder=folder)
    segmenter = open_segmenter(config)
    known = [one.candidate.mask for one in given]
    cuts = generate_masks(
        segmenter,
        segmenter.encode(image),
        image.shape[:2],
        config,
        known=known,
        for_texts=True,
        with_parts=with_parts,
    )
    found = [
        _Named(f"cut {','.join(map(str, box_of(mask)))}", Candidate(mask, score=cut.score))
        for cut, mask in cuts[: GroundingConfig().max_candidates]
    ]
    return given + found


def _show(result: GroundingResult, named: Sequence[_Named], *, as_json: bool) -> None:
    if as_json:
        regions = [
            {
                "region": named[one.index].name,
                "box": box_of(named[one.index].candidate.mask),
                "probability": round(one.probability, 4),
                "level": one.level,
            }
            for one in result.regions
        ]
        none = round(result.none_probability, 4)
        print(json.dumps({"text": result.text, "none": none, "regions": regions}))
    elif result.regions:
        for one in result.regions:
            print(f"{result.text}: {named[one.index].name} ({one.probability:.2f})")
    else:
        print(f"{result.text}: not there (P(none) {result.none_probability:.2f})")


def _render(
    path: Path, image: Image, results: Sequence[GroundingResult], named: Sequence[_Named]
) -> None:
    drawn = [(result.text, one) for result in results for one in result.regions]
    masks = [named[one.index].candidate.mask for _, one in drawn]
    save(path, image, masks, [f"{text} {one.probability:.2f}" for text, one in drawn])
