from __future__ import annotations

import subprocess
import sys


def test_no_file_and_no_function_is_past_the_hard_limits(repository):
    done = subprocess.run(
        [sys.executable, "tools/sizes.py"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
