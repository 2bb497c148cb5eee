"""Builds the parts of a node and connects them; starts nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ureca.clock import Clock
from ureca.engine import Engine
from ureca.errors import BundleError
from ureca.models.runtime.grounding import Grounder
from ureca.node.annotated_video.renderer import Renderer
from ureca.node.captioning.batch import BatchCaptioner
from ureca.node.captioning.batch_captioner import CaptionWriter, ThreadCaptioner
from ureca.node.captioning.engine_loader import NO_GROUNDING
from ureca.node.captioning.grounding import TextGrounder
from ureca.node.captioning.output_filter import RejectedCaptions
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.monitoring.health import HealthMonitor, failure_of
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.pipeline.step_thread import StepThread
from ureca.node.publishing.event_queue import EventQueue
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.requests.preview_encoder import Previews
from ureca.node.segmentation.factory import open_segmentation_worker
from ureca.node.segmentation.worker import SegmentationWorker
from ureca.node.sources.base import FrameSource, SourceStatus, Wait
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.node.sources.prompt_file import Prompts
from ureca.node.sources.video_player import ClipPlayer
from ureca.security.link_guard import LinkGuard

OpenSources = Callable[[NodeConfig, Clock, NodeCounters, Wait], Sequence[FrameSource]]


@dataclass(frozen=True, slots=True)
class NodeParts:
    """Everything between the sources and the event queue. The order is the way of a frame."""

    source_thread: SourceThread
    mailbox: Mailbox
    step_thread: StepThread
    runner: StepRunner
    captioner: BatchCaptioner
    segmentation_worker: SegmentationWorker | None
    event_queue: EventQueue
    previews: Previews
    rejected_captions: RejectedCaptions
    health_monitor: HealthMonitor
    links: tuple[LinkGuard, ...]
    """Of the sources that other processes send to."""


def assemble(
    config: NodeConfig,
    engine: Engine,
    *,
    clock: Clock,
    counters: NodeCounters,
    stop: threading.Event,
    prompts: Prompts,
    grounder: Grounder | None,
    open_frames: OpenSources,
    recorder: Recorder | RecordSwitch | None,
    renderer: Renderer | None,
) -> NodeParts:
    """Raises `UrecaError` for a model or a source that cannot be opened, and for standing texts
    without a `grounder`; then nothing is left.
    """
    if config.grounding.texts and grounder is None:
        raise BundleError(NO_GROUNDING.format(bundle=config.bundle or engine.info.model))
    segmentation_worker = open_segmentation_worker(config.segmenter)
    sources = open_frames(config, clock, counters, stop.wait)
    source_status = SourceStatus(sources)
    rates = [source.fps for source in sources if isinstance(source, ClipPlayer)]
    if renderer is not None and rates:
        renderer.use_rate(rates[0])
    mailbox = Mailbox(counters, max_streams=config.limits.max_streams)
    event_queue = EventQueue(config.limits.outbox, clock=clock, counters=counters)
    rejected = RejectedCaptions()
    captioner = ThreadCaptioner(
        CaptionWriter(engine, config.caption, clock, rejected, log=recorder),
        None if grounder is None else TextGrounder(engine, grounder, clock),
    )
    pipeline = Pipeline(config, clock=clock, counters=counters, prompts=prompts)
    runner = StepRunner(
        pipeline,
        captioner,
        segmentation_worker,
        limits=config.limits,
        clock=clock,
        emit=event_queue.put,
        wake=mailbox.wake,
        step_log=recorder,
    )
    health_monitor = HealthMonitor(counters, engine.info, clock, pipeline.streams)
    health_monitor.counter_sources += [rejected.counters, source_status.counters]
    health_monitor.issue_sources += [source_status.reasons, runner.reasons]
    for part in (recorder, renderer):
        if part is not None:
            health_monitor.counter_sources.append(part.counters)
            health_monitor.issue_sources.append(failure_of(part))
    source_thread = SourceThread(sources, mailbox, prompts, health_monitor, stop)
    step_thread = StepThread(
        runner, mailbox, source_thread, source_status, clock, stop, renderer=renderer
    )
    return NodeParts(
        source_thread=source_thread,
        mailbox=mailbox,
        step_thread=step_thread,
        runner=runner,
        captioner=captioner,
        segmentation_worker=segmentation_worker,
        event_queue=event_queue,
        previews=Previews(pipeline.views, clock),
        rejected_captions=rejected,
        health_monitor=health_monitor,
        links=source_status.links(),
    )
