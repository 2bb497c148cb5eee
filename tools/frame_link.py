"""Compares raw frames over ipc with shared memory: from `send` in a camera process to a frame here.

    python tools/frame_link.py --width 1920 --height 1080 --frames 150 --fps 10 --runs 3

It prints medians and 95th percentiles of the time, CPU per frame on both sides, and the ratio.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from multiprocessing.synchronize import Event

import numpy as np

from ureca.client.frame_publisher import FramePublisher
from ureca.clock import MonotonicClock
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.zmq_subscriber import ZmqFrames

_SETTLE = 5


def send(address: str, options: argparse.Namespace, go: Event, *, shm: bool) -> None:
    """The camera process: noise of the size, at an even rate."""
    draw = np.random.default_rng(0)
    size = (options.height, options.width, 3)
    images = [draw.integers(0, 255, size, dtype=np.uint8) for _ in range(4)]
    with FramePublisher(address, shm=shm) as camera:
        go.wait()
        start_s, cpu_s = time.monotonic(), time.process_time()
        for number in range(options.frames):
            camera.send(images[number % 4])
            due_s = start_s + (number + 1) / options.fps
            time.sleep(max(0.0, due_s - time.monotonic()))
        cpu_ms = (time.process_time() - cpu_s) / options.frames * 1e3
        print(f"  sender {cpu_ms:.2f} ms CPU per frame", flush=True)
        time.sleep(0.5)


def measure(options: argparse.Namespace, *, shm: bool) -> float:
    """One run; the median in ms."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        address, go = f"ipc://{folder}/frames", context.Event()
        child = context.Process(target=send, args=(address, options, go), kwargs={"shm": shm})
        child.start()
        counters = NodeCounters()
        source = ZmqFrames(
            f"zmq+{address}",
            NodeConfig(),
            clock=MonotonicClock(),
            counters=counters,
            wait=lambda _: not child.is_alive(),
        )
        threading.Timer(2.0, go.set).start()
        ages_ms, cpu_s = [], 0.0
        for frame in source.frames():
            cpu_s = cpu_s or time.process_time()
            ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
        cpu_ms = (time.process_time() - cpu_s) / max(1, len(ages_ms) - 1) * 1e3
        child.join()
    p50, p95 = np.percentile(ages_ms[_SETTLE:], [50, 95])
    print(
        f"{'shm' if shm else 'ipc'}  n {len(ages_ms) - _SETTLE}  p50 {p50:.2f} ms  p95 {p95:.2f} ms"
        f"  reader {cpu_ms:.2f} ms CPU per frame  dropped {counters.balance().frames_dropped}"
    )
    return float(p50)


def main() -> None:
    """Alternate both, so that what else the machine does falls on both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("width", 1920),
        ("height", 1080),
        ("frames", 150),
        ("fps", 10),
        ("runs", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for _ in range(options.runs):
        ipc_ms, shm_ms = measure(options, shm=False), measure(options, shm=True)
        print(f"ipc / shm = {ipc_ms / shm_ms:.1f}")


if __name__ == "__main__":
    main()
