"""Operations that only read: hello, snapshot, stats, health, config.get; and `find` by words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from msgspec import Struct

from ureca.clock import Clock
from ureca.config import to_plain
from ureca.errors import RequestError
from ureca.node.captioning.engine_loader import NO_GROUNDING
from ureca.node.config import NodeConfig
from ureca.node.monitoring.health import NodeStatus, health_of
from ureca.node.sources.source_uri import without_secrets
from ureca.protocol.events import PROTOCOL_VERSION, CaptionFinal
from ureca.protocol.operations import NoArgs
from ureca.protocol.requests import FindArgs, Health, Hello, PanopticArgs
from ureca.protocol.results import (
    ConfigResult,
    FindResult,
    Found,
    PanopticResult,
    SnapshotResult,
    Stats,
)
from ureca.protocol.wire import event_to_plain

_WORD = re.compile(r"\w+")


class Answers:
    """One method per operation, by name in `table`: its arguments in, its result out. `find_words`
    is `find` where there are no weights for texts.
    """

    def __init__(
        self,
        config: NodeConfig,
        facts: NodeStatus,
        *,
        session_id: bytes,
        clock: Clock,
        ops: tuple[str, ...],
    ) -> None:
        self._config = config
        self._facts = facts
        self._session_id = session_id
        self._clock = clock
        self._ops = ops
        self.table: dict[str, Callable[[Any], Struct]] = {
            "hello": self._hello,
            "snapshot": self._snapshot,
            "stats": self._stats,
            "health": self._health,
            "config.get": self._get_config,
            "panoptic": self._panoptic,
        }

    def _hello(self, _: NoArgs) -> Hello:
        info = self._facts.info
        limits = self._config.limits
        return Hello(
            node=self._config.publish.node,
            session_id=self._session_id,
            versions=(PROTOCOL_VERSION,),
            ops=self._ops,
            streams=tuple(self._facts.heartbeat().streams),
            clk=self._clock.name,
            model=info.model,
            bundle_sha=info.bundle_sha,
            precision=info.precision,
            limits={
                "max_regions": limits.max_regions,
                "max_asks": limits.max_asks,
                "max_finds": limits.max_finds,
                "max_texts": limits.max_texts,
                "max_streams": limits.max_streams,
                "max_batch": min(info.max_regions, self._config.scheduler.max_batch),
                "max_new_tokens": info.max_new_tokens,
            },
            find_by=self._facts.find_by,
            attributes=self._facts.attributes,
        )

    def _snapshot(self, _: NoArgs) -> SnapshotResult:
        return SnapshotResult(events=tuple(map(event_to_plain, self._facts.last_events())))

    def _panoptic(self, wanted: PanopticArgs) -> PanopticResult:
        """Raises `RequestError` where there is nothing."""
        if not self._config.panoptic.on:
            why = "the node segments no whole frames: start it with --panoptic"
            raise RequestError(why, code="NO_MODEL")
        event = self._facts.panoptic(wanted.stream)
        if event is None:
            stream = wanted.stream or "any stream"
            raise RequestError(f"no frame of {stream} is segmented yet", code="NOT_FOUND")
        return PanopticResult(event=event_to_plain(event))

    def find_words(self, wanted: FindArgs) -> FindResult:
        """The way of a bundle that cannot score texts: words of captions. Raises `RequestError`
        for what this cannot do.
        """
        if wanted.where == "frame" or wanted.level is not None:
            raise RequestError(NO_GROUNDING.format(bundle=self._facts.info.model), code="NO_MODEL")
        captions = [e for e in self._facts.last_events() if isinstance(e, CaptionFinal)]
        here = [e for e in captions if wanted.stream in (None, e.stream)]
        found = matches(wanted.text, here, masks=wanted.masks)[: wanted.limit]
        return FindResult(by="caption_words", regions=tuple(found))

    def _stats(self, _: NoArgs) -> Stats:
        beat = self._facts.heartbeat()
        return Stats(
            uptime_ms=beat.uptime_ms,
            counters=beat.counters,
            streams=beat.streams,
            refused=tuple(self._facts.refused()),
        )

    def _health(self, _: NoArgs) -> Health:
        return health_of(self._facts)

    def _get_config(self, _: NoArgs) -> ConfigResult:
        source = without_secrets(self._config.source)
        return ConfigResult(config=to_plain(replace(self._config, source=source)))


def matches(text: str, captions: Iterable[CaptionFinal], *, masks: bool = False) -> list[Found]:
    """The captions that have a word of `text`, those with most of its words first. It compares
    words, not meanings: "cup" does not find a mug.
    """
    wanted = set(_WORD.findall(text.lower()))
    found = []
    for caption in captions:
        words = set(_WORD.findall(caption.text.lower()))
        score = round(len(wanted & words) / max(1, len(wanted)), 4)
        if score:
            found.append(
                Found(
                    stream=caption.stream,
                    rid=caption.rid,
                    text=caption.text,
                    score=score,
                    box=caption.box,
                    mask=caption.mask if masks else None,
                    seq=caption.src_seqs[-1],
                    captured_ns=caption.captured_ns,
                )
            )
    return sorted(found, key=lambda one: -(one.score or 0.0))
