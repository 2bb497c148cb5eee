"""`ureca run`: configure, open, run until the source ends or a signal comes, summarise."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ureca.clock import Clock, MonotonicClock
from ureca.config import load_config
from ureca.engine import Engine
from ureca.errors import ConfigError, SourceError
from ureca.log import configure
from ureca.node.captioning.engine_loader import demo_clip, open_engine
from ureca.node.cli.region_options import add_region_options, seed_of
from ureca.node.cli.signals import Signals
from ureca.node.cli.viewer_process import viewed
from ureca.node.config import NodeConfig
from ureca.node.http_config import HttpConfig
from ureca.node.monitoring.http_server import StatusServer
from ureca.node.monitoring.memory_trim import one_arena, settled
from ureca.node.monitoring.metrics import Metrics
from ureca.node.monitoring.run_report import EventFile, RunReport, line_printer
from ureca.node.monitoring.terminal_view import TerminalView
from ureca.node.node import Node
from ureca.node.publishing.publisher import Sink
from ureca.node.recording.header import head_of
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.rendering.renderer import Renderer
from ureca.node.sources.prompt_file import Prompts, first_frame_mask, load_prompts
from ureca.node.sources.source_uri import sources_of

_DRAW_S = 0.125
RENDER_FPS = 24.0


def main(
    argv: Sequence[str] | None = None, *, engine_of: Callable[[str], Engine] = open_engine
) -> int:
    """Run the node; returns 0 after an orderly end. Raises deliberate errors for the command line.

    `engine_of` opens the engine of a bundle folder; tests pass a scripted one.
    """
    options = _parser().parse_args(argv)
    one_arena()
    configure("warning" if options.quiet else "info")
    config, prompts = _configured(options)
    clock = MonotonicClock()
    report = RunReport()
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        sinks: list[Sink] = [report]
        if options.events:
            sinks.append(stack.enter_context(contextlib.closing(EventFile(Path(options.events)))))
        view = TerminalView(clock) if sys.stdout.isatty() and not options.quiet else None
        if view is not None:
            sinks.append(view)
        elif not options.quiet:
            sinks.append(line_printer(lambda line: print(line, flush=True)))
        engine = engine_of(config.bundle)
        recorder = _recorder(options, head_of(config, prompts, engine.info), clock)
        if recorder is not None:
            sinks.append(stack.enter_context(contextlib.closing(recorder)))
        renderer = _renderer(options, config)
        if renderer is not None:
            sinks.append(stack.enter_context(contextlib.closing(renderer)))
        metrics = Metrics() if config.http.port else None
        if metrics is not None:
            sinks.append(metrics)
        node = Node(
            config,
            engine,
            clock=clock,
            prompts=prompts,
            sinks=sinks,
            recorder=recorder,
            renderer=renderer,
        )
        started_ns = clock.now_ns()
        with node, _served(config.http, node, metrics):
            signals.stop_on_signal(node)
            stack.enter_context(settled())
            node.start()
            stack.enter_context(viewed(options.view, config))
            _show(node, view, options.duration)
        seconds = (clock.now_ns() - started_ns) / 1e9
    print(report.text(node.balance(), seconds=seconds), flush=True)
    if recorder is not None and recorder.failure is not None:
        print(f"record    {recorder.failure}", flush=True)
    if renderer is not None:
        print(f"render    {renderer.text()}", flush=True)
    if node.failure is not None:
        raise node.failure
    return 0


def _recorder(
    options: argparse.Namespace, head: dict[str, str], clock: Clock
) -> Recorder | RecordSwitch | None:
    """What records from the start on, or whenever a client says so, or both."""
    folder = Path(options.record_dir or ".")
    if not folder.is_dir():
        raise ConfigError(f"--record-dir: there is no folder {folder}; make it first")
    path = Path(options.record) if options.record else None
    first = None if path is None else Recorder(path, clock=clock, head=head)
    if not options.record_dir:
        return first
    return RecordSwitch(folder, clock=clock, head=head, first=first)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca run",
        description="Run the node: follow regions of a camera or clip and publish their captions.",
        epilog="examples: ureca run --source clip.mp4 --box 40,30,200,180 --point 320,200; "
        "ureca run --source clip.mp4 --prompts prompts.json --duration 30; "
        "ureca run --source 'front=v4l2:///dev/video0?width=1280&height=720' --source "
        "rear=rtsp://192.168.1.9/stream1",
    )
    parser.add_argument("--config", metavar="YAML", help="overrides of the defaults")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="one override; repeatable"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[NAME=]URI",
        help="video file, folder or tar of pictures, v4l2:///dev/video0, rtsp://…, http://…, "
        "zmq+tcp://HOST:PORT (connects) or credit+tcp://HOST:PORT (binds); repeatable, "
        "docs/sources.md [the demo clip]",
    )
    parser.add_argument("--fps", type=float, help="pictures per second of a folder or tar [24]")
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
        "--no-realtime", action="store_true", help="process every frame, as fast as it goes"
    )
    parser.add_argument(
        "--record-dir", metavar="DIR", help="let clients record into DIR (record.start, .stop)"
    )
    parser.add_argument(
        "--http", type=int, metavar="PORT", help="serve /metrics and /healthz on 127.0.0.1:PORT"
    )
    parser.add_argument("--loop", action="store_true", help="begin again when the clip ends")
    parser.add_argument(
        "--view",
        nargs="?",
        type=int,
        const=8600,
        metavar="PORT",
        help="show it in the browser on this port [8600]; see ureca view --help",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the summary")
    parser.add_argument("--style", choices=("short", "long"), help="a noun phrase or a sentence")
    return parser


def _configured(options: argparse.Namespace) -> tuple[NodeConfig, Prompts]:
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


def _renderer(options: argparse.Namespace, config: NodeConfig) -> Renderer | None:
    if not options.render:
        return None
    return Renderer(
        Path(options.render),
        fps=config.source.fps or RENDER_FPS,
        lossless=not config.source.realtime,
    )


def _show(node: Node, view: TerminalView | None, duration_s: float | None) -> None:
    """Wait for the end, drawing if there is a view; after `duration_s` ask for it."""
    clock = MonotonicClock()
    end_ns = None if duration_s is None else clock.now_ns() + int(duration_s * 1e9)
    with view if view is not None else contextlib.nullcontext():
        while not node.wait(_DRAW_S):
            if end_ns is not None and clock.now_ns() >= end_ns:
                node.stop()
                end_ns = None
            if view is not None:
                view.draw(node.balance(), node.state)


@contextlib.contextmanager
def _served(config: HttpConfig, node: Node, metrics: Metrics | None) -> Iterator[None]:
    """`/metrics` and `/healthz`, where they are wanted."""
    if metrics is None:
        yield
        return
    with StatusServer(config.host, config.port, node, metrics):
        yield
