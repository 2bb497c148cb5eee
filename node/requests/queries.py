"""Operations that only read: hello, snapshot, find, stats, health, config.get."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from msgspec import Struct

from ureca.clock import Clock
from ureca.config import to_plain
from ureca.node.config import NodeConfig
from ureca.node.monitoring.health import NodeStatus, health_of
from ureca.node.sources.source_uri import without_secrets
from ureca.protocol.events import PROTOCOL_VERSION, CaptionFinal
from ureca.protocol.operations import NoArgs
from ureca.protocol.requests import FindArgs, Health, Hello
from ureca.protocol.results import ConfigResult, FindResult, Found, SnapshotResult, Stats
from ureca.protocol.wire import event_to_plain

_WORD = re.compile(r"\w+")


class Answers:
    """One method per operation, by name in `table`: its arguments in, its result out."""

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
            "find": self._find,
            "stats": self._stats,
            "health": self._health,
            "config.get": self._get_config,
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
                "max_streams": limits.max_streams,
                "max_batch": min(info.max_regions, self._config.scheduler.max_batch),
                "max_new_tokens": info.max_new_tokens,
            },
        )

    def _snapshot(self, _: NoArgs) -> SnapshotResult:
        return SnapshotResult(events=tuple(map(event_to_plain, self._facts.last_events())))

    def _find(self, wanted: FindArgs) -> FindResult:
        captions = [e for e in self._facts.last_events() if isinstance(e, CaptionFinal)]
        here = [e for e in captions if wanted.stream in (None, e.stream)]
        found = matches(wanted.text, here)[: wanted.limit]
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


def matches(text: str, captions: Iterable[CaptionFinal]) -> list[Found]:
    """The captions that have a word of `text`, those with most of its words first. It compares
    words, not meanings: "cup" does not find a mug.
    """
    wanted = set(_WORD.findall(text.lower()))
    found = []
    for caption in captions:
        words = set(_WORD.findall(caption.text.lower()))
        score = round(len(wanted & words) / max(1, len(wanted)), 4)
        if score:
            place = {"stream": caption.stream or "", "rid": caption.rid}
            found.append(Found(**place, text=caption.text, score=score))
    return sorted(found, key=lambda one: -one.score)
