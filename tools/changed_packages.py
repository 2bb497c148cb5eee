"""Print which installed packages have another version than a lock file says.

`python tools/changed_packages.py packaging/lock/dev.txt` runs in the environment in question.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def locked_versions(lock: Path) -> dict[str, str]:
    """Name -> version of every entry of a lock file that holds for this Python and machine."""
    entries = lock.read_text().replace("\\\n", " ").splitlines()
    needs = [Requirement(entry.partition(" --hash=")[0]) for entry in entries if entry.strip()]
    return {
        canonicalize_name(need.name): next(iter(need.specifier)).version
        for need in needs
        if need.marker is None or need.marker.evaluate()
    }


def changed(locked: dict[str, str]) -> Iterator[str]:
    """One line for each package whose installed version is not the locked one."""
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    for name in sorted(locked.keys() | installed.keys()):
        before, now = locked.get(name, "not locked"), installed.get(name, "not installed")
        if before != now:
            yield f"{name}: {before} -> {now}"


def main() -> None:
    """Print the changes, one a line."""
    lines = list(changed(locked_versions(Path(sys.argv[1]))))
    print(f"packages that differ from {sys.argv[1]}: {len(lines) or 'none'}")
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    main()
