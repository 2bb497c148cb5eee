"""Operations that only read: hello, snapshot, find, stats, health, config.get."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from ureca.clock import Clock
from ureca.config import to_plain
from ureca.node.config import NodeConfig
from ureca.node.monitoring.health import Facts, health_of
from ureca.node.requests.replies import Plain, plain
from ureca.node.sources.source_uri import without_secrets
from ureca.protocol.events import PROTOCOL_VERSION, CaptionFinal
from ureca.protocol.messagepack import convert
from ureca.protocol.requests import FindArgs, Hello
from ureca.protocol.wire import event_to_plain

QUESTIONS = ("hello", "snapshot", "find", "stats", "health", "config.get")
_WORD = re.compile(r"\w+")


class Answers:
    """One method per question, by operation in `table`."""

    def __init__(
        self, config: NodeConfig, facts: Facts, *, boot: bytes, clock: Clock, ops: tuple[str, ...]
    ) -> None:
        self._config = config
        self._facts = facts
        self._boot = boot
        self._clock = clock
        self._ops = ops
        self.table: dict[str, Callable[[Plain], Plain]] = {
            "hello": self._hello,
            "snapshot": self._snapshot,
            "find": self._find,
            "stats": self._stats,
            "health": self._health,
            "config.get": self._get_config,
        }

    def _hello(self, _: Plain) -> Plain:
        info = self._facts.info
        limits = self._config.limits
        hello = Hello(
            node=self._config.publish.node,
            boot=self._boot,
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
        return plain(hello)

    def _snapshot(self, _: Plain) -> Plain:
        return {"events": [event_to_plain(event) for event in self._facts.last_events()]}

    def _find(self, args: Plain) -> Plain:
        wanted = convert(args, FindArgs, "find")
        captions = [e for e in self._facts.last_events() if isinstance(e, CaptionFinal)]
        here = [e for e in captions if wanted.stream in (None, e.stream)]
        return {"by": "caption_words", "regions": matches(wanted.text, here)[: wanted.limit]}

    def _stats(self, _: Plain) -> Plain:
        beat = self._facts.heartbeat()
        facts = {"uptime_ms": beat.uptime_ms, "counters": beat.counters, "streams": beat.streams}
        return {**facts, "refused": self._facts.refused()}

    def _health(self, _: Plain) -> Plain:
        return plain(health_of(self._facts))

    def _get_config(self, _: Plain) -> Plain:
        source = without_secrets(self._config.source)
        return {"config": to_plain(replace(self._config, source=source))}


def matches(text: str, captions: Iterable[CaptionFinal]) -> list[Plain]:
    """The captions that have a word of `text`, those with most of its words first. It compares
    words, not meanings: "cup" does not find a mug.
    """
    wanted = set(_WORD.findall(text.lower()))
    found = []
    for caption in captions:
        words = set(_WORD.findall(caption.text.lower()))
        score = round(len(wanted & words) / max(1, len(wanted)), 4)
        if score:
            place = {"stream": caption.stream, "rid": caption.rid}
            found.append({**place, "text": caption.text, "score": score})
    return sorted(found, key=lambda one: -float(one["score"]))
