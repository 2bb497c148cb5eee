"""`ureca run --view`: runs the viewer in a separate process, which ends with the node's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from ureca.errors import ConfigError
from ureca.node.config import NodeConfig

_END_S = 5.0


@contextlib.contextmanager
def run_viewer(port: int | None, config: NodeConfig) -> Iterator[None]:
    """Run `ureca view` beside the block; None for no viewer.

    It ends when its standard input does, so also when this process is killed. Raises `ConfigError`
    for a node with keys: the viewer needs one of its own.
    """
    if port is None:
        yield
        return
    if config.security.key:
        raise ConfigError(
            "--view has no key to show to this node; run: ureca view --key VIEWER.key_secret "
            "--server-key NODE.key (a key of role observe sees, one of role request may click)"
        )
    publish = config.publish
    command = [sys.executable, "-m", "ureca", "view", "--until-eof", "--port", str(port)]
    command += ["--events", publish.events, "--requests", publish.requests]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:  # noqa: S603  (ours)
        try:
            yield
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
