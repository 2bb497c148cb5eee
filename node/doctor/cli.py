"""`ureca doctor`: check this machine and print what to fix."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial

from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.node.doctor import check_machine, check_software, check_video
from ureca.node.doctor.findings import Check, Finding, examine, plain

_EPILOG = """exit codes: 0 ready, 1 something must be mended first
examples:
  ureca doctor
  ureca doctor --bundle runs/bundle --json | jq '.findings[] | select(.state == "bad")'"""


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the node can run here, 1 when something must be mended first."""
    options = _parser().parse_args(argv)
    checks = _checks(options)
    width = max(len(name) for name, _ in checks)
    findings: list[Finding] = []
    for finding in examine(checks):
        findings.append(finding)
        if not options.json:
            print(finding.text(width), flush=True)
    bad = sum(finding.state == "bad" for finding in findings)
    if options.json:
        print(json.dumps(plain(findings), indent=1))
    else:
        print(f"\n{bad} to mend before the node can run" if bad else "\nready")
    return 1 if bad else 0


def _checks(options: argparse.Namespace) -> list[tuple[str, Check]]:
    return [
        ("python", check_machine.python),
        ("processor", check_machine.processor),
        ("memory", check_machine.memory),
        ("shared memory", check_machine.shared_memory),
        ("open files", check_machine.open_files),
        ("clock", check_machine.clock_sync),
        ("extras", check_software.extras),
        ("onnxruntime", check_software.runtimes),
        ("captioner", partial(check_software.captioner, options.bundle)),
        ("events", partial(check_software.ports, options.events, options.requests)),
        ("video", check_video.video),
        ("cameras", check_machine.camera_access),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca doctor",
        description="Check whether this machine can run the node, and how to fix what is missing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", default="", metavar="DIR", help="[the shipped captioner]")
    parser.add_argument("--events", default=EVENTS_ADDRESS, help="[%(default)s]")
    parser.add_argument("--requests", default=REQUESTS_ADDRESS, help="[%(default)s]")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser
