"""An OpenAI-compatible server by script, without a model, for `tools/curation/trial.py`.

    python tools/curation/server.py --port 8123 --log requests.jsonl --trouble 0.08

Its answers follow from the prompt and the images alone, so that runs can be compared. A share of
the requests gets a fault instead: 500 and 503, 429 with `Retry-After`, a connection closed before
or in the middle of an answer, no answer. One line per request is written to `--log` before the
answer is sent: the key of the question, and the action.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import random
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TROUBLES = ("500", "503", "429", "429", "hang_up", "cut", "silence")
_MAX_BYTES = 64 << 20
_RETRY_AFTER_S = 1
_PNG = b"\x89PNG\r\n\x1a\n"
_LOOKS = ("red", "dark blue", "striped", "wooden", "shiny", "torn", "pale green", "small", "wet")
_THINGS = ("coat", "wheel", "dog", "face", "table", "leaf", "sleeve", "board", "cup", "roof")
_PLACES = ("on the left", "near the middle", "behind a rail", "in front of a wall", "by the water")


class ScriptedServer(ThreadingHTTPServer):
    """Holds the script and the log."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", options.port), Handler)
        self._log = options.log.open("a", encoding="utf8")
        self._lock, self._draw = threading.Lock(), random.Random(options.seed)  # noqa: S311
        self._trouble, self.silence_s = options.trouble, options.silence
        self.delay_s = options.delay
        self.keep: Path | None = options.keep

    def next_act(self) -> str:
        """`answer`, or one of `TROUBLES`."""
        with self._lock:
            bad = self._draw.random() < self._trouble
            return self._draw.choice(TROUBLES) if bad else "answer"

    def note(self, key: str, did: str) -> None:
        """Write one line of the log, before the reply is sent."""
        with self._lock:
            self._log.write(json.dumps({"key": key, "did": did}) + "\n")
            self._log.flush()


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open as clients like it."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_POST(self) -> None:
        """One question."""
        size = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(min(size, _MAX_BYTES))
        try:
            pictures, prompt = _question(json.loads(body))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.server.note("", "refused")
            self._send(400, {"error": {"message": f"not a question: {error!r}"}})
            return
        key = hashlib.sha256(prompt.encode() + b"\0".join(pictures)).hexdigest()
        self._act(self.server.next_act(), key, prompt, pictures)

    def _act(self, act: str, key: str, prompt: str, pictures: list[bytes]) -> None:
        self.server.note(key, act)
        if act == "answer":
            if self.server.keep is not None:
                _keep(self.server.keep, key, prompt, pictures)
            time.sleep(self.server.delay_s)
            self._send(200, _reply(key, prompt, pictures))
        elif act.isdigit():
            self._send(int(act), {"error": {"message": "scripted"}})
        else:
            self.close_connection = True
            if act == "silence":
                time.sleep(self.server.silence_s)
            elif act == "cut":
                self._send(200, _reply(key, prompt, pictures), cut=True)

    def _send(self, status: int, reply: object, *, cut: bool = False) -> None:
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", str(_RETRY_AFTER_S))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def _question(body: dict[str, object]) -> tuple[list[bytes], str]:
    """The pictures as PNG and the prompt. Raises for what is no question with PNG pictures."""
    *parts, text = body["messages"][0]["content"]  # type: ignore[index]
    urls = [part["image_url"]["url"] for part in parts]
    pictures = [base64.b64decode(url.partition("base64,")[2], validate=True) for url in urls]
    for picture in pictures:
        width, height = struct.unpack(">II", picture[16:24])
        if not picture.startswith(_PNG) or min(width, height) < 1:
            raise ValueError("a picture is no PNG")
    return pictures, str(text["text"])


def _reply(key: str, prompt: str, pictures: list[bytes]) -> dict[str, object]:
    said = _words(key, prompt)
    read, wrote = len(prompt) // 4 + 256 * len(pictures), len(said) // 4 + 1
    choice = {"index": 0, "finish_reason": "stop"}
    return {
        "id": key[:12],
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{**choice, "message": {"role": "assistant", "content": said}}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": wrote,
            "total_tokens": read + wrote,
        },
    }


def _words(key: str, prompt: str) -> str:
    """By the question's key: mostly captions, now and then what is none."""
    number = int(key[:12], 16)
    if "True or False" in prompt:
        return {0: "perhaps", 1: "False", 2: "No, it is another one."}.get(number % 48, "**True**")
    if number % 61 == 0:
        return "The thing inside the yellow line."
    if number % 67 == 0:
        return ""
    look, thing, place = (
        words[number // step % len(words)]
        for words, step in ((_LOOKS, 7), (_THINGS, 77), (_PLACES, 777))
    )
    return f"A {look} {thing} {place}, mark {key[:6]}."


def _keep(folder: Path, key: str, prompt: str, pictures: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key[:16]}.txt").write_text(prompt, "utf8")
    for number, picture in enumerate(pictures):
        (folder / f"{key[:16]}-{number}.png").write_bytes(picture)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--port", type=int, required=True)
    add("--log", type=Path, required=True, help="one JSON line a request is added")
    add("--trouble", type=float, default=0.0, metavar="SHARE", help="of requests [0]")
    add("--delay", type=float, default=0.0, metavar="S", help="of every answer [0]")
    add(
        "--silence", type=float, default=60.0, metavar="S", help="duration of a missing answer [60]"
    )
    add("--seed", type=int, default=0, help="which requests get a fault")
    add("--keep", type=Path, metavar="DIR", help="keep what was shown and asked, to be looked at")
    server = ScriptedServer(parser.parse_args())
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever(0.1)


if __name__ == "__main__":
    main()
