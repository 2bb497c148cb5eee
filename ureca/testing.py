"""Shipped fakes: a synthetic camera, an engine without weights, and an event capture.

They are public, so that users test their robots, and we test the node, without a GPU, a model or
patched internals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ureca.attributes import AttributeAnswer, AttributeStatus
from ureca.datatypes import (
    EngineInfo,
    Frame,
    Image,
    Mask,
    RegionInput,
    RegionSeed,
    RowDelta,
    RowDone,
    StageTimes,
    Stop,
)
from ureca.engine import TextScores, never
from ureca.errors import EngineError
from ureca.protocol import rle
from ureca.protocol.event_table import TERMINALS, event_kind
from ureca.protocol.events import AnyEvent

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 60, 200),
    "yellow": (220, 200, 30),
    "purple": (130, 40, 160),
    "orange": (240, 130, 20),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
"""Named RGB colours of the synthetic things."""

SESSION_ID = b"synthetic-source"

_BACKGROUND = (96, 100, 104)
_KNOWN_WORDS = frozenset({*COLOURS, "thing", "upper", "lower", "left", "right"})


@dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """Coloured rectangles that move over a plain background and bounce at its edges; exact masks.

    Iterating gives `frames` frames; `frame(seq)` gives any one, always the same for the same
    settings. `with_regions` puts the masks into every frame (`"always"`), the first (`"first"`) or
    none (`"never"`).
    """

    frames: int = 30
    things: int = 3
    width_px: int = 160
    height_px: int = 120
    fps: float = 30.0
    stream: str = "cam0"
    seed: int = 0
    start_ns: int = 1_000_000_000
    with_regions: Literal["always", "first", "never"] = "always"

    def __post_init__(self) -> None:
        if not 0 <= self.things <= len(COLOURS):
            raise ValueError(f"expected 0 to {len(COLOURS)} things, got {self.things}")

    def __iter__(self) -> Iterator[Frame]:
        return (self.frame(seq) for seq in range(self.frames))

    def frame(self, seq: int) -> Frame:
        """The frame number `seq`, captured `seq / fps` seconds after `start_ns`."""
        shown = self.with_regions == "always" or (self.with_regions == "first" and seq == 0)
        return Frame(
            stream=self.stream,
            session_id=SESSION_ID,
            seq=seq,
            captured_ns=self.start_ns + round(seq / self.fps * 1e9),
            image=self.image(seq),
            capture_source="driver",
            received_ns=self.start_ns + round(seq / self.fps * 1e9),
            regions=self.regions(seq) if shown else None,
        )

    def image(self, seq: int) -> Image:
        """The picture, u8 [height_px, width_px, 3] RGB."""
        image = np.empty((self.height_px, self.width_px, 3), np.uint8)
        image[:] = _BACKGROUND
        for colour, (x0, y0, x1, y1) in self.boxes_xyxy_px(seq).items():
            image[y0:y1, x0:x1] = COLOURS[colour]
        return image

    def masks(self, seq: int) -> dict[str, Mask]:
        """Visible pixels by colour, bool [height_px, width_px]; hidden things are left out."""
        owner = np.full((self.height_px, self.width_px), -1, np.int16)
        boxes = self.boxes_xyxy_px(seq)
        for number, (x0, y0, x1, y1) in enumerate(boxes.values()):
            owner[y0:y1, x0:x1] = number
        masks = {colour: owner == number for number, colour in enumerate(boxes)}
        return {colour: mask for colour, mask in masks.items() if mask.any()}

    def regions(self, seq: int) -> tuple[RegionSeed, ...]:
        """The masks as seeds whose `rid` and `label` are the colour's name."""
        masks = self.masks(seq).items()
        return tuple(
            RegionSeed(rid=name, mask=rle.encode(mask), label=name) for name, mask in masks
        )

    def boxes_xyxy_px(self, seq: int) -> dict[str, tuple[int, int, int, int]]:
        """Where each rectangle is, hidden parts included; later ones lie on top."""
        draw = np.random.default_rng(self.seed)
        boxes = {}
        for colour in list(COLOURS)[: self.things]:
            size = draw.integers(self.height_px // 6, self.height_px // 3, 2)
            start, step = draw.random(2), draw.uniform(-0.03, 0.03, 2)
            room = (self.width_px - size[0], self.height_px - size[1])
            x0, y0 = (_bounce(start[k] + step[k] * seq, int(room[k])) for k in range(2))
            boxes[colour] = (x0, y0, x0 + int(size[0]), y0 + int(size[1]))
        return boxes


def _bounce(place: float, room: int) -> int:
    """A triangle wave: 0..1 goes there, 1..2 comes back."""
    phase = place % 2.0
    return round((phase if phase <= 1.0 else 2.0 - phase) * room)


Step = Literal["ok", "raise", "non_finite"]
Hook = Callable[[int, int], Step]
"""Called as `hook(call, token)` before every token of a `caption` call; may sleep."""


def _fine(call: int, token: int) -> Step:  # noqa: ARG001  (the signature of `Hook`)
    return "ok"


@dataclass(frozen=True, slots=True)
class ScriptedFrame:
    """What `ScriptedEngine.encode` returns."""

    image: Image


@dataclass
class ScriptedEngine:
    """Captions by rule: the region's colour and place; one word per step, like a real decoder.

    Style `short` gives "a red thing", `long` adds "at the upper left". The hook makes it fail:
    `raise` raises `EngineError`, `non_finite` ends every open row with that stop. `calls` counts
    `caption` calls and `batches` their sizes.
    """

    hook: Hook = _fine
    max_regions: int = 32
    confidence: float | None = None
    """Of every caption."""
    attributes: tuple[str, ...] = ("colour", "material", "location", "age")
    """It says the colour, the place and an age, and abstains from the material; () answers none."""
    batches: list[int] = field(default_factory=list)
    encoded: int = 0

    @property
    def info(self) -> EngineInfo:
        """Names that are clearly not those of a real model."""
        return EngineInfo(
            model="scripted",
            runtime="scripted",
            precision="none",
            bundle_sha="0" * 64,
            max_regions=self.max_regions,
            max_new_tokens=32,
        )

    @property
    def times(self) -> StageTimes:
        """Fixed durations, so that events are equal from run to run."""
        return StageTimes({"prep": 1, "vit": 2, "prefill": 3, "region": 4, "gen": 5})

    @property
    def calls(self) -> int:
        """How many times `caption` was called."""
        return len(self.batches)

    def encode(self, image: Image) -> ScriptedFrame:
        """Remember the picture."""
        self.encoded += 1
        return ScriptedFrame(image)

    def caption(
        self,
        frame: ScriptedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Yield the words of all rows in turn, then the end of each; see `Engine.caption`."""
        if len(regions) > self.max_regions:
            raise EngineError(f"expected at most {self.max_regions} regions, got {len(regions)}")
        self.batches.append(len(regions))
        return self._write(frame, regions, aborted, call=self.calls - 1)

    def read_attributes(
        self, frame: ScriptedFrame, regions: Sequence[RegionInput]
    ) -> list[tuple[AttributeAnswer, ...]]:
        """See `AttributeEngine`."""
        return [
            tuple(
                answer_attribute(frame.image, region, name)
                for name in region.attributes
                if name in self.attributes
            )
            for region in regions
        ]

    def score(
        self,
        frame: ScriptedFrame,
        regions: Sequence[RegionInput],
        texts: Sequence[str],
        *,
        max_fit: int = 8,
        order: npt.NDArray[np.float32] | None = None,
    ) -> TextScores:
        """Mean over the words of a text that this engine knows: +4 if its long caption of the
        region has the word, else -4; all -4 if it knows none. `fit` is `bag` where computed.
        """
        captions = [set(describe(frame.image, RegionInput(r.mask, "long"))) for r in regions]
        bag = np.array([[word_score(t, c) for c in captions] for t in texts], np.float32)
        bag = bag.reshape(len(texts), len(regions))
        fit = np.full_like(bag, np.nan)
        for row, ranks in enumerate(bag if order is None else order):
            best = np.argsort(-ranks, kind="stable")[:max_fit]
            fit[row, best] = bag[row, best]
        return TextScores(bag, fit, np.array([len(t.split()) for t in texts], np.int32))

    def _write(
        self,
        frame: ScriptedFrame,
        regions: Sequence[RegionInput],
        aborted: Callable[[int], bool],
        *,
        call: int,
    ) -> Iterator[RowDelta | RowDone]:
        rows = {
            row: _Row(row, describe(frame.image, region), region.max_new_tokens)
            for row, region in enumerate(regions)
        }
        token, known = 0, self.read_attributes(frame, regions)
        while rows:
            step = self.hook(call, token)
            if step == "raise":
                raise EngineError(f"scripted failure in call {call} at token {token}")
            for row in list(rows.values()):
                for said in row.advance(bad=step == "non_finite", aborted=aborted(row.row)):
                    if isinstance(said, RowDone):
                        answers = known[said.row]
                        yield replace(said, confidence=self.confidence, attributes=answers)
                    else:
                        yield said
                if row.ended:
                    del rows[row.row]
            token += 1


def describe(image: Image, region: RegionInput) -> list[str]:
    """The caption of `ScriptedEngine` for a region: a function of its mean colour and place."""
    mean = image[region.mask].mean(axis=0) if region.mask.any() else np.zeros(3)
    colour = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
    words = ["a", colour, "thing"]
    if region.style == "long":
        ys, xs = np.nonzero(region.mask)
        height, width = region.mask.shape
        upper, left = ys.mean() < height / 2, xs.mean() < width / 2
        words += ["at", "the", "upper" if upper else "lower", "left" if left else "right"]
    return words


def answer_attribute(image: Image, region: RegionInput, name: str) -> AttributeAnswer:
    """The answer of `ScriptedEngine` to one attribute."""
    words = describe(image, replace(region, style="long"))
    texts = {"colour": words[1], "location": " ".join(words[3:]), "age": "young"}
    status: AttributeStatus = "said" if name in texts else "abstained"
    chance = 0.9 if name in texts else 0.3
    return AttributeAnswer(name=name, status=status, text=texts.get(name), probability=chance)


def word_score(text: str, caption: set[str]) -> float:
    """`ScriptedEngine.score` of one text for a region with this caption, -4 to 4."""
    words = [word.removesuffix("s") for word in text.lower().split()]
    known = [word for word in words if word in _KNOWN_WORDS]
    return 8.0 * sum(word in caption for word in known) / max(1, len(known)) - 4.0


@dataclass
class _Row:
    row: int
    words: list[str]
    max_words: int
    said: str = ""
    count: int = 0
    ended: bool = False

    def advance(self, *, bad: bool, aborted: bool) -> Iterator[RowDelta | RowDone]:
        if bad or aborted:
            yield self._end("non_finite" if bad else "aborted")
        elif self.count == len(self.words):
            yield self._end("eos")
        elif self.count == self.max_words:
            yield self._end("length")
        else:
            text = (" " if self.said else "") + self.words[self.count]
            delta = RowDelta(row=self.row, offset=len(self.said), text=text)
            self.said, self.count = self.said + text, self.count + 1
            yield delta

    def _end(self, stop: Stop) -> RowDone:
        self.ended = True
        return RowDone(row=self.row, text=self.said, n_tok=self.count, stop=stop, score=0.5)


class EventCapture:
    """A sink that keeps every event; call it with one event or with a list."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []

    def __call__(self, events: AnyEvent | Sequence[AnyEvent]) -> None:
        """Keep the events, in order."""
        self.events.extend(events if isinstance(events, Sequence) else (events,))

    def kinds(self) -> list[str]:
        """Wire names, in order."""
        return [event_kind(event) for event in self.events]

    def of(self, *kinds: str) -> list[AnyEvent]:
        """The events of these kinds, in order."""
        return [event for event in self.events if event_kind(event) in kinds]

    def terminals(self) -> dict[int, list[str]]:
        """Terminal kinds by request id: exactly one each, if every request is accounted for."""
        found: dict[int, list[str]] = {}
        for event in self.of(*TERMINALS):
            found.setdefault(event.request_id, []).append(event_kind(event))  # type: ignore[union-attr]
        return found
