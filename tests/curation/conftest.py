"""A small folder in SA-1B's layout, an annotator that follows a script, and servers that
fail.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tests.openai_server import Flaky
from ureca.models.curation.prompts import Answer
from ureca.protocol import rle

SIZE = (96, 128)


def box(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


MASKS = {
    "1": box(10, 10, 70, 80),  # a thing
    "2": box(14, 14, 40, 50),  # its part
    "3": box(18, 18, 30, 30),  # a part of the part
    "4": box(44, 20, 66, 60),  # another part
    "5": box(80, 10, 120, 80),  # another thing
    "6": box(100, 90, 102, 92),  # a speck
    "7": box(0, 0, 128, 96),  # the whole picture
}


@pytest.fixture
def sa1b(tmp_path):
    folder = tmp_path / "sa1b"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        image = rng.integers(0, 255, (*SIZE, 3), np.uint8)
        image = cv2.GaussianBlur(image, (0, 0), 3)
        cv2.imwrite(str(folder / f"sa_{number}.jpg"), image)
        annotations = [
            {"id": int(name), "segmentation": {"size": list(SIZE), "counts": rle.encode(m).counts}}
            for name, m in MASKS.items()
        ]
        row = {"image": {"height": SIZE[0], "width": SIZE[1]}, "annotations": annotations}
        (folder / f"sa_{number}.json").write_text(json.dumps(row))
    return folder


class Scripted:
    """Answers from the question alone; keeps what it was asked."""

    model = "scripted"

    def __init__(self, replies=None):
        self.asked = []
        self.replies = replies or {}

    def answer(self, question):
        self.asked.append(question)
        reply = self.replies.get((question.kind, question.region_id.rpartition(":")[2]))
        if isinstance(reply, Exception):
            raise reply
        return Answer(reply or said(question.kind, question.region_id), 10, 3)


def said(kind, region_id):
    number = region_id.rpartition(":")[2]
    return {
        "short": f"a thing called {number}",
        "long": f"a long story of {number}",
        "refine": f"the only {number}",
        "verify": "True.",
    }[kind]


@pytest.fixture
def serve():
    """Servers of a test; all are shut down after it."""
    made = []

    def start(troubles=()):
        made.append(Flaky(troubles))
        return made[-1]

    yield start
    for server in made:
        if server.thread.is_alive():
            server.die()


def flat_features(image, masks):
    """Everything looks alike where it is bright alike: a seam, no network."""
    means = np.array([image[mask].mean(axis=0) for mask in masks], np.float32)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread of its own
