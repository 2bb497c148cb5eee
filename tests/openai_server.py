"""An OpenAI-compatible server on a real socket, which answers, fails and lies as a script says."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

Trouble = str | int | bytes
"""A status; `hang_up`, `nonsense`, `nothing`, `html`, `huge`, `endless`, `endless_error`,
`zipped`, `stall`, `elsewhere` (a redirect); bytes are the text of the answer.
"""


def answer_curation(prompt: str, key: str) -> str:
    return "True" if "True or False" in prompt else f"a thing like {key[:8]}"


ELSEWHERE = "192.0.2.1"
"""A host that nobody may ask (RFC 5737)."""
_REFUSAL = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "content_filter",
            "message": {"role": "assistant", "content": None},
        }
    ]
}
_LIES = {
    "nonsense": (b'{"choices": []}', {}),
    "nothing": (json.dumps(_REFUSAL).encode(), {}),
    "html": (b"<!doctype html><title>Gateway</title>" * 40, {"Content-Type": "text/html"}),
    "huge": (b'{"choices": [' + b" " * 10_000_000, {}),
    "zipped": (gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"}),
}


class Flaky(ThreadingHTTPServer):
    """`troubles` are done in turn, one a request; then it answers by `reply(prompt, key)`. `port` 0
    takes any. `open` is set while it answers; without it, requests wait.
    """

    daemon_threads = True
    request_queue_size = 64  # else many connections at once wait for a second

    def __init__(
        self,
        troubles: Sequence[Trouble] = (),
        *,
        reply: Callable[[str, str], str] = answer_curation,
        port: int = 0,
        retry_after_s: str = "0",
    ):
        super().__init__(("127.0.0.1", port), _Handler)
        self.reply, self.retry_after_s = reply, retry_after_s
        self.open, self.ended = threading.Event(), threading.Event()
        self.open.set()
        self.now_open = self.most_open = 0
        self.bodies, self.keys = [], []
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
        self.ended.set()
        self.open.set()
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request, client_address):
        """Peers hang up; that is the script."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(body)["messages"][0]["content"]
        for part in content[:-1]:  # every picture opens
            png = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None
        with self.server.lock:
            self.server.now_open += 1
            self.server.most_open = max(self.server.most_open, self.server.now_open)
        self.server.open.wait(60)
        key = hashlib.sha256(body).hexdigest()
        with self.server.lock:
            self.server.requests[key] += 1
            self.server.now_open -= 1
            self.server.bodies.append(json.loads(body))
            self.server.keys.append(self.headers["Authorization"])
            trouble = self.server.troubles.pop(0) if self.server.troubles else "none"
        if trouble == "none":
            self.server.answered[key] += 1
            self._say(self.server.reply(content[-1]["text"], key))
        elif isinstance(trouble, bytes):
            self._say(trouble.decode())
        elif isinstance(trouble, int):
            self._send(trouble, b'{"error": {"message": "scripted"}}')
        elif trouble in _LIES:
            body, headers = _LIES[trouble]
            self._send(200, body, **headers)
        else:
            self._misbehave(trouble)

    def _misbehave(self, trouble):
        if trouble == "hang_up":
            self.close_connection = True
        elif trouble == "stall":
            self.server.ended.wait(60)
        elif trouble == "elsewhere":
            self._send(307, b"", Location=f"http://{ELSEWHERE}/v1/chat/completions")
        else:
            assert trouble in {"endless", "endless_error"}, trouble
            self._send_endless(200 if trouble == "endless" else 500)

    def _say(self, text):
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

    def _send(self, status, body, **headers):
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", self.server.retry_after_s)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_endless(self, status):
        """A body without a length that goes on until the client hangs up."""
        self.send_response(status)
        self.send_header("Connection", "close")
        self.end_headers()
        while not self.server.ended.is_set():
            self.wfile.write(b" " * 65536)

    def log_message(self, *_):
        pass
