"""The options of `ureca run`, and the configuration that they make."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ureca.config import load_config
from ureca.errors import SourceError
from ureca.node.captioning.engine_loader import demo_clip
from ureca.node.cli.region_options import add_region_options, seed_of
from ureca.node.config import NodeConfig
from ureca.node.sources.prompt_file import Prompts, first_frame_mask, load_prompts
from ureca.node.sources.source_uri import sources_of


def build_parser() -> argparse.ArgumentParser:
    """The options of `ureca run`."""
    parser = argparse.ArgumentParser(
        prog="ureca run",
        description="Run the node: follow regions of a camera or clip and publish their captions.",
        epilog="examples: ureca run --source clip.mp4 --box 40,30,200,180 --point 320,200; "
        "ureca run --source clip.mp4 --prompts prompts.json --duration 30; "
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
    add_region_options(parser, of=", on the first picture")
    parser.add_argument("--bundle", metavar="DIR", help="the captioner [the shipped one]")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--events", metavar="FILE", help="write every event as one JSON line")
    parser.add_argument(
        "--record", metavar="FILE", help="record everything as MCAP, for Foxglove and ureca replay"
    )
    parser.add_argument(
        "--render", metavar="OUT.mp4", help="write the video with masks and captions drawn on it"
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
        caption=replace(config.caption, style=options.style or config.caption.style),
        http=replace(config.http, port=options.http or config.http.port),
    )
    config, prompts = _with_defaults(config)
    drawn = tuple(seed_of(kind, text) for kind, text in options.region)
    return config, {**prompts, 0: (*drawn, *prompts.get(0, ()))} if drawn else prompts


def _with_defaults(config: NodeConfig) -> tuple[NodeConfig, Prompts]:
    """Without a source the demo clip plays; without prompts a clip's own first mask is followed."""
    if not config.source.uri:
        demo = demo_clip()
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
            prompts=config.prompts or str(prompts),
        )
    if config.prompts:
        return config, load_prompts(config.prompts)
    return config, first_frame_mask(Path(config.source.uri))
