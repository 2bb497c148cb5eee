"""The header of a recording: everything that a replay needs before the first frame."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec

from ureca.config import from_plain, to_plain
from ureca.datatypes import EngineInfo, JsonObject, RegionSeed, TextPrompt
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.recording.reader import Recording
from ureca.node.recording.recorder import FORMAT
from ureca.node.sources.prompt_file import Prompt, Prompts
from ureca.node.sources.source_uri import without_secrets
from ureca.region_inputs import NormalizedRegion

MID_RUN = "began_while_running"
"""Marks the header of a recording that began after the node."""


def head_of(config: NodeConfig, prompts: Prompts, info: EngineInfo) -> dict[str, str]:
    """What a recording begins with, for `Recorder`."""
    plain = {str(seq): msgspec.to_builtins(seeds) for seq, seeds in prompts.items()}
    return {
        "format": FORMAT,
        "config": json.dumps(to_plain(replace(config, source=without_secrets(config.source)))),
        "prompts": json.dumps(plain),
        "model": info.model,
        "bundle_sha": info.bundle_sha,
    }


def config_of(recording: Recording) -> NodeConfig:
    """The configuration that was recorded; `SourceError` where it alone is not enough to replay."""
    if MID_RUN in recording.head:
        raise SourceError(
            f"{recording.path} was begun by record.start while the node was running: its pictures, "
            "masks and events can be read, but its decisions follow from what came before and "
            "cannot be replayed. Record with: ureca run --record FILE"
        )
    try:
        plain = json.loads(recording.head["config"])
        return from_plain(NodeConfig, plain, where=str(recording.path))
    except (KeyError, ValueError, RecursionError) as error:
        raise SourceError(f"{recording.path}: no readable configuration: {error}") from error


def _prompt(plain: JsonObject) -> Prompt:
    if "corners_xy_norm" in plain:
        return msgspec.convert(plain, NormalizedRegion)
    kind: type[RegionSeed | TextPrompt] = TextPrompt if "text" in plain else RegionSeed
    return msgspec.convert(plain, kind)


def prompts_of(recording: Recording) -> Prompts:
    """The prompts that were recorded."""
    try:
        plain = json.loads(recording.head["prompts"])
        listed = msgspec.convert(plain, dict[int, tuple[JsonObject, ...]], strict=False)
        return {seq: tuple(map(_prompt, prompts)) for seq, prompts in listed.items()}
    except (KeyError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise SourceError(f"{recording.path}: no readable prompts: {error}") from error
