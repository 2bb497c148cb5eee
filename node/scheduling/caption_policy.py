"""The policy of regions: the node's configuration, overridden per stream and per region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ureca.datatypes import Style, Trigger
from ureca.errors import RequestError
from ureca.node.config import CaptionConfig, SchedulerConfig
from ureca.protocol.region_requests import PolicyPatch

TRIGGERS = frozenset({Trigger.NEW, Trigger.RECOVERED, Trigger.CHANGE, Trigger.REFRESH})
"""The triggers that may start a caption; direct requests always may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a region is captioned, how long the caption is valid, and its style.

    Intervals may end a quarter early, together with those of other regions
    (`recorded_requests.has_passed`).
    """

    ttl_ms: int
    """How long a consumer may act on a caption."""
    min_interval_ms: int
    """CHANGE does not cause a caption sooner than this, and is not checked more often. Two checks
    in a row that agree make a change.
    """
    max_interval_ms: int
    """After this a caption is checked: renewed if it is still valid, else generated again."""
    triggers: frozenset[Trigger]
    max_new_tokens: int
    style: Style
    min_confidence: float
    """Captions with a lower confidence, 0..1, are `unsure`."""

    def __post_init__(self) -> None:
        if self.min_interval_ms > self.max_interval_ms:
            raise RequestError(
                f"expected min_interval_ms of at most max_interval_ms, got {self.min_interval_ms} "
                f"and {self.max_interval_ms}; set both",
                code="BAD_SCHEMA",
            )

    @classmethod
    def of(cls, scheduler: SchedulerConfig, caption: CaptionConfig) -> Policy:
        """The policy of regions for which none was set."""
        return cls(
            ttl_ms=caption.ttl_ms,
            min_interval_ms=round(scheduler.min_interval_s * 1e3),
            max_interval_ms=round(scheduler.refresh_s * 1e3),
            triggers=TRIGGERS,
            max_new_tokens=caption.max_new_tokens,
            style=caption.style,
            min_confidence=caption.min_confidence,
        )

    @property
    def min_interval_ns(self) -> int:
        """`min_interval_ms` in nanoseconds."""
        return self.min_interval_ms * 1_000_000

    @property
    def max_interval_ns(self) -> int:
        """`max_interval_ms` in nanoseconds."""
        return self.max_interval_ms * 1_000_000


def plain_policy(policy: Policy) -> dict[str, Any]:
    """A policy as the protocol has it."""
    plain: dict[str, Any] = msgspec.to_builtins(policy)
    return {**plain, "triggers": sorted(plain["triggers"])}


Override = dict[str, Any]
"""Fields of a `Policy` that were set."""


class Policies:
    """The policies of one stream's regions; a region's own values go before its stream's."""

    def __init__(self, default: Policy) -> None:
        self._default = default
        self._stream: Override = {}
        self._own: dict[str, Override] = {}

    def of(self, rid: str | None) -> Policy:
        """The policy of a region, or of those for which none was set."""
        own = self._own.get(rid, {}) if rid is not None else {}
        return replace(self._default, **{**self._stream, **own})

    def set(self, rid: str | None, patch: PolicyPatch) -> None:
        """Change a region's policy, or the stream's. Raises `RequestError` when an interval would
        be empty, and then changes nothing.
        """
        stream, own = self._stream, dict(self._own)
        if rid is None:
            stream = _merged(stream, patch)
        else:
            own[rid] = _merged(own.get(rid, {}), patch)
        for override in ({}, *own.values()):
            replace(self._default, **{**stream, **override})
        self._stream, self._own = stream, own

    def check(self, patch: PolicyPatch) -> Override:
        """What `patch` would override for a region; raises `RequestError` when it cannot."""
        own = _merged({}, patch)
        replace(self._default, **{**self._stream, **own})
        return own

    def put(self, rid: str, own: Override) -> None:
        """Give a new region the override that was checked before it began."""
        self._own[rid] = own

    def forget(self, rid: str) -> None:
        """Ids are never used again: drop what was set for one that ended."""
        self._own.pop(rid, None)


def _merged(override: Override, patch: PolicyPatch) -> Override:
    """`override` with the keys of `patch`; null goes back to the default."""
    given = {key: getattr(patch, key) for key in patch.__struct_fields__}
    given = {key: value for key, value in given.items() if value is not msgspec.UNSET}
    if given.get("triggers") is not None:
        given["triggers"] = frozenset(map(Trigger, given["triggers"]))
    return {key: value for key, value in {**override, **given}.items() if value is not None}
