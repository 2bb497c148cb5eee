"""The realtime node, in one page: pictures in, captions of tracked regions out over ZeroMQ.

    python run_node.py                                  # the demo clip, captioned live
    python run_node.py --source camera.mp4 --prompts prompts.json
    python run_node.py --help

The same as `ureca run`. What it starts: a source thread (decodes), a step thread (tracks and
decides), a caption thread (owns the engine) and a socket thread (publishes events on
tcp://127.0.0.1:5601, answers requests on tcp://127.0.0.1:5602). `ureca watch` in a second terminal
shows what subscribers see.
"""

from __future__ import annotations

import sys

from ureca.cli import guarded


def run() -> int:
    """Run the node with the command line's options; deliberate errors are one line and exit 2."""
    return guarded("ureca.node.main", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
