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

from ureca.cli import node

if __name__ == "__main__":
    node()
