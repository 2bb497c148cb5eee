"""A node process in which one thread is inside ONNX Runtime when the process ends.

    native_node.py GRAPH PLACE SECONDS [options of `ureca run`]

PLACE is `segmenter`, `captioner` or `reader`. The thread makes short native calls for SECONDS, so
that one of them returns at any moment of the end. `library` is the segmenter in a program that runs
a `Node` itself and has no command line.
"""

import runpy
import sys
import time

import numpy as np
import onnxruntime

from ureca.clock import MonotonicClock
from ureca.config import load_config
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.cli import run as node_main
from ureca.node.config import NodeConfig
from ureca.node.node import Node
from ureca.node.segmentation import factory
from ureca.node.sources.camera import LiveSource
from ureca.node.sources.camera_capture import RawImage
from ureca.testing import ScriptedEngine, Step

GRAPH, PLACE, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
SESSION = onnxruntime.InferenceSession(GRAPH, providers=["CPUExecutionProvider"])
SQUARE = np.ones((64, 64), np.float32)


def compute() -> None:
    """Native calls for some seconds; nothing stops them."""
    until_s = time.monotonic() + SECONDS
    while time.monotonic() < until_s:
        SESSION.run(None, {"x": SQUARE})


class Segmenter(ScriptedSegmenter):
    """Computes on every picture."""

    def encode(self, image):
        """See `Segmenter`."""
        compute()
        return super().encode(image)


class Camera:
    """A driver that does not come back."""

    def read(self):
        """See `Capture`."""
        compute()
        return RawImage(np.zeros((48, 64, 3), np.uint8), time.monotonic_ns())

    def close(self):
        """See `Capture`."""


def word(call: int, token: int) -> Step:
    """Every batch computes before its first word."""
    if token == 0:
        compute()
    return "ok"


def library() -> None:
    """What a program of somebody else does."""
    config = load_config(NodeConfig, None, sys.argv[4:])
    with Node(config, ScriptedEngine(), clock=MonotonicClock()) as node:
        node.start()
        node.wait(1.5)
    is_balanced = node.balance().requests_in_flight == 0
    accounted = "every frame and caption is accounted for"
    sys.stdout.write(f"accounting  {accounted if is_balanced else 'NOT ' + accounted.upper()}\n")


if __name__ == "__main__":
    engine = ScriptedEngine(hook=word) if PLACE == "captioner" else ScriptedEngine()
    node_main.main.__kwdefaults__["engine_of"] = lambda folder: engine
    if PLACE in {"segmenter", "library"}:
        factory.ScriptedSegmenter = Segmenter
    if PLACE == "reader":
        LiveSource.__init__.__kwdefaults__["open_capture"] = lambda *_: Camera()
    if PLACE == "library":
        library()
    else:
        sys.argv[1:] = ["run", *sys.argv[4:]]
        runpy.run_module("ureca", run_name="__main__", alter_sys=True)
