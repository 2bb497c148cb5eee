"""When the prompts that a node is started with begin: on the first image of their stream that was
received and decoded, at or after their frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ureca.datatypes import Frame, RegionSeed, TextPrompt
from ureca.node.monitoring.prompt_report import PromptReport
from ureca.node.sources.prompt_file import Prompt, Prompts
from ureca.region_inputs import NormalizedRegion

_MAX_STREAMS = 1024
_Place = int
"""Of a prompt among all of them."""


@dataclass(slots=True)
class _Session:
    session_id: bytes
    waiting: list[tuple[int, _Place]]
    """Frames and prompts, in the order of the frames."""


@dataclass
class StartPrompts:
    """Hands each prompt out once per stream and session; for one thread, `report` for any."""

    prompts: Prompts
    _flat: tuple[tuple[int, Prompt], ...] = field(init=False)
    _sessions: dict[str, _Session] = field(init=False, default_factory=dict)
    _begun: set[_Place] = field(init=False, default_factory=set)
    _refused: dict[_Place, str] = field(init=False, default_factory=dict)
    _handed: list[_Place] = field(init=False, default_factory=list)
    _newest_seq: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._flat = tuple((at, one) for at in sorted(self.prompts) for one in self.prompts[at])

    def due(self, frame: Frame) -> tuple[RegionSeed | TextPrompt, ...]:
        """The prompts that begin on `frame`: those of earlier frames that never came, too."""
        self._newest_seq = max(frame.seq, self._newest_seq or 0)
        self._handed = []
        if not self._flat:
            return ()
        session = self._sessions.get(frame.stream)
        if session is None or session.session_id != frame.session_id:
            if session is None and len(self._sessions) >= _MAX_STREAMS:
                return ()
            listed = [(at, place) for place, (at, _) in enumerate(self._flat)]
            session = self._sessions[frame.stream] = _Session(frame.session_id, listed)
        while session.waiting and session.waiting[0][0] <= frame.seq:
            self._handed.append(session.waiting.pop(0)[1])
        return tuple(self._on(frame, self._flat[place][1]) for place in self._handed)

    @staticmethod
    def _on(frame: Frame, one: Prompt) -> RegionSeed | TextPrompt:
        return one.seed(frame.width, frame.height) if isinstance(one, NormalizedRegion) else one

    def note(self, kind: type[RegionSeed | TextPrompt], refusals: Sequence[str | None]) -> None:
        """What became of the prompts of a kind that the last `due` gave, in their order: None for
        one that began.
        """
        wants_texts = kind is TextPrompt
        places = [
            n for n in self._handed if isinstance(self._flat[n][1], TextPrompt) == wants_texts
        ]
        for place, refusal in zip(places, refusals, strict=True):
            if refusal is None:
                self._begun.add(place)
                self._refused.pop(place, None)
            elif place not in self._begun:
                self._refused[place] = refusal

    def report(self) -> PromptReport:
        """What became of all of them so far."""
        begun, refused = set(self._begun), dict(self._refused)
        rest = range(len(self._flat))
        waiting = tuple(self._flat[n][0] for n in rest if n not in begun and n not in refused)
        return PromptReport(
            len(self._flat), len(begun), tuple(refused.values()), waiting, self._newest_seq
        )
