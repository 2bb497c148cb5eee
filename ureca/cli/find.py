"""`ureca find TEXT`: ask a running node which regions a text is true of."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from ureca.client.client import Client
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.protocol.results import FindResult, Found
from ureca.security.keys import add_key_options, keys_of

_EPILOG = """examples:
  ureca find "the red mug"
  ureca find "the drawer's handle" --level part --json
  ureca find "two bottles" --where frame --masks --json

The exit code is 1 when the text is not there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per answer; returns 1 when there is none."""
    options = _parser().parse_args(argv)
    with Client.connect(EVENTS_ADDRESS, options.requests, keys=keys_of(options)) as client:
        found = client.find(
            options.text,
            stream=options.stream,
            limit=options.limit,
            where=options.where,
            masks=options.masks,
            level=options.level,
            deadline_s=options.timeout,
        )
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(text_of(options.text, found))
    return 0 if found.regions else 1


def text_of(text: str, found: FindResult) -> str:
    """The result for people."""
    if found.by == "caption_words":
        lines = ["compared words of captions: the node's bundle cannot score texts"]
        lines += [f"{_place(one)}  {one.score:.2f}  {one.text}" for one in found.regions]
        return "\n".join(lines if found.regions else [*lines, f"no caption has words of {text!r}"])
    if not found.regions:
        return f"{text!r} is not there (P(none) {found.none:.2f})"
    return "\n".join(
        f"{_place(one)}  {one.probability:.2f}  {one.level or ''}".rstrip() for one in found.regions
    )


def _place(one: Found) -> str:
    box = "" if one.box is None else f"  {','.join(map(str, one.box))}"
    return f"{one.stream}/{one.rid or '(not followed)':<14}{box}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca find",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", metavar="TEXT", help="what to look for, in a few words")
    parser.add_argument(
        "--requests", default=REQUESTS_ADDRESS, help="address of the node's requests [%(default)s]"
    )
    add_key_options(parser)
    parser.add_argument("--stream", help="only this stream")
    parser.add_argument(
        "--where",
        choices=("tracks", "frame"),
        help="the regions that are followed, or all that a segmenter cuts out [frame with a "
        "segmenter, else tracks]",
    )
    parser.add_argument("--level", choices=("part", "thing", "group"), help="admit only these")
    parser.add_argument("--limit", type=int, default=16, metavar="N", help="answers [%(default)s]")
    parser.add_argument("--masks", action="store_true", help="with --json: masks as COCO RLE")
    parser.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="wait at most this long; a segmenter may take seconds [%(default)s]",
    )
    return parser
