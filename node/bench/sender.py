"""The camera of the bench, a process of its own: `python -m ureca.node.bench.sender`.

stdin: the plan as one JSON line, later the start time in nanoseconds of the monotonic clock.
stdout: `ready`, at the end `Sent` as one JSON line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from ureca.client.frame_publisher import FramePublisher
from ureca.node.bench.run_config import RunPlan
from ureca.node.bench.workload import WorkloadImage, named, shots
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.frames import FrameHeader


class Sent(msgspec.Struct, frozen=True):
    """What the sender did. `late_us`: how long after its due time each frame left."""

    frames: int
    late_us: tuple[int, ...]


def send(
    plan: RunPlan,
    cycle: Sequence[WorkloadImage],
    camera: FramePublisher,
    *,
    start_ns: int,
    now_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Sent:
    """Send every frame at its due time, or at once when that has passed; never skip one.

    A frame is stamped with its due time, so that a late sender counts as latency, too.
    """
    late_us = []
    for index in range(plan.frame_count):
        due_ns = start_ns + plan.due_ns(index)
        while (wait_ns := due_ns - now_ns()) > 0:
            sleep(wait_ns / 1e9)
        late_us.append(-wait_ns // 1000)
        shot = cycle[index % len(cycle)]
        camera.send_encoded(_header(plan, shot, camera, index, due_ns), shot.pixels)
    return Sent(plan.frame_count, tuple(late_us))


def _header(
    plan: RunPlan, shot: WorkloadImage, camera: FramePublisher, index: int, due_ns: int
) -> FrameHeader:
    at_s = plan.due_ns(index) / 1e9
    shown = not (plan.auto or plan.panoptic) and (plan.masks == "every" or at_s < plan.warm_up_s)
    return FrameHeader(
        v=PROTOCOL_VERSION,
        src=camera.stream,
        session_id=camera.session_id,
        seq=index,
        captured_ns=due_ns,
        clk="mono",
        capture_source="driver",
        enc=plan.enc,
        w=shot.width_px,
        h=shot.height_px,
        regions=named(shot, plan, at_s) if shown else msgspec.UNSET,
    )


def main() -> int:
    """Prepare, report readiness, wait for the start, send."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=RunPlan)
    cycle = shots(plan)
    with FramePublisher(plan.frames, stream="bench", node="bench") as camera:
        _say(b"ready")
        line = sys.stdin.buffer.readline()
        if not line:  # the bench has gone
            return 1
        _say(msgspec.json.encode(send(plan, cycle, camera, start_ns=int(line))))
        sys.stdin.buffer.readline()  # the last frames leave before the socket closes
    return 0


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
