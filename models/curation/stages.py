"""The stages that write captions; each takes an image and returns one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask
from ureca.models.curation import prompts
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion
from ureca.models.curation.records import (
    CuratedPicture,
    CuratedRegion,
    reject_orphans,
    reject_region,
)
from ureca.models.curation.tree import TreeConfig, build_tree
from ureca.models.runtime.server import views
from ureca.models.runtime.server.answers import parse_sentence

Features = Callable[[Image, list[Mask]], npt.NDArray[np.float32]]
"""Features of regions: u8 [H, W, 3] and N masks to f32 [N, d] of length 1."""


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Thresholds of the pipeline."""

    tree: TreeConfig = field(default_factory=TreeConfig)
    similar: float = 0.8
    """Cosine of two regions' features above which their captions must tell them apart. It belongs
    to the features; measure it anew for others."""
    max_similar: int = 7
    verify: bool = True


def run_stages(
    picture: CuratedPicture,
    image: Image,
    annotator: Annotator,
    *,
    features: Features,
    config: CurationConfig,
) -> CuratedPicture:
    """Run all stages."""
    picture = build_tree(picture, config.tree)
    picture = write_short_captions(picture, image, annotator)
    picture = write_long_captions(picture, image, annotator)
    picture = make_unique(picture, image, annotator, features=features, config=config)
    return verify_captions(picture, image, annotator) if config.verify else picture


def write_short_captions(
    picture: CuratedPicture, image: Image, annotator: Annotator
) -> CuratedPicture:
    """Write one sentence per region, from the top of the tree down. A part's prompt contains the
    sentences of its object and of the parts before it.
    """
    for region_id in list(_iterate_top_down(picture)):
        region = _index_by_id(picture)[region_id]
        if region.left_out is not None:  # its parent got no words
            continue
        question = _make_short_question(picture, image, region)
        words = parse_sentence(annotator.answer(question).text)
        picture = picture.replace_regions({region_id: _set_field(region, "short", words)})
        if words is None:
            picture = reject_orphans(picture)
    return picture


def write_long_captions(
    picture: CuratedPicture, image: Image, annotator: Annotator
) -> CuratedPicture:
    """Write a paragraph per region, from the bottom up, from its parts' paragraphs; without parts
    it is the sentence.
    """
    for region_id in reversed(list(_iterate_top_down(picture))):
        region = _index_by_id(picture)[region_id]
        parts = [part.long for part in picture.list_children(region_id)]
        words: str | None = region.short
        if parts:
            mask = picture.decode_mask(region)
            question = _make_question(
                "long",
                region,
                image=image,
                mask=mask,
                shown=(views.draw_outlined(image, mask),),
                prompt=prompts.make_long_prompt(region.short, parts),
                said=region.short,
            )
            words = parse_sentence(annotator.answer(question).text) or region.short
        picture = picture.replace_regions({region_id: _set_field(region, "long", words)})
    return picture


def make_unique(
    picture: CuratedPicture,
    image: Image,
    annotator: Annotator,
    *,
    features: Features,
    config: CurationConfig,
) -> CuratedPicture:
    """Write new captions for regions that resemble others of the image. Without a valid answer the
    caption stays.
    """
    alike = find_similar(picture, image, features, config)
    changes = {}
    for region_id, others in alike.items():
        region = _index_by_id(picture)[region_id]
        named = [_index_by_id(picture)[other] for other in others]
        masks = [picture.decode_mask(each) for each in (region, *named)]
        question = _make_question(
            "refine",
            region,
            image=image,
            mask=masks[0],
            shown=(views.draw_numbered(image, masks),),
            prompt=prompts.make_refine_prompt(region.long, [each.long for each in named]),
            said=region.long,
        )
        words = parse_sentence(annotator.answer(question).text) or ""
        changes[region_id] = msgspec.structs.replace(
            region, similar=tuple(others), refined="" if words == region.long else words
        )
    return picture.replace_regions(changes)


def find_similar(
    picture: CuratedPicture, image: Image, features: Features, config: CurationConfig
) -> dict[str, list[str]]:
    """Return for each region the most similar others, if any. Its own object and parts are
    excluded, because a part always resembles its object.
    """
    kept = picture.kept
    if len(kept) < 2:
        return {}
    looks = features(image, [picture.decode_mask(region) for region in kept])
    cosines = looks @ looks.T
    related = {region.region_id: set(picture.list_ancestors(region)) for region in kept}
    found: dict[str, list[str]] = {}
    for row, region in enumerate(kept):
        near = [
            other.region_id
            for column in np.argsort(-cosines[row], kind="stable")
            if cosines[row, column] > config.similar
            and (other := kept[column]) is not region
            and other.region_id not in related[region.region_id]
            and region.region_id not in related[other.region_id]
        ]
        if near:
            found[region.region_id] = near[: config.max_similar]
    return found


def verify_captions(picture: CuratedPicture, image: Image, annotator: Annotator) -> CuratedPicture:
    """Reject the regions whose caption the annotator does not confirm."""
    changes = {}
    for region in picture.kept:
        mask = picture.decode_mask(region)
        question = _make_question(
            "verify",
            region,
            image=image,
            mask=mask,
            shown=(views.draw_outlined(image, mask), views.draw_alone(image, mask)),
            prompt=prompts.make_verify_prompt(region.caption),
            said=region.caption,
        )
        holds = prompts.parse_verdict(annotator.answer(question).text)
        if holds is None:
            changes[region.region_id] = reject_region(region, "bad_answer")
        elif not holds:
            changes[region.region_id] = reject_region(region, "not_verified")
    return picture.replace_regions(changes)


def _make_short_question(
    picture: CuratedPicture, image: Image, region: CuratedRegion
) -> AnnotatorQuestion:
    mask = picture.decode_mask(region)
    if not region.parent:
        shown: tuple[Image, ...] = (views.draw_outlined(image, mask), views.draw_alone(image, mask))
        prompt = prompts.make_short_prompt("", ())
    else:
        by_id = _index_by_id(picture)
        main = by_id[[*picture.list_ancestors(region)][-1]]
        siblings = [each.short for each in picture.list_children(region.parent) if each.short]
        shown = (
            views.draw_within(image, mask, picture.decode_mask(main)),
            views.draw_alone(image, mask),
            views.draw_outlined(image, mask),
        )
        prompt = prompts.make_short_prompt(by_id[region.parent].short, siblings)
    return _make_question("short", region, image=image, mask=mask, shown=shown, prompt=prompt)


def _make_question(
    kind: prompts.Kind,
    region: CuratedRegion,
    *,
    image: Image,
    mask: Mask,
    shown: tuple[Image, ...],
    prompt: str,
    said: str = "",
) -> AnnotatorQuestion:
    return AnnotatorQuestion(
        kind=kind,
        region_id=region.region_id,
        image=image,
        mask=mask,
        views=shown,
        prompt=prompt,
        said=said,
    )


def _set_field(region: CuratedRegion, name: str, words: str | None) -> CuratedRegion:
    if words is None:
        return reject_region(region, "bad_answer")
    change: dict[str, Any] = {name: words}
    return msgspec.structs.replace(region, **change)


def _index_by_id(picture: CuratedPicture) -> dict[str, CuratedRegion]:
    return {region.region_id: region for region in picture.regions}


def _iterate_top_down(picture: CuratedPicture) -> Iterator[str]:
    """Iterate level by level, each object's parts in the order of falling area."""
    level = [""]
    while level:
        level = [each.region_id for above in level for each in picture.list_children(above)]
        yield from level
