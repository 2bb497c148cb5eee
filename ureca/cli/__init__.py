"""The command line `ureca`: one table of commands; each is imported only when it runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from ureca import __version__
from ureca.errors import MissingExtraError, UrecaError
from ureca.extras import CHECKOUT_ONLY, checkout_error
from ureca.native_threads import leave


@dataclass(frozen=True, slots=True)
class Command:
    """A command's module has `main(argv: Sequence[str] | None) -> int`."""

    module: str
    summary: str
    example: str
    extra: str = ""
    """The extra that the command needs."""


COMMANDS: dict[str, Command] = {
    "run": Command(
        "ureca.node.cli.run",
        "run the node: a camera or clip in, captions of its regions out",
        "ureca run --source clip.mp4 --prompts prompts.json",
        extra="node",
    ),
    "replay": Command(
        "ureca.node.recording.cli",
        "run a recording through the node again and compare the results",
        "ureca replay run.mcap",
        extra="node",
    ),
    "watch": Command(
        "ureca.cli.watch",
        "watch a running node's captions live",
        "ureca watch --json",
    ),
    "find": Command(
        "ureca.cli.find",
        "ask a running node where a text is true",
        'ureca find "the red mug"',
    ),
    "view": Command(
        "ureca.node.viewer.cli",
        "serve a page that shows a running node: video, regions, captions, metrics",
        "ureca view --open",
        extra="view",
    ),
    "camera": Command(
        "ureca.node.cli.camera",
        "send frames of a camera, stream or clip to a node",
        "ureca camera 'v4l2:///dev/video0?width=1280&height=720' --jpeg 90",
        extra="node",
    ),
    "ros": Command(
        "ureca.bridges.ros.cli",
        "publish detections on ROS 2, and forward ROS 2 cameras",
        "ureca ros --image /camera/image_raw=cam0 --masks mono16",
    ),
    "rerun": Command(
        "ureca.bridges.rerun.cli",
        "log images, masks, captions and latencies to Rerun",
        "ureca rerun --save run.rrd",
    ),
    "describe": Command(
        "ureca.node.cli.describe",
        "caption regions of one image",
        "ureca describe photo.jpg --box 40,30,200,180",
        extra="node",
    ),
    "panoptic": Command(
        "ureca.node.cli.panoptic",
        "give every pixel of pictures or a clip to a captioned segment",
        "ureca panoptic photos -o segments",
        extra="node",
    ),
    "doctor": Command(
        "ureca.node.doctor.cli",
        "check whether this machine can run the node, and how to fix what is missing",
        "ureca doctor",
        extra="node",
    ),
    "sources": Command(
        "ureca.node.doctor.sources_cli",
        "list the cameras of this machine",
        "ureca sources",
        extra="node",
    ),
    "health": Command(
        "ureca.cli.health",
        "check the health of a running node",
        "ureca health",
    ),
    "completion": Command(
        "ureca.cli.completion",
        "print a script that completes commands and options in your shell",
        "ureca completion bash",
    ),
    "keys": Command(
        "ureca.cli.keys",
        "create CURVE keys and set who may do what at a node",
        "ureca keys new robot --role observe -o keys",
    ),
    "caption": Command(
        "ureca.models.evaluation.caption",
        "caption many regions of a data set",
        "ureca caption regions.jsonl.gz --images images --bundle BUNDLE -o captions.jsonl",
        extra="eval",
    ),
    "eval": Command(
        "ureca.models.evaluation.cli",
        "measure captions of held-out regions and write a report",
        "ureca eval BUNDLE --data DATA -o report",
        extra="eval",
    ),
    "train": Command(
        "ureca.models.training.train",
        "train a captioner",
        "ureca train configs/train/nano.yaml",
        extra="train",
    ),
    "mllm": Command(
        "ureca.models.mllm.cli",
        "URECA on a vision-language model: wrap, convert, train, plan, bench",
        "ureca mllm wrap InternVL3-1B-hf -o runs/base",
    ),
    "export": Command(
        "ureca.export.cli",
        "turn a checkpoint into a bundle that the node runs",
        "ureca export runs/nano -o bundle",
        extra="export",
    ),
    "verify": Command(
        "ureca.export.verify",
        "check that a bundle and its checkpoint write the same captions",
        "ureca verify models/pretrained/ureca-nano",
        extra="export",
    ),
    "worlds": Command(
        "ureca.models.data.synthetic.cli",
        "render synthetic training views and demo clips (in a checkout only)",
        "ureca worlds --help",
        extra="train",
    ),
    "data": Command(
        "ureca.models.data.cli",
        "validate training data, import other data sets, write shards",
        "ureca data check ../shared/data -o report",
        extra="train",
    ),
    "weights": Command(
        "ureca.cli.weights",
        "list published weights, or download them, checked by sha256",
        "ureca weights get sam2-hiera-tiny",
    ),
    "curate": Command(
        "ureca.models.curation.cli",
        "write captions for images with masks, with a larger model or our own",
        "ureca curate DATA -o runs/curated --limit 200",
    ),
    "bench": Command(
        "ureca.models.bench.cli",
        "measure captions per second and latency",
        "ureca bench --help",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Deliberate errors are one line and exit 2; Ctrl-C exits 130."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        return _guarded(lambda: int(_loaded("ureca.cli.completion").complete()))
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        return _guarded(lambda: _say(usage(), 0 if arguments else 2))
    if arguments[0] in {"-V", "--version"}:
        return _guarded(lambda: _say(f"ureca {__version__}", 0))
    if arguments[0] not in COMMANDS:
        print(f"ureca: unknown command {arguments[0]!r}; see: ureca --help", file=sys.stderr)
        return 2
    return guarded(COMMANDS[arguments[0]].module, arguments[1:])


def script() -> NoReturn:
    """The console script `ureca`: `main`, and the end of the process."""
    process(main)


def node() -> NoReturn:
    """The console script `ureca-node`: `ureca run` under a name of its own."""
    process(lambda: guarded(COMMANDS["run"].module, sys.argv[1:]))


def process(command: Callable[[], int]) -> NoReturn:
    """Run `command` as a whole process; its result is the exit code. A native thread that has not
    returned does not change how the process ends.
    """
    try:
        code = command()
    except SystemExit as stop:  # of argparse: 0 for --help, 2 for options that are wrong
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001  (told as the interpreter would, and the end is a clean one)
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def guarded(module: str, argv: Sequence[str]) -> int:
    """Import a command's module and run it, turning the errors that we expect into exit codes."""
    return _guarded(lambda: int(_loaded(module).main(argv)))


def _loaded(module: str) -> ModuleType:
    """A command's module; raises `MissingExtraError` where its extra was not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name)
        if name == CHECKOUT_ONLY:
            raise checkout_error() from error
        extra = next((c.extra for c in COMMANDS.values() if c.module == module), "")
        if not extra or name.partition(".")[0] == "ureca":
            raise
        raise MissingExtraError(
            f"{name!r} is not installed; it comes with the extra {extra!r}: "
            f"pip install 'ureca[{extra}]'"
        ) from error


def _say(text: str, code: int) -> int:
    print(text)
    return code


def _guarded(command: Callable[[], int]) -> int:
    try:
        code = command()
        sys.stdout.flush()
    except UrecaError as error:
        print(f"ureca: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone (`ureca watch | head`); python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def usage() -> str:
    """The text of `ureca --help`."""
    lines = ["usage: ureca COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "examples:", *(f"  {command.example}" for command in COMMANDS.values())]
    lines += [
        "",
        "`ureca COMMAND --help` explains one command; `ureca --version` prints the version.",
    ]
    return "\n".join(lines)
