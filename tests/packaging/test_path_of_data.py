"""How many project files one frame and one `describe` enter, and as how many types they are passed
on. The limits may only be lowered, unless a step is new: choosing what a caption says, and telling
from a fixed background that a region is gone, added four files.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FILES_AT_MOST = {"frame": 45, "describe": 34}
TYPES_AT_MOST = {"frame": 33, "describe": 26}
ON_THE_WAY = {
    "frame": {
        "node/sources/frame_mailbox.py",
        "node/pipeline/step_thread.py",
        "node/tracking/tracker.py",
        "node/scheduling/scheduler.py",
        "node/captioning/batch_captioner.py",
        "testing.py",
        "node/publishing/publisher.py",
    },
    "describe": {
        "node/requests/handler.py",
        "node/pipeline/pipeline.py",
        "node/captioning/batch_captioner.py",
        "testing.py",
        "node/requests/replies.py",
    },
}
"""Files of every thread: the trace misses none."""


@pytest.mark.slow
@pytest.mark.timeout(300)  # a whole node that is traced, maybe beside much else
def test_the_paths_of_a_frame_and_of_a_describe_only_get_shorter(repository):
    command = [sys.executable, "tools/path_of_data.py", "--json"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = json.loads(done.stdout)
    for name, limit in FILES_AT_MOST.items():
        calls, types = paths[name]["calls"], paths[name]["types"]
        assert calls.keys() >= ON_THE_WAY[name]
        assert len(calls) <= limit, (name, sorted(calls))
        assert {"RegionRequest", "CaptionBatch", "RowDone", "CaptionFinal"} <= set(types)
        assert len(types) <= TYPES_AT_MOST[name], (name, types)
