"""Chooses the words of a tracked region from its last captions and from those around it.

One look at a region may be wrong where most are right, so a region's last captions vote. A part is
named after its whole ("the handle of a red mug"), and often after the wrong one, so it takes the
words of the region that contains it.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ureca.datatypes import RegionRequest, RowDone, Style, Trigger
from ureca.models.runtime.grounding.phrases import parse, singular
from ureca.node.config import CaptionConfig

_STEP_PX = 4
"""Masks are compared at every fourth pixel of every fourth row."""
_INSIDE = 0.85
"""A region lies in another one when this share of it does."""
_LARGER = 1.3
_AFTER_CHANGE = 0.5
"""Looks before a detected change count this much: two new ones that agree outvote four."""
_MOST_REGIONS = 1024
_PART = re.compile(r"^(?P<part>.+?) of (?P<whole>.+)$")
_NO_PARTS = frozenset(
    """
    group pair stack pile row bunch couple lot number crowd herd flock set slice piece cup glass
    bottle bowl plate bag box basket kind type sheet can jar mug tray stretch body team field
    collection assortment
    """.split()  # noqa: SIM905 - a list of one word a line is harder to read
)
"""Before "of" they name no part: "a group of people", "a bowl of soup"."""
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Look:
    """One caption of a region, and how much it counts."""

    said: RowDone
    weight: float


@dataclass(slots=True)
class _Region:
    """What is known of a region: its last looks, and where it was last."""

    looks: deque[_Look]
    style: Style
    mask: npt.NDArray[np.bool_]
    area: int
    frame_ns: int
    voted: str = ""
    """The text that the looks agreed on."""
    text: str = ""
    """The text that was published: `voted`, or with the words of a whole."""

    def weaken(self, factor: float) -> None:
        """Let the looks so far count less."""
        weaker = [replace(look, weight=look.weight * factor) for look in self.looks]
        self.looks = deque(weaker, maxlen=self.looks.maxlen)


@dataclass(slots=True)
class CaptionChooser:
    """Keeps the last looks of regions. Not thread-safe: one captioner uses it."""

    config: CaptionConfig
    _regions: OrderedDict[_Key, _Region] = field(default_factory=OrderedDict)

    def begin(self, requests: Sequence[RegionRequest], captured_ns: int) -> None:
        """Take note of where the regions of a batch are, before their captions come."""
        for request in requests:
            key = (request.stream, request.rid)
            mask = request.mask[::_STEP_PX, ::_STEP_PX]
            known = self._regions.pop(key, None)
            if known is None or known.style != request.style or request.trigger is Trigger.NEW:
                looks: deque[_Look] = deque(maxlen=self.config.vote_looks)
                known = _Region(looks, request.style, mask, 0, captured_ns)
            if request.trigger is Trigger.CHANGE:
                known.weaken(_AFTER_CHANGE)
            known.mask, known.area = mask, int(np.count_nonzero(mask))
            known.frame_ns = captured_ns
            self._regions[key] = known
        while len(self._regions) > _MOST_REGIONS:
            self._regions.popitem(last=False)

    def find_whole(
        self, request: RegionRequest, done: RowDone, waiting: Collection[_Key] = ()
    ) -> _Key | None:
        """The region whose words the caption `done` should take. It contains the part; if it can,
        it is what the caption says that the part is of (a lid is the teapot's, not the gripper's
        that holds it); else it is the smallest one. None if the caption names no part. A region in
        `waiting` has no text yet and may be the one, so the smallest of those goes first. Scenery
        (a table, a wall) is around everything and is taken only by its name.
        """
        named = _split_part(done.text) if self.config.parts_take_whole else None
        if named is None:
            return None
        found = self._list_containing(request, waiting)
        ranks = {
            key: (key not in waiting, not _same_noun(other.text, named[1]), other.area)
            for key, other in found.items()
            if key in waiting or _same_noun(other.text, named[1]) or not parse(other.text).scenery
        }
        return min(ranks, key=ranks.__getitem__, default=None)

    def _list_containing(
        self, request: RegionRequest, waiting: Collection[_Key]
    ) -> dict[_Key, _Region]:
        """Regions that contain that of `request`, and have a text that names no part, or wait."""
        own = self._regions[request.stream, request.rid]
        return {
            key: other
            for key, other in self._regions.items()
            if key[0] == request.stream
            and other is not own
            and (key in waiting or (other.text and _split_part(other.text) is None))
            and other.area > _LARGER * own.area
            and self._is_fresh(other, own)
            and _contains(other.mask, own)
        }

    def choose(self, request: RegionRequest, done: RowDone, whole: _Key | None) -> RowDone:
        """The caption to publish for this look: what the last looks agree on, with the words of
        `whole` in place of its own.
        """
        own = self._regions[request.stream, request.rid]
        done = replace(done, text=done.text.strip())
        own.looks.append(_Look(done, done.score))
        voted = _vote(own.looks, own.voted)
        own.voted = text = voted.text
        known = self._regions.get(whole) if whole is not None else None
        if known is not None and known.text and (named := _split_part(text)) is not None:
            text = f"{named[0]} of {known.text}"
        own.text = text
        stop = done.stop if text == done.text else "eos"
        return replace(voted, row=done.row, n_tok=done.n_tok, text=text, stop=stop)

    def _is_fresh(self, other: _Region, own: _Region) -> bool:
        age_ms = (own.frame_ns - other.frame_ns) / 1e6
        return other.mask.shape == own.mask.shape and abs(age_ms) <= self.config.ttl_ms


def _contains(mask: npt.NDArray[np.bool_], inner: _Region) -> bool:
    return int(np.count_nonzero(mask & inner.mask)) >= _INSIDE * inner.area > 0


def _same_noun(text: str, whole: str) -> bool:
    """Whether both name the same kind of thing: "a white teapot" and "the blue teapots"."""
    noun = singular(parse(text).noun)
    return bool(noun) and noun == singular(parse(whole).noun)


def _split_part(text: str) -> tuple[str, str] | None:
    """PART and WHOLE of "PART of WHOLE"; None where the text has no such form."""
    found = _PART.match(text.strip())
    if found is None or found["part"].split()[-1] in _NO_PARTS:
        return None
    return found["part"], found["whole"]


def _vote(looks: Sequence[_Look], published: str) -> RowDone:
    """The surest caption with the text that has the largest sum of weights. Of equal ones the
    published text stays, so that words change only when the evidence does.
    """
    total: dict[str, float] = defaultdict(float)
    for look in looks:
        total[look.said.text] += look.weight
    best = max(total, key=lambda text: (total[text], text == published))
    agreed = (look.said for look in looks if look.said.text == best)
    return max(agreed, key=lambda said: (said.confidence or 0.0, said.score))
