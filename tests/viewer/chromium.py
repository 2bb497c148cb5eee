"""A headless Chromium driven over its DevTools protocol: just what the viewer's tests need."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)


def executable() -> str | None:
    """Where Chromium is; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page. `console` collects what it complained about."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.console: list[str] = []

    def call(self, method: str, timeout_s: float = 60, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        until = time.monotonic() + timeout_s
        while True:
            message = json.loads(self._socket.recv(max(0.01, until - time.monotonic())))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params, method = message.get("params", {}), message.get("method")
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str([one.get("value") for one in params["args"]]))

    def close(self) -> None:
        """Close the page and the connection."""
        self.call("Page.close")
        self._socket.close()

    def js(self, expression: str) -> Any:
        """The value of an expression (awaited, if it is a promise)."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, timeout_s: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout_s
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"not within {timeout_s} s: {expression}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def size(
        self,
        width: int,
        height: int,
        *,
        dark: bool = False,
        phone: bool = False,
        still: bool = False,
    ) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if still else ""}
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])

    def shot(self, path: Path, *, whole: bool = False) -> None:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def mouse(self, kind: str, x: float, y: float) -> None:
        buttons = 0 if kind == "mouseReleased" else 1
        button = "left" if kind != "mouseMoved" or buttons else "none"
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=buttons,
            clickCount=1,
        )

    def click(self, x: float, y: float) -> None:
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.mouse("mousePressed", x0, y0)
        for part in (0.3, 0.7, 1.0):
            self.mouse("mouseMoved", x0 + part * (x1 - x0), y0 + part * (y1 - y0))
        self.mouse("mouseReleased", x1, y1)

    def touch(self, *places: tuple[float, float]) -> None:
        """A finger comes down at the first place, moves over the others, and is lifted."""
        self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        kinds = ["touchStart", *["touchMove"] * (len(places) - 1)]
        for kind, (x, y) in zip(kinds, places, strict=True):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str, *, shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {}
        text = {"text": "\r"} if key == "Enter" else text
        modifiers = 8 if shift else 0
        common = {"key": key, "modifiers": modifiers}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def metrics(self) -> dict[str, float]:
        listed = self.call("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in listed}


@contextlib.contextmanager
def chromium(timeout_s: float = 60) -> Iterator[Callable[[], Tab]]:
    """A browser with a profile of its own; the function opens a tab."""
    path = executable()
    assert path is not None
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        contextlib.ExitStack() as stack,
    ):
        command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", child, timeout_s)

            def tab() -> Tab:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT"
                )
                with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                    url = json.load(answer)["webSocketDebuggerUrl"]
                opened = connect(url, max_size=None, ping_interval=None)
                socket = stack.enter_context(opened)
                found = Tab(socket)
                for domain in ("Page", "Runtime", "Log", "Performance"):
                    found.call(f"{domain}.enable")
                return found

            yield tab
        finally:
            stack.close()
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _port(file: Path, child: subprocess.Popen[bytes], timeout_s: float) -> int:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")
