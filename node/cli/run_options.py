"""The options of `ureca run`, and the configuration that they make."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from ureca.config import load_config
from ureca.datatypes import TextPrompt
from ureca.engine import Engine, is_remote
from ureca.errors import ConfigError, SourceError
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.node.cli.region_options import (
    BUNDLE_HELP,
    add_person_words,
    add_region_options,
    seeds_of,
)
from ureca.node.config import NodeConfig
from ureca.node.pipeline.text_questions import NOTHING_TO_ASK
from ureca.node.segmentation.factory import resolve_segmenter
from ureca.node.sources.prompt_file import Prompts, first_frame_mask, load_prompts
from ureca.node.sources.source_uri import addresses_of, path_of, sources_of

_log = logging.getLogger(__name__)
_MARGIN_S = 1.0
"""Between the end of a server's time and the request's deadline."""

_PANOPTIC = "segment whole frames: every pixel belongs to a region, and every region is captioned"


def build_parser() -> argparse.ArgumentParser:
    """The options of `ureca run`."""
    parser = argparse.ArgumentParser(
        prog="ureca run",
        description="Run the node: follow regions of a camera or clip and publish their captions.",
        epilog="examples: ureca run --source clip.mp4 --box 40,30,200,180 --point 320,200; "
        "ureca run --source clip.mp4 --prompts prompts.json --bundle server.yaml; "
        "ureca run --auto --view --source v4l2:///dev/video0; "
        "ureca run --source 'front=v4l2:///dev/video0?width=1280&height=720' --source "
        "rear=rtsp://192.168.1.9/stream1",
    )
    parser.add_argument("--config", metavar="YAML", help="YAML file that overrides defaults")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        help="override one setting; repeatable",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[NAME=]URI",
        help="video file, folder or tar of images, v4l2:///dev/video0, rtsp://…, http://…, "
        "zmq+tcp://HOST:PORT (connects) or credit+tcp://HOST:PORT (binds); repeatable, "
        "docs/sources.md [the demo clip]",
    )
    parser.add_argument("--fps", type=float, help="images per second of a folder or tar [24]")
    parser.add_argument("--prompts", metavar="FILE", help="JSON list of regions to follow")
    add_region_options(parser, of=", on the first image")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="TEXT",
        help="look for this until it is found, and name its region by it; repeatable",
    )
    parser.add_argument(
        "--auto",
        action="store_true",
        help="find things without being told: the largest and surest first, new ones as they come",
    )
    parser.add_argument("--panoptic", action="store_true", help=_PANOPTIC)
    parser.add_argument("--bundle", metavar="DIR|YAML", help=BUNDLE_HELP)
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--events", metavar="FILE", help="write every event as one JSON line")
    parser.add_argument(
        "--record", metavar="FILE", help="record everything as MCAP, for Foxglove and ureca replay"
    )
    parser.add_argument("--overwrite", action="store_true", help="--record may replace a file")
    parser.add_argument(
        "--render", metavar="OUT.mp4", help="write the video with masks or segments, and captions"
    )
    parser.add_argument(
        "--no-realtime", action="store_true", help="process every frame, as fast as possible"
    )
    parser.add_argument(
        "--record-dir",
        metavar="DIR",
        help="clients may record into DIR (record.start, record.stop)",
    )
    parser.add_argument(
        "--http", type=int, metavar="PORT", help="serve /metrics and /healthz on 127.0.0.1:PORT"
    )
    parser.add_argument("--loop", action="store_true", help="repeat the clip")
    parser.add_argument(
        "--view",
        nargs="?",
        type=int,
        const=8600,
        metavar="PORT",
        help="serve the viewer page on this port [8600]; see ureca view --help",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the summary")
    parser.add_argument(
        "--style", choices=("short", "long"), help="short: a noun phrase; long: a sentence"
    )
    add_person_words(parser)
    return parser


def resolve_config(options: argparse.Namespace) -> tuple[NodeConfig, Prompts]:
    """Resolve the configuration and the prompts from the options and the defaults."""
    config = load_config(NodeConfig, options.config, options.set)
    source = replace(
        sources_of(options.source, config.source),
        fps=config.source.fps if options.fps is None else options.fps,
        realtime=config.source.realtime and not options.no_realtime,
        loop=config.source.loop or options.loop,
    )
    config = replace(
        config,
        source=source,
        bundle=options.bundle or config.bundle,
        prompts=options.prompts or config.prompts,
        caption=replace(
            config.caption,
            style=options.style or config.caption.style,
            person_words=options.person_words or config.caption.person_words,
        ),
        http=replace(config.http, port=options.http or config.http.port),
        grounding=replace(
            config.grounding,
            texts=tuple(dict.fromkeys((*config.grounding.texts, *options.text))),
        ),
        segmenter=replace(config.segmenter, everything=config.segmenter.everything or options.auto),
        panoptic=replace(config.panoptic, on=config.panoptic.on or options.panoptic),
    )
    drawn = tuple(seed for kind, text in options.region for seed in seeds_of(kind, text))
    is_auto = options.auto or config.panoptic.on
    has_own = is_auto or bool(drawn)
    config, prompts = _with_defaults(config, is_auto=is_auto, has_own=has_own)
    if drawn:
        prompts = {**prompts, 0: (*drawn, *prompts.get(0, ()))}
    return config, prompts


def settle_segmenter(config: NodeConfig, prompts: Prompts, bundle: Path | None) -> NodeConfig:
    """The configuration with its segmenter decided (`resolve_segmenter`). Raises `ConfigError` when
    nothing can be found without one.
    """
    config = replace(config, segmenter=resolve_segmenter(config.segmenter, bundle))
    _check_texts(config, prompts)
    return config


def settle_deadline(config: NodeConfig, engine: Engine) -> NodeConfig:
    """The configuration with a `scheduler.deadline_s` that leaves a server its time to answer."""
    if not is_remote(engine):
        return config
    needed_s = engine.answers_within_s + _MARGIN_S
    if config.scheduler.deadline_s >= needed_s:
        return config
    _log.info("scheduler.deadline_s is %g: the server may take timeout_s", needed_s)
    return replace(config, scheduler=replace(config.scheduler, deadline_s=needed_s))


def _check_texts(config: NodeConfig, prompts: Prompts) -> None:
    """A text needs something that it may be true of. Raises `ConfigError` with the remedy."""
    listed = [one for prompt in prompts.values() for one in prompt]
    has_texts = config.grounding.texts or any(isinstance(one, TextPrompt) for one in listed)
    has_regions = any(not isinstance(one, TextPrompt) for one in listed)
    uris = (config.source.uri, *config.source.also)
    may_have_masks = any(mark in uri for uri in uris for mark in ("zmq+", "credit+"))
    if has_texts and not (config.segmenter.is_on or has_regions or may_have_masks):
        text = config.grounding.texts[0] if config.grounding.texts else "of the prompts"
        raise ConfigError(f"the text {text!r}: {NOTHING_TO_ASK}")


def _with_defaults(
    config: NodeConfig, *, is_auto: bool, has_own: bool
) -> tuple[NodeConfig, Prompts]:
    """Without a source the demo clip plays; without prompts a clip's own first mask is followed,
    unless the user gives regions (`has_own`) or the things are to be found.
    """
    if not config.source.uri:
        demo = find_demo_clip()
        if demo is None:
            raise SourceError(
                "no source, and no demo clip here: name a camera or clip, such as\n"
                "    ureca run --source v4l2:///dev/video0\n"
                "    ureca run --source clip.mp4 --prompts prompts.json\n"
                "or install the captioner with its demo clip: pip install 'ureca[nano]'"
            )
        clip, prompts = demo
        config = replace(
            config,
            source=replace(config.source, uri=str(clip)),
            prompts=config.prompts or ("" if is_auto else str(prompts)),
        )
    if config.prompts:
        return config, load_prompts(config.prompts)
    if has_own:
        return config, {}
    played = path_of(addresses_of(config.source)[0].uri)
    found = first_frame_mask(played)
    if found:
        _log.info("%s: its first mask (masks/) is followed as the region `object`", played)
    return config, found
