"""`ureca curate`: writes captions for images with masks, by a larger model or by our own
captioner.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ureca.errors import ConfigError
from ureca.models.curation import output
from ureca.models.curation.pipeline import CurationSettings, curate, curate_on_ray
from ureca.models.curation.sources import read_images, read_pictures
from ureca.models.curation.stages import CurationConfig
from ureca.models.curation.tree import TreeConfig
from ureca.models.runtime.server.client import KEY_VARIABLE, ServerConfig

_SHIPPED = Path(__file__).parents[1] / "pretrained" / "ureca-nano"
_EPILOG = f"""examples:
  ureca curate ../shared/data -o runs/curated --limit 200
  ureca curate SA1B_FOLDER -o runs/sa1b --url http://127.0.0.1:8000/v1 --model internvl \\
      --min-depth 3 --threads 8 --per-minute 300 --max-questions 5000
  ureca curate ../shared/data -o runs/local --local MODEL_FOLDER
  ureca curate masks --help                      (outlines instead of captions)

Start the same command again to go on: what was answered is not asked twice. The key of a server
comes from {KEY_VARIABLE}. Exit status 1: some pictures could not be done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when every image is done, 1 otherwise. `masks` as the first word: outlines."""
    if argv and argv[0] == "masks":
        from ureca.models.curation.masks.cli import main as curate_masks

        return curate_masks(argv[1:])
    options = _build_parser().parse_args(argv)
    pictures = read_pictures(options.data, limit=options.limit)
    settings = _make_settings(options)
    if options.ray:
        report = curate_on_ray(pictures, settings, workers=options.ray)
    else:
        report = curate(pictures, settings, threads=options.threads)
    if options.price:
        report["cost"] = _compute_cost(report["questions"], options.price)
        report["cost_so_far"] = _compute_cost(report["answers"], options.price)
    if options.sheet:
        done = list(output.read_finished(settings.out, (p.image_key for p in pictures)))
        pages = output.write_contact_sheets(
            settings.out, done, read_images(options.data), options.sheet
        )
        report["sheets"] = [str(page) for page in pages]
    print(json.dumps(report) if options.json else _format_table(report))
    if report["pictures_failed"]:
        why = ", ".join(f"{n} {reason}" for reason, n in report["pictures_failed"].items())
        for reason, error in report["failed_because"].items():
            print(f"ureca curate: {reason}: {error}", file=sys.stderr)
        print(f"ureca curate: not done: {why}; start again to go on", file=sys.stderr)
    return int(bool(report["pictures_failed"]))


def _make_settings(options: argparse.Namespace) -> CurationSettings:
    if bool(options.url) + bool(options.local) > 1:
        raise ConfigError("--url and --local exclude each other")
    server = None
    if options.url:
        server = ServerConfig(
            url=options.url,
            model=options.model or "",
            per_minute=options.per_minute,
            timeout_s=options.timeout,
            retries=options.retries,
        )
    tree = TreeConfig(
        min_share=options.min_share, max_share=options.max_share, min_depth=options.min_depth
    )
    return CurationSettings(
        roots=tuple(options.data),
        out=options.out,
        config=CurationConfig(tree=tree, similar=options.similar, verify=not options.no_verify),
        bundle=str(options.bundle),
        server=server,
        local=options.local or "",
        budget=options.max_questions,
    )


def _compute_cost(questions: dict[str, int], price: tuple[float, float]) -> float:
    """Return the cost in the unit of the prices, which are per million tokens."""
    each = (questions.get("tokens_in", 0), questions.get("tokens_out", 0))
    return round(sum(n * p for n, p in zip(each, price, strict=True)) / 1e6, 4)


def _format_table(report: dict[str, Any]) -> str:
    lines = []
    for name, value in report.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {n}" for k, n in value.items() if n) or "none"
        elif isinstance(value, list):
            shown = ", ".join(map(str, value)) or "none"
        lines.append(f"{name:<16} {shown}")
    return "\n".join(lines)


def _build_parser() -> argparse.ArgumentParser:
    tree, config, asking = TreeConfig(), CurationConfig(), ServerConfig
    parser = argparse.ArgumentParser(
        prog="ureca curate",
        description="Write short and long captions for every mask of many images, and verify them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="+", type=Path, help="data folders, ours or SA-1B's")
    parser.add_argument("-o", "--out", type=Path, required=True, help="output folder of this run")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    who = parser.add_argument_group("captioner [our own]")
    who.add_argument(
        "--bundle", type=Path, default=_SHIPPED, help="a ureca bundle or checkpoint as captioner"
    )
    who.add_argument("--url", help="an OpenAI-compatible server, http://HOST/v1")
    who.add_argument("--model", help="name of the server's model")
    who.add_argument("--local", metavar="DIR", help="a transformers image-text-to-text model")
    who.add_argument(
        "--per-minute", type=float, default=0.0, metavar="N", help="requests per minute, at most"
    )
    who.add_argument(
        "--timeout", type=float, default=asking.timeout_s, metavar="S", help="[%(default)s]"
    )
    who.add_argument(
        "--retries", type=int, default=asking.retries, metavar="N", help="[%(default)s]"
    )
    who.add_argument(
        "--max-questions", type=int, metavar="N", help="at most this many requests in this run"
    )
    who.add_argument(
        "--price",
        type=_parse_prices,
        metavar="IN,OUT",
        help="price per million tokens; the report then has the cost",
    )
    rules = parser.add_argument_group("rules")
    rules.add_argument("--min-share", type=float, default=tree.min_share, help="[%(default)s]")
    rules.add_argument("--max-share", type=float, default=tree.max_share, help="[%(default)s]")
    rules.add_argument("--min-depth", type=int, default=tree.min_depth, help="[%(default)s]")
    rules.add_argument("--similar", type=float, default=config.similar, help="[%(default)s]")
    rules.add_argument(
        "--no-verify", action="store_true", help="keep captions without verification"
    )
    parser.add_argument("--threads", type=int, default=1, help="images in parallel [%(default)s]")
    parser.add_argument("--ray", type=int, metavar="N", help="use N workers of Ray Data")
    parser.add_argument("--sheet", type=int, metavar="N", help="contact sheets of N regions")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _parse_prices(text: str) -> tuple[float, float]:
    try:
        into, out = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected IN,OUT like 0.15,0.6, got {text!r}") from None
    return into, out
