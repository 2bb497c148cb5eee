"""A node process with the scripted engine: the command line of `ureca run` without weights.

`SCRIPTED_STEP_MS` makes every word take that long; `SCRIPTED_RAISE=1` makes every batch fail;
`SCRIPTED_EVENT_HWM` is how many events wait for each subscriber.
"""

import os
import sys
import time

from ureca.node.cli.run import main
from ureca.node.publishing import publisher
from ureca.testing import ScriptedEngine, Step

STEP_S = float(os.environ.get("SCRIPTED_STEP_MS", "5")) / 1e3


def hook(call: int, token: int) -> Step:
    """Be slow like a real decoder, or fail on demand."""
    time.sleep(STEP_S)
    return "raise" if os.environ.get("SCRIPTED_RAISE") else "ok"


if __name__ == "__main__":
    publisher.EVENT_HWM = int(os.environ.get("SCRIPTED_EVENT_HWM", publisher.EVENT_HWM))
    sys.exit(main(engine_of=lambda folder: ScriptedEngine(hook=hook)))
