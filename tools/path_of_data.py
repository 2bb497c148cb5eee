"""Trace one frame and one `describe` from end to end: project files entered, types passed on.

    python tools/path_of_data.py           # two tables and two counts
    python tools/path_of_data.py --json

A whole node runs with its threads and sockets, and with the scripted engine. The first frame (the
first `describe`) warms it up, the second is traced: `sys.setprofile` notes on every thread of the
node which file each call enters. A frame is traced from its source to its published caption, a
`describe` from the request's arrival at the node to its result. Nothing else happens at the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from ureca import Client  # noqa: E402  (the checkout is on the path only now)
from ureca.clock import Clock, MonotonicClock  # noqa: E402
from ureca.config import from_plain  # noqa: E402
from ureca.datatypes import Frame, RegionSeed  # noqa: E402
from ureca.node.config import NodeConfig  # noqa: E402
from ureca.node.counters import NodeCounters  # noqa: E402
from ureca.node.node import Node  # noqa: E402
from ureca.node.sources.base import Wait  # noqa: E402
from ureca.protocol.events import AnyEvent, CaptionFinal  # noqa: E402
from ureca.testing import ScriptedEngine, SyntheticSource  # noqa: E402

CONFIG = {
    "caption": {"style": "long"},
    "scheduler": {
        "change_shift": 0.001,
        "min_interval_s": 0.0,
        "refresh_s": 600.0,
        "deadline_s": 600.0,
    },
    "publish": {"heartbeat_s": 3600.0, "greet": False},
}
"""Every frame gets a caption, because its region moves and long captions say where. No heartbeat
and no repetition comes between the frames.
"""
_TIMEOUT_S = 120.0
_PACKAGE = f"{ROOT}/ureca/"
_SETTLE_S = 0.5
"""Ten ticks of the step thread: what a frame leaves to do is done."""


@dataclass(frozen=True)
class TracedPath:
    """What a frame or a request enters and is."""

    calls: dict[str, int]
    """Calls by file of `ureca`."""
    types: list[str]
    """The frozen types that functions got or returned."""


class Tracer:
    """Notes the files of this checkout that calls enter on the threads started from now on, while
    `is_on`.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._entered: Counter[str] = Counter()
        self._passed: set[str] = set()

    def __call__(self, frame: FrameType, event: str, result: object) -> None:
        """See `sys.setprofile`."""
        code = frame.f_code
        if not self.is_on or not code.co_filename.startswith(_PACKAGE):
            return
        if event == "call":
            self._entered[code.co_filename.removeprefix(_PACKAGE)] += 1
            given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            self._passed.update(_messages(frame.f_locals.get(name) for name in given))
        elif event == "return":
            self._passed.update(_messages([result]))

    def trace(self, work: Callable[[], object]) -> TracedPath:
        """What is entered and passed on while `work` runs, and until its last step is done."""
        self._entered, self._passed, self.is_on = Counter(), set(), True
        work()
        time.sleep(_SETTLE_S)
        self.is_on = False
        return TracedPath(dict(sorted(self._entered.items())), sorted(self._passed))


def _messages(values: Iterable[object]) -> Iterator[str]:
    """The types of the project among `values`, and in sequences among them, whose values never
    change: what one part hands to another. Settings are not counted.
    """
    for value in values:
        if type(value) in (tuple, list):
            yield from _messages(cast("Iterable[object]", value))
        kind = type(value)
        frozen = getattr(kind, "__dataclass_params__", None) or getattr(
            kind, "__struct_config__", None
        )
        ours = kind.__module__.startswith("ureca.") and not kind.__name__.endswith("Config")
        if ours and frozen is not None and frozen.frozen:
            yield kind.__name__


class OneByOne:
    """A source whose frames come when they are asked for."""

    is_lossless = True

    def __init__(self, clock: Clock, books: NodeCounters, wait: Wait) -> None:
        self._clock, self._books, self._wait = clock, books, wait
        self._scene = SyntheticSource(things=1, width_px=320, height_px=240, with_regions="first")
        self.wanted = threading.Semaphore(0)

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`: the first frame has a region, optical flow propagates it."""
        seq = 0
        while not self._wait(0.001):
            if not self.wanted.acquire(blocking=False):
                continue
            seen = self._scene.frame(seq)
            x0, y0, x1, y1 = map(float, self._scene.boxes_xyxy_px(0)["red"])
            prompts = (RegionSeed(rid="red", box_xyxy_px=(x0, y0, x1, y1)),) if seq == 0 else ()
            now_ns = self._clock.now_ns()
            self._books.frame_in()
            yield Frame(
                "cam0",
                seen.session_id,
                seq,
                now_ns,
                seen.image,
                received_ns=now_ns,
                prompts=prompts,
            )
            seq += 1


def trace_paths() -> dict[str, TracedPath]:
    """The paths of the second frame and of the second `describe`."""
    tracer, captioned, made = Tracer(), threading.Semaphore(0), []

    def tell(event: AnyEvent) -> None:
        if isinstance(event, CaptionFinal):
            captioned.release()

    def open_frames(_: NodeConfig, clock: Clock, books: NodeCounters, wait: Wait) -> list[Any]:
        made.append(OneByOne(clock, books, wait))
        return made

    with tempfile.TemporaryDirectory() as folder:
        address = {"events": f"ipc://{folder}/e", "requests": f"ipc://{folder}/r"}
        config = from_plain(NodeConfig, {**CONFIG, "publish": {**CONFIG["publish"], **address}})
        threading.setprofile(tracer)  # also for threads that the parts start by themselves
        node = Node(
            config, ScriptedEngine(), clock=MonotonicClock(), sinks=[tell], open_frames=open_frames
        )

        def show_frame() -> None:
            made[0].wanted.release()
            if not captioned.acquire(timeout=_TIMEOUT_S):
                raise TimeoutError("the frame got no caption")

        try:
            with node, Client.connect(*address.values(), timeout_s=_TIMEOUT_S) as client:
                node.start()
                threading.setprofile(None)
                tracer.trace(show_frame)
                frame = tracer.trace(show_frame)
                client.describe("red", stream="cam0")
                client.pause()  # so that the request is alone in its batch
                describe = tracer.trace(lambda: client.describe("red", stream="cam0"))
        finally:
            threading.setprofile(None)
    return {"frame": frame, "describe": describe}


def main(argv: Sequence[str] | None = None) -> int:
    """Print both paths."""
    parser = argparse.ArgumentParser(description="Files and types of a frame and a describe.")
    parser.add_argument(
        "--json", action="store_true", help="one object: by path, its calls and types"
    )
    options = parser.parse_args(argv)
    paths = trace_paths()
    if options.json:
        print(json.dumps({name: asdict(path) for name, path in paths.items()}))
        return 0
    for name, path in paths.items():
        node = sum(file.startswith("node/") for file in path.calls)
        print(f"{name}: {len(path.calls)} files, {node} of them in node/; {len(path.types)} types")
        for file, count in path.calls.items():
            print(f"  {count:5} {file}")
        print(f"  {', '.join(path.types)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
