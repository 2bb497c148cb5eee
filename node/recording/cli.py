"""`ureca replay`: run a recording through the node again, and compare the results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ureca.config import from_plain, to_plain
from ureca.engine import Engine
from ureca.errors import ConfigError
from ureca.node.captioning.engine_loader import open_engine
from ureca.node.config import NodeConfig
from ureca.node.recording.header import config_of
from ureca.node.recording.reader import Recording, pictures, read
from ureca.node.recording.replay import Replayed, replay
from ureca.node.recording.replay_diff import differences

_EPILOG = """examples:
  ureca run --source clip.mp4 --record run.mcap      # record
  ureca replay run.mcap                              # exit 1 when anything differs
  ureca replay run.mcap --runs 2 --events again.jsonl
  ureca replay run.mcap --bundle other-bundle        # what would another captioner have said?

Foxglove opens the recording as it is: pictures, outlines, words. A file that was cut (power, full
disk, kill) is used up to its last whole chunk. The last line is JSON."""


def main(
    argv: Sequence[str] | None = None, *, engine_of: Callable[[str], Engine] = open_engine
) -> int:
    """The command; see `--help`. Returns 1 when a replay differs from the recording."""
    options = _parser().parse_args(argv)
    recording = read(options.file)
    if recording.loss is not None:
        print(recording.loss.text(options.file))
    config = _configured(recording, options)
    engine = engine_of(config.bundle)
    if engine.info.bundle_sha != recording.head.get("bundle_sha"):
        print("another bundle than the recorded one: words may differ")
    runs = [_run(recording, engine, config) for _ in range(options.runs)]
    if options.events is not None:
        _write(options.events, runs[0])
    found = differences(recording, runs[0])
    report = _report(recording, runs, found)
    for line in (*_lines(report), *found):
        print(line)
    print(json.dumps(report))
    return 0 if report["equal"] and report["runs_equal"] else 1


def _configured(recording: Recording, options: argparse.Namespace) -> NodeConfig:
    plain = to_plain(config_of(recording))
    if plain["bundle"] and not options.bundle:
        raise ConfigError(
            f"{options.file} was recorded with the captioner {plain['bundle']}. A recording opens "
            "no folder by itself: name it, or another one, with --bundle DIR"
        )
    if options.bundle:
        plain["bundle"] = options.bundle
    return from_plain(NodeConfig, plain, where=str(options.file))


def _run(recording: Recording, engine: Engine, config: NodeConfig) -> Replayed:
    tqdm.monitor_interval = 0  # no thread of its own
    with tqdm(total=len(recording.steps), unit="step", disable=None, leave=False) as bar:
        frames = pictures(recording.path)
        return replay(recording, engine, frames, config=config, on_step=bar.update)


def _report(recording: Recording, runs: Sequence[Replayed], found: Sequence[str]) -> dict[str, Any]:
    first = runs[0]
    return {
        "file": str(recording.path),
        "steps": len(recording.steps),
        "frames": len(first.tracks),
        "batches": len(first.batches),
        "captions": sum(type(event).__name__ == "CaptionFinal" for event in first.events),
        "cut": None if recording.loss is None else recording.loss.text(recording.path),
        "gap": first.gap,
        "differences": len(found),
        "equal": not found,
        "runs_equal": len({run.digest for run in runs}) == 1,
        "digest": first.digest,
    }


def _lines(report: dict[str, Any]) -> list[str]:
    verdict = "equal to the recording" if report["equal"] else "DIFFERENT from the recording"
    counts = ", ".join(f"{report[name]} {name}" for name in ("frames", "batches", "captions"))
    lines = [f"{counts} in {report['steps']} steps: {verdict}"]
    if report["gap"]:
        lines.append(f"ended early: {report['gap']}")
    if not report["runs_equal"]:
        lines.append("the replays differ from each other: the engine is not deterministic")
    return lines


def _write(path: Path, run: Replayed) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(msgspec.json.encode(event) + b"\n" for event in run.events)
    except OSError as error:
        raise ConfigError(f"--events {path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca replay",
        description="Run a recording through the node again and compare the results.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="recording of `ureca run --record`")
    parser.add_argument(
        "--bundle", metavar="DIR", help="the captioner [the shipped one, if it was recorded]"
    )
    parser.add_argument("--runs", type=_count, default=1, metavar="N", help="number of replays [1]")
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="write the events as JSON lines"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"expected 1 to 100, got {number}")
    return number
