"""Options and reports that the commands of curation share."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ureca.errors import ConfigError
from ureca.models.runtime.server.client import ServerConfig

_SHIPPED = Path(__file__).parents[1] / "pretrained" / "ureca-nano"
Json = dict[str, Any]  # JSON values


def add_captioner_options(parser: argparse.ArgumentParser) -> None:
    """Who writes: our own captioner, a server or a local model, and its limits."""
    asking = ServerConfig
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


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How it runs, and what is printed."""
    parser.add_argument("--threads", type=int, default=1, help="images in parallel [%(default)s]")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def make_server(options: argparse.Namespace) -> ServerConfig | None:
    """The server of the options, None for another captioner. Raises `ConfigError` for both."""
    if options.url and options.local:
        raise ConfigError("--url and --local exclude each other")
    if not options.url:
        return None
    return ServerConfig(
        url=options.url,
        model=options.model or "",
        per_minute=options.per_minute,
        timeout_s=options.timeout,
        retries=options.retries,
    )


def tell_report(report: Json, options: argparse.Namespace, command: str) -> int:
    """Print the report with its cost; return 1 when some pictures were not done."""
    if options.price:
        report["cost"] = _compute_cost(report["questions"], options.price)
        report["cost_so_far"] = _compute_cost(report["answers"], options.price)
    sys.stdout.write((json.dumps(report) if options.json else _format_table(report)) + "\n")
    if report["pictures_failed"]:
        why = ", ".join(f"{n} {reason}" for reason, n in report["pictures_failed"].items())
        for reason, error in report["failed_because"].items():
            sys.stderr.write(f"{command}: {reason}: {error}\n")
        sys.stderr.write(f"{command}: not done: {why}; start again to go on\n")
    return int(bool(report["pictures_failed"]))


def _compute_cost(questions: dict[str, int], price: tuple[float, float]) -> float:
    """Return the cost in the unit of the prices, which are per million tokens."""
    each = (questions.get("tokens_in", 0), questions.get("tokens_out", 0))
    return round(sum(n * p for n, p in zip(each, price, strict=True)) / 1e6, 4)


def _format_table(report: Json) -> str:
    lines = []
    for name, value in report.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {n}" for k, n in value.items() if n) or "none"
        elif isinstance(value, list):
            shown = ", ".join(map(str, value)) or "none"
        lines.append(f"{name:<16} {shown}")
    return "\n".join(lines)


def _parse_prices(text: str) -> tuple[float, float]:
    try:
        into, out = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected IN,OUT like 0.15,0.6, got {text!r}") from None
    return into, out
