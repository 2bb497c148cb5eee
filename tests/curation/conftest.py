"""A small folder in SA-1B's layout, an annotator that follows a script, and a server that fails."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

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


class Flaky(ThreadingHTTPServer):
    """An OpenAI-compatible server. `health_issues` are done in turn, one a request; then it
    answers.
    """

    daemon_threads = True

    def __init__(self, troubles=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.troubles = list(troubles)
        self.lock = threading.Lock()
        self.requests = Counter()
        self.answered = Counter()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def die(self):
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request, client_address):
        """Peers hang up; that is the script."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(body)["messages"][0]["content"]
        for part in content[:-1]:  # every picture is a PNG that opens
            png = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None
        key = hashlib.sha256(body).hexdigest()
        with self.server.lock:
            self.server.requests[key] += 1
            trouble = self.server.troubles.pop(0) if self.server.troubles else "none"
        if trouble == "hang_up":
            self.close_connection = True
        elif trouble == "nonsense":
            self._send(200, b'{"choices": []}')
        elif trouble == "nothing":
            message = {"role": "assistant", "content": None}
            choice = {"index": 0, "finish_reason": "content_filter", "message": message}
            self._send(200, json.dumps({"choices": [choice]}).encode())
        elif isinstance(trouble, int):
            self._send(trouble, b'{"error": {"message": "scripted"}}')
        else:
            self._answer(key, content[-1]["text"])

    def _answer(self, key, prompt):
        self.server.answered[key] += 1
        text = "True" if "True or False" in prompt else f"a thing like {key[:8]}"
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
        }
        self._send(200, json.dumps(reply).encode())

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


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
