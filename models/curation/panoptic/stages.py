"""One caption a segment: asked with all segments marked, checked, and verified."""

from __future__ import annotations

import re

import msgspec

from ureca.datatypes import Image
from ureca.models.curation.panoptic.output import save_map
from ureca.models.curation.pipeline import PictureWorker
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion, make_segment_prompt
from ureca.models.curation.records import CuratedPicture, CuratedRegion, reject_region
from ureca.models.curation.stages import verify_captions
from ureca.models.runtime.server import views
from ureca.models.runtime.server.answers import parse_sentence

_LEAST_CHARS = 3
"""Pix2Cap's loader takes shorter descriptions for missing ones."""
_MARKS = re.compile(
    r"\b(?:segment|mask|number(?:ed)?|mark(?:ed|er|s)?|labell?ed)\s*#?\s*\d+|#\d+|"
    r"\b(?:first|second) picture\b",
    re.IGNORECASE,
)


class SegmentWorker(PictureWorker):
    """Describes the segments of pictures; the id map is on disk before the picture counts as
    done.
    """

    def describe(self, picture: CuratedPicture, image: Image) -> CuratedPicture:
        """See `write_segment_captions`; then what does not hold is left out."""
        done = write_segment_captions(picture, image, self.ledger)
        if self.settings.config.verify:
            done = verify_captions(done, image, self.ledger)
        save_map(self.settings.out, done)
        return done


def write_segment_captions(
    picture: CuratedPicture, image: Image, annotator: Annotator
) -> CuratedPicture:
    """Write one caption for each segment. The annotator sees the picture u8 [H, W, 3] with a line
    and a number at every segment, and the segment alone.
    """
    asked = picture.kept
    masks = [picture.decode_mask(region) for region in asked]
    marked = views.draw_numbers(image, masks, first=1)
    changes = {}
    for number, (region, mask) in enumerate(zip(asked, masks, strict=True), 1):
        question = AnnotatorQuestion(
            kind="long",
            region_id=region.region_id,
            image=image,
            mask=mask,
            views=(marked, views.draw_alone(image, mask)),
            prompt=make_segment_prompt(number, region.category),
        )
        changes[region.region_id] = _set_caption(region, annotator.answer(question).text)
    return picture.replace_regions(changes)


def parse_segment_caption(text: str) -> str | None:
    """Return the caption of an answer; None if there is none, or it is about the marks."""
    words = parse_sentence(text)
    if words is None or len(words) < _LEAST_CHARS or _MARKS.search(words):
        return None
    return words


def _set_caption(region: CuratedRegion, answer: str) -> CuratedRegion:
    words = parse_segment_caption(answer)
    if words is None:
        return reject_region(region, "bad_answer")
    return msgspec.structs.replace(region, long=words)
