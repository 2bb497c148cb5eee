"""Feed strangers' bytes to everything that reads them, and stop at the first fault.

    python tools/fuzz.py --inputs 1000000                    own mutations, all targets, any Python
    python tools/fuzz.py --atheris --inputs 200000 event     led by coverage; needs `atheris`
    python tools/fuzz.py --keep event                        as above, and keep what it found

Nothing but the documented errors may come out, no input may take longer than `--slow` seconds,
and the process may not grow beyond `--memory` MiB. A fault is printed as hex with its traceback
(put the line into tests/fuzz_seeds/TARGET.hex once it is repaired), exit 1.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the targets one after the other."""
    options = _parser().parse_args(argv)
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory << 20, options.memory << 20))
    if options.inside:
        return _atheris(options.targets[0], options)
    from tools.fuzz_targets import TARGETS

    begun, total = time.monotonic(), 0
    for name in options.targets or TARGETS:
        share = max(1, options.inputs // len(options.targets or TARGETS))
        if options.atheris or options.keep:
            if code := _apart(name, share, options):
                return code
        elif not _plain(name, share, options):
            return 1
        total += share
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{total} inputs in {time.monotonic() - begun:.0f} s, at most {grown} MiB, no fault")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="[all]")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=2.0, metavar="S", help="[%(default)s]")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="[%(default)s]")
    parser.add_argument("--atheris", action="store_true", help="led by coverage")
    parser.add_argument("--keep", action="store_true", help="atheris; keep a small set of seeds")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser


def _plain(name: str, inputs: int, options: argparse.Namespace) -> bool:
    """Mutations of the seeds and of their mutations, the same for the same `--seed`."""
    from tools.fuzz_targets import mutate, run, seeds

    draw, pool = random.Random(f"{name} {options.seed}"), seeds(name)  # noqa: S311  (no secret)
    recent, slowest, begun = deque(pool, maxlen=64), 0.0, time.monotonic()
    for number in range(inputs):
        data = mutate(draw.choice(recent if draw.random() < 0.5 else pool), draw, pool)
        if number % 50 == 0:
            recent.append(data)
        at = time.process_time()  # not what others on this machine do meanwhile
        try:
            run(name, data)
        except BaseException:  # noqa: BLE001  (whatever it is, it is what we look for)
            traceback.print_exc()
            print(f"{name}: a fault with {data.hex()}")
            return False
        slowest = max(slowest, time.process_time() - at)
        if slowest > options.slow:
            print(f"{name}: {slowest:.1f} s with {data.hex()}")
            return False
    seconds = time.monotonic() - begun
    print(
        f"{name:<8} {inputs} inputs in {seconds:.0f} s, slowest {slowest * 1e3:.1f} ms", flush=True
    )
    return True


def _apart(name: str, inputs: int, options: argparse.Namespace) -> int:
    """libFuzzer ends its process, so each target has one of its own."""
    from tools.fuzz_targets import SEEDS, seeds

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            Path(folder, f"seed{number}").write_bytes(seed)
        more = ["--inputs", str(inputs), "--seed", str(options.seed), "--slow", str(options.slow)]
        done = subprocess.run(
            [sys.executable, __file__, name, "--inside", folder, *more], check=False
        )
        if done.returncode == 0 and options.keep:
            _keep(SEEDS / f"{name}.hex", Path(folder))
        return done.returncode


def _keep(path: Path, folder: Path) -> None:
    """The smallest of what found new ways through the code, a few KiB in all."""
    found = sorted(
        (one.read_bytes() for one in folder.iterdir() if "seed" not in one.name), key=len
    )
    kept, room = path.read_text().split() if path.exists() else [], 6000
    for data in found[:: max(1, len(found) // 40)]:
        if len(data) <= room:
            kept.append(data.hex())
            room -= len(data)
    path.write_text("\n".join(dict.fromkeys(kept)) + "\n")


def _atheris(name: str, options: argparse.Namespace) -> int:
    import atheris  # not in any extra: needed for this alone

    with atheris.instrument_imports(include=["ureca"]):
        from tools.fuzz_targets import mutate, run, seeds

    pool = seeds(name)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)  # noqa: S311  (no secret)
        if draw.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, draw, pool)[:max_size]

    arguments = [
        sys.argv[0],
        options.inside,
        f"-runs={options.inputs}",
        f"-seed={options.seed + 1}",
        f"-timeout={max(1, round(options.slow))}",
        f"-rss_limit_mb={options.memory}",
        "-max_len=16384",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup(arguments, lambda data: run(name, data), custom_mutator=mutator)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
