"""Write ureca/client/client.py from ureca/client/async_client.py: the same methods without `await`.

usage: python tools/sync_client.py [--check]

Only the public surface is generated. `connection.py` and `async_connection.py` read the sockets and
are written by hand, because they wait in different ways. Needs ruff.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "ureca" / "client"
SOURCE, TARGET = FOLDER / "async_client.py", FOLDER / "client.py"
_NOTE = """\
# Made by `python tools/sync_client.py` from async_client.py; a test fails when it is outdated.
"""
_OWNER = """\
A client belongs to one thread. The same for asyncio is `ureca.client.async_client`; cameras use
`FramePublisher`."""
_SUBSTITUTIONS = (
    (r"The client of a node, for asyncio:", "The client of a node:"),
    (r"An async client belongs to one event loop\.", _OWNER),
    (r"\(await ([\w.]+\([^()]*\))\)(?=\.)", r"\1"),  # (await f(x)).y
    (r"\bawait ", ""),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(Client|Connection|Iterator)\b", r"\1"),
    (r"\basync_connection\b", "connection"),
)


def sync_source() -> str:
    """The text of client.py."""
    text = SOURCE.read_text("utf-8")
    for pattern, replacement in _SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text)
    text = text.replace("\nfrom __future__", f"\n{_NOTE}\nfrom __future__", 1)
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the file, or with `--check` say whether it is up to date."""
    text = sync_source()
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text("utf-8") != text)
    TARGET.write_text(text, "utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
