"""The stages in which a picture's regions get their words; each takes a picture and gives one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask
from ureca.models.curation import prompts, views
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion
from ureca.models.curation.records import CuratedPicture, CuratedRegion, leave_out, orphans_left_out
from ureca.models.curation.tree import TreeConfig, grown

Features = Callable[[Image, list[Mask]], npt.NDArray[np.float32]]
"""What regions look like: u8 [H, W, 3] and N masks to f32 [N, d] of length 1."""


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Thresholds of the pipeline."""

    tree: TreeConfig = field(default_factory=TreeConfig)
    similar: float = 0.8
    """Cosine of two regions' features above which their captions must tell them apart. It belongs
    to the features; measure it anew for others."""
    max_similar: int = 7
    verify: bool = True


def curated(
    picture: CuratedPicture,
    image: Image,
    annotator: Annotator,
    *,
    features: Features,
    config: CurationConfig,
) -> CuratedPicture:
    """All stages."""
    picture = grown(picture, config.tree)
    picture = shortly(picture, image, annotator)
    picture = at_length(picture, image, annotator)
    picture = singled_out(picture, image, annotator, features=features, config=config)
    return verified(picture, image, annotator) if config.verify else picture


def shortly(picture: CuratedPicture, image: Image, annotator: Annotator) -> CuratedPicture:
    """One sentence a region, from the top of the tree down: a part's sentence leans on its
    thing's, and on those of the parts before it.
    """
    for region_id in list(_top_down(picture)):
        region = _by_id(picture)[region_id]
        if region.left_out is not None:  # its parent got no words
            continue
        question = _short_question(picture, image, region)
        words = prompts.sentence(annotator.answer(question).text)
        picture = picture.changed({region_id: _with(region, "short", words)})
        if words is None:
            picture = orphans_left_out(picture)
    return picture


def at_length(picture: CuratedPicture, image: Image, annotator: Annotator) -> CuratedPicture:
    """A paragraph a region, from the bottom up, out of its parts' paragraphs; where there are no
    parts it is the sentence.
    """
    for region_id in reversed(list(_top_down(picture))):
        region = _by_id(picture)[region_id]
        parts = [part.long for part in picture.children(region_id)]
        words: str | None = region.short
        if parts:
            mask = picture.mask(region)
            question = _question(
                "long",
                region,
                image=image,
                mask=mask,
                shown=(views.outlined(image, mask),),
                prompt=prompts.long_prompt(region.short, parts),
                said=region.short,
            )
            words = prompts.sentence(annotator.answer(question).text) or region.short
        picture = picture.changed({region_id: _with(region, "long", words)})
    return picture


def singled_out(
    picture: CuratedPicture,
    image: Image,
    annotator: Annotator,
    *,
    features: Features,
    config: CurationConfig,
) -> CuratedPicture:
    """New words for regions that look like others of the picture. What is no answer leaves the
    words as they were.
    """
    alike = similar(picture, image, features, config)
    changes = {}
    for region_id, others in alike.items():
        region = _by_id(picture)[region_id]
        named = [_by_id(picture)[other] for other in others]
        masks = [picture.mask(each) for each in (region, *named)]
        question = _question(
            "refine",
            region,
            image=image,
            mask=masks[0],
            shown=(views.numbered(image, masks),),
            prompt=prompts.refine_prompt(region.long, [each.long for each in named]),
            said=region.long,
        )
        words = prompts.sentence(annotator.answer(question).text) or ""
        changes[region_id] = msgspec.structs.replace(
            region, similar=tuple(others), refined="" if words == region.long else words
        )
    return picture.changed(changes)


def similar(
    picture: CuratedPicture, image: Image, features: Features, config: CurationConfig
) -> dict[str, list[str]]:
    """For each region that has them, the most similar others, no thing of its own among them: a
    part always looks like what it is a part of.
    """
    kept = picture.kept
    if len(kept) < 2:
        return {}
    looks = features(image, [picture.mask(region) for region in kept])
    cosines = looks @ looks.T
    related = {region.region_id: set(picture.ancestors(region)) for region in kept}
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


def verified(picture: CuratedPicture, image: Image, annotator: Annotator) -> CuratedPicture:
    """Without the regions whose caption does not hold when it is read again."""
    changes = {}
    for region in picture.kept:
        mask = picture.mask(region)
        question = _question(
            "verify",
            region,
            image=image,
            mask=mask,
            shown=(views.outlined(image, mask), views.alone(image, mask)),
            prompt=prompts.verify_prompt(region.caption),
            said=region.caption,
        )
        holds = prompts.verdict(annotator.answer(question).text)
        if holds is None:
            changes[region.region_id] = leave_out(region, "bad_answer")
        elif not holds:
            changes[region.region_id] = leave_out(region, "not_verified")
    return picture.changed(changes)


def _short_question(
    picture: CuratedPicture, image: Image, region: CuratedRegion
) -> AnnotatorQuestion:
    mask = picture.mask(region)
    if not region.parent:
        shown: tuple[Image, ...] = (views.outlined(image, mask), views.alone(image, mask))
        prompt = prompts.short_prompt("", ())
    else:
        by_id = _by_id(picture)
        main = by_id[[*picture.ancestors(region)][-1]]
        siblings = [each.short for each in picture.children(region.parent) if each.short]
        shown = (
            views.within(image, mask, picture.mask(main)),
            views.alone(image, mask),
            views.outlined(image, mask),
        )
        prompt = prompts.short_prompt(by_id[region.parent].short, siblings)
    return _question("short", region, image=image, mask=mask, shown=shown, prompt=prompt)


def _question(
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


def _with(region: CuratedRegion, name: str, words: str | None) -> CuratedRegion:
    if words is None:
        return leave_out(region, "bad_answer")
    change: dict[str, Any] = {name: words}
    return msgspec.structs.replace(region, **change)


def _by_id(picture: CuratedPicture) -> dict[str, CuratedRegion]:
    return {region.region_id: region for region in picture.regions}


def _top_down(picture: CuratedPicture) -> Iterator[str]:
    """Level by level, each thing's parts in the order of falling area."""
    level = [""]
    while level:
        level = [each.region_id for above in level for each in picture.children(above)]
        yield from level
