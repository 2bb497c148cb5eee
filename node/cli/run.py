"""`ureca run`: configure, open, run until the source ends or a signal arrives, summarise."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ureca.clock import Clock, MonotonicClock
from ureca.engine import Engine, is_remote
from ureca.errors import ConfigError
from ureca.log import configure
from ureca.node.annotated_video.renderer import Renderer
from ureca.node.captioning.engine_loader import find_bundle_of, open_engine, open_grounder
from ureca.node.cli.run_options import (
    build_parser,
    resolve_config,
    settle_deadline,
    settle_segmenter,
)
from ureca.node.cli.signals import Signals
from ureca.node.cli.viewer_process import run_viewer
from ureca.node.config import HttpConfig, NodeConfig
from ureca.node.monitoring.http_server import StatusServer
from ureca.node.monitoring.memory_trim import frozen_gc, one_arena
from ureca.node.monitoring.metrics import PrometheusMetrics
from ureca.node.monitoring.prompt_report import UNUSED_AFTER_S
from ureca.node.monitoring.run_report import EventFile, RunReport, is_failure, line_printer
from ureca.node.monitoring.terminal_view import TerminalView
from ureca.node.node import Node
from ureca.node.recording.header import head_of
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.sources.source_uri import addresses_of, hide_secrets
from ureca.protocol.events import EventSink

_DRAW_S = 0.125
_log = logging.getLogger(__name__)
RENDER_FPS = 24.0


def main(
    argv: Sequence[str] | None = None, *, engine_of: Callable[[str], Engine] = open_engine
) -> int:
    """Run the node; returns 0 after an orderly end. Raises deliberate errors for the command line.

    `engine_of` opens the engine of a bundle folder; tests pass a scripted one.
    """
    options = build_parser().parse_args(argv)
    one_arena()
    configure("warning" if options.quiet else "info")
    config, prompts = resolve_config(options)
    clock = MonotonicClock()
    report = RunReport(config.grounding.texts)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        engine = engine_of(config.bundle)
        config = settle_segmenter(config, prompts, find_bundle_of(engine, config.bundle))
        config = settle_deadline(config, engine)
        sinks: list[EventSink] = [report]
        if options.events:
            sinks.append(stack.enter_context(contextlib.closing(EventFile(Path(options.events)))))
        view = TerminalView(clock) if sys.stdout.isatty() and not options.quiet else None
        if view is not None:
            sinks.append(view)
        elif not options.quiet:
            sinks.append(line_printer(lambda line: print(line, flush=True)))
        grounder = open_grounder(engine, config.bundle)
        recorder = _recorder(options, head_of(config, prompts, engine.info), clock)
        if recorder is not None:
            sinks.append(stack.enter_context(contextlib.closing(recorder)))
        renderer = _renderer(options, config)
        if renderer is not None:
            sinks.append(stack.enter_context(contextlib.closing(renderer)))
        metrics = PrometheusMetrics() if config.http.port else None
        if metrics is not None:
            sinks.append(metrics)
        node = Node(
            config,
            engine,
            clock=clock,
            prompts=prompts,
            grounder=grounder,
            sinks=sinks,
            recorder=recorder,
            renderer=renderer,
        )
        started_ns = clock.now_ns()
        with node, _served(config.http, node, metrics):
            signals.stop_on_signal(node)
            stack.enter_context(frozen_gc())
            node.start()
            stack.enter_context(run_viewer(options.view, config))
            _show(node, view, options.duration)
            reasons = node.reasons()
        seconds = (clock.now_ns() - started_ns) / 1e9
    found = node.found_things().lines(config) if config.segmenter.everything else ()
    balance, prompts_report = node.balance(), node.prompt_report()
    summary = report.text(
        balance,
        seconds=seconds,
        found=found,
        prompts=prompts_report,
        sources=[*_sources(config), *reasons],
    )
    for line in (summary, *_last_lines(recorder, renderer, engine)):
        print(line, flush=True)
    if node.failure is not None:
        raise node.failure
    return 2 if is_failure(balance, prompts_report) else 0


def _last_lines(
    recorder: Recorder | RecordSwitch | None, renderer: Renderer | None, engine: Engine
) -> Iterator[str]:
    """What the summary says besides the node: the files that were written, and the server."""
    if recorder is not None and recorder.failure is not None:
        yield f"record    {recorder.failure}"
    if renderer is not None:
        yield f"render    {renderer.text()}"
    if is_remote(engine):
        yield f"server    {engine.summarise()}"


def _sources(config: NodeConfig) -> list[str]:
    return [f"from {hide_secrets(one.uri)}" for one in addresses_of(config.source)]


def _recorder(
    options: argparse.Namespace, head: dict[str, str], clock: Clock
) -> Recorder | RecordSwitch | None:
    """What records from the start on, or whenever a client says so, or both."""
    folder = Path(options.record_dir or ".")
    if not folder.is_dir():
        raise ConfigError(f"--record-dir: there is no folder {folder}; make it first")
    path = Path(options.record) if options.record else None
    if path is not None and not options.overwrite and path.is_file() and path.stat().st_size:
        raise ConfigError(
            f"--record: {path} exists; give another name, or --overwrite to lose what is in it"
        )
    first = None if path is None else Recorder(path, clock=clock, head=head)
    if not options.record_dir:
        return first
    return RecordSwitch(folder, clock=clock, head=head, first=first)


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
    late_ns: int | None = clock.now_ns() + int(UNUSED_AFTER_S * 1e9)
    end_ns = None if duration_s is None else clock.now_ns() + int(duration_s * 1e9)
    with view if view is not None else contextlib.nullcontext():
        while not node.wait(_DRAW_S):
            if end_ns is not None and clock.now_ns() >= end_ns:
                node.stop()
                end_ns = None
            if late_ns is not None and clock.now_ns() >= late_ns:
                late_ns = None
                for line in node.prompt_report().waiting_lines():
                    _log.warning("%s", line)
            if view is not None:
                view.draw(node.balance(), node.state, node.reasons())


@contextlib.contextmanager
def _served(config: HttpConfig, node: Node, metrics: PrometheusMetrics | None) -> Iterator[None]:
    """`/metrics` and `/healthz`, where they are wanted."""
    if metrics is None:
        yield
        return
    with StatusServer(config.host, config.port, node, metrics):
        yield
