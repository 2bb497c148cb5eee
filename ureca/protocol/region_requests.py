"""The arguments of requests that change regions, prompts and policies."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ureca.datatypes import Level, Style
from ureca.protocol.region_codec import Label, WireRegion
from ureca.protocol.requests import FindText, Where

Milliseconds = Annotated[int, Meta(ge=100, le=3_600_000)]
WireTrigger = Literal["new", "recovered", "change", "refresh"]


class PolicyPatch(Struct, frozen=True, kw_only=True):
    """Changes of a policy: omitted keys stay, null resets to the default."""

    ttl_ms: Milliseconds | UnsetType | None = UNSET
    min_interval_ms: Annotated[int, Meta(ge=0, le=3600000)] | UnsetType | None = UNSET
    max_interval_ms: Milliseconds | UnsetType | None = UNSET
    triggers: Annotated[tuple[WireTrigger, ...], Meta(max_length=4)] | UnsetType | None = UNSET
    max_new_tokens: Annotated[int, Meta(ge=1, le=1024)] | UnsetType | None = UNSET
    style: Style | UnsetType | None = UNSET
    min_confidence: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET
    """Captions with a lower confidence are published as `unsure`."""


class PolicyArgs(Struct, frozen=True, kw_only=True):
    """`policy.set`: for one region, or for all regions of a stream without a value of their own."""

    stream: str
    rid: str | None = None
    policy: PolicyPatch


class PromptArgs(Struct, frozen=True, kw_only=True):
    """`prompt.set`: the prompt for a region, or for all regions of a stream."""

    stream: str
    rid: str | None = None
    prompt: Style


class RegionAddArgs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`region.add`: follow a region from the stream's newest frame on; or what `text` is true of.

    Exactly one of `region` and `text`. `where` and `level` are those of `find`. `standing` asks
    again until the text is found. An answer that is followed already gets `label` (the text, if
    None).
    """

    stream: str
    region: WireRegion | None = None
    text: FindText | None = None
    label: Label | None = None
    standing: bool = False
    where: Where | None = None
    level: Level | None = None
    policy: PolicyPatch | None = None

    def __post_init__(self) -> None:
        if (self.region is None) == (self.text is None):
            raise ValueError("expected exactly one of 'region' and 'text'")
        if self.text is None and (self.standing or self.where or self.level or self.label):
            raise ValueError("'standing', 'where', 'level' and 'label' belong to a 'text'")


class RegionUpdateArgs(Struct, frozen=True, kw_only=True):
    """`region.update`: set where a region is on the stream's newest frame."""

    stream: str
    rid: str
    region: WireRegion


class RegionRemoveArgs(Struct, frozen=True, kw_only=True):
    """`region.remove`: stop following a region."""

    stream: str
    rid: str


class RegionListArgs(Struct, frozen=True, kw_only=True):
    """`region.list`: all regions of a stream."""

    stream: str


class CancelArgs(Struct, frozen=True, kw_only=True):
    """`cancel`: `id` is that of a `describe`, `find` or `region.add` of the same client."""

    id: Annotated[bytes, Meta(min_length=1, max_length=16)]


class PauseArgs(Struct, frozen=True, kw_only=True):
    """`pause`: start only requested captions; regions are still followed."""


class DrainArgs(Struct, frozen=True, kw_only=True):
    """`drain`: start no captions at all; accepted ones are finished."""


class ResumeArgs(Struct, frozen=True, kw_only=True):
    """`resume`: caption again after `pause` or `drain`."""
