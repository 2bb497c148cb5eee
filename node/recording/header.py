"""What a recording begins with: all that a replay must know before the first frame."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec

from ureca.config import from_plain, to_plain
from ureca.datatypes import EngineInfo, RegionSeed
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.recording.reader import Recording
from ureca.node.recording.recorder import FORMAT
from ureca.node.sources.prompt_file import Prompts
from ureca.node.sources.source_uri import without_secrets

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
    except (KeyError, ValueError) as error:
        raise SourceError(f"{recording.path}: no readable configuration: {error}") from error


def prompts_of(recording: Recording) -> Prompts:
    """The prompts that were recorded."""
    try:
        plain = json.loads(recording.head["prompts"])
        return msgspec.convert(plain, dict[int, tuple[RegionSeed, ...]], strict=False)
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise SourceError(f"{recording.path}: no readable prompts: {error}") from error
