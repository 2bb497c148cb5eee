"""`ureca eval attributes`: answers to attributes against the words that people used."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ureca.bundle import MANIFEST_NAME
from ureca.engine import supports_attributes
from ureca.errors import BundleError, MissingExtraError
from ureca.models.evaluation.attributes.cases import read_cases
from ureca.models.evaluation.attributes.measures import Figures
from ureca.models.evaluation.attributes.run import Judged, answer_cases, summarise
from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.options import parse_positive
from ureca.models.runtime.load import load_engine

_ACCURACY = ("n", "commonest", "all", "coverage", "committed", "ece", "said_falsely")
_COLUMNS = (*_ACCURACY, "rouge_l", "bleu_4", "meteor", "cider")
_EPILOG = """examples:
  ureca eval attributes --data ../shared/data --bundle bundle
  ureca eval attributes --data ../shared/data --data worlds --bundle bundle --json

Words of attributes are mined from the regions' phrases, classes and fields (docs/attributes.md).
Of files of training regions only held-out pictures count, and of these the half on which the
shipped thresholds were not chosen (--half). An answer is right if people used its word.

commonest: right if the commonest word were always said; all: right of all, abstaining is wrong;
coverage: a word was said; committed: right of those; ece: calibration error; said_falsely: share of
regions that cannot have the attribute and get a word. The rest are FineCaption's measures (AARC).

Exit status: 0 done, 2 it could not be run."""


def main(argv: Sequence[str]) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    engine = load_engine(options.bundle)
    if not supports_attributes(engine):
        raise BundleError(f"{options.bundle} answers no attributes: it has no such section")
    half = None if options.half == "both" else options.half
    judged: Judged = defaultdict(list)
    for root in options.data:
        cases = read_cases(root)
        for key, answers in answer_cases(
            engine, root, cases, half=half, limit=options.pictures
        ).items():
            judged[key] += answers
    with ExitStack() as stack:
        found = summarise(dict(judged), _open_meteor(stack))
    text = json.dumps(found, indent=1) if options.json else "\n".join(_format(found))
    sys.stdout.write(text + "\n")
    return 0


def _open_meteor(stack: ExitStack) -> Meteor | None:
    try:
        return stack.enter_context(Meteor())
    except MissingExtraError as error:
        sys.stderr.write(f"no meteor: {error}\n")
        return None


def _format(found: dict[str, dict[str, Figures]]) -> Iterator[str]:
    for kind, attributes in found.items():
        yield f"{kind:<14}" + "".join(f"{name:>13}" for name in _COLUMNS)
        for name, figures in attributes.items():
            yield f"  {name:<12}" + "".join(f"{_tell(figures.get(c)):>13}" for c in _COLUMNS)


def _tell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval attributes",
        description="Judge a bundle's answers to attributes of regions.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--data", type=Path, action="append", required=True, metavar="FOLDER", help="repeatable")
    add("--bundle", type=Path, required=True, metavar="DIR", help=f"a folder with {MANIFEST_NAME}")
    add("--half", choices=("report", "calibrate", "both"), default="report", help="[report]")
    add("--pictures", type=parse_positive, metavar="N", help="of each folder, at most")
    add("--json", action="store_true", help="one JSON document")
    return parser
