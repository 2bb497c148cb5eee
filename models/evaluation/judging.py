"""A language model behind an OpenAI-compatible server as judge, for DLC-Bench and ViP-Bench."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ureca.errors import ConfigError, UrecaError
from ureca.models.curation.annotators.server import ServerAnnotator
from ureca.models.curation.answer_cache import AnswerCache
from ureca.models.curation.errors import AnnotatorError, BudgetError
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion, make_text_question
from ureca.models.evaluation.options import parse_positive
from ureca.models.runtime.server.client import ServerConfig

_MAX_ANSWER_TOKENS = 300


def add_judge_options(parser: argparse.ArgumentParser, places: str) -> None:
    """Options of the judge; `places` says what another prompt must contain."""
    add = parser.add_argument
    add("--judge", required=True, metavar="URL", help="an OpenAI-compatible server, http://HOST/v1")
    add("--judge-model", required=True, metavar="NAME", help="the judge's name at that server")
    add("--prompt", type=Path, metavar="FILE", help=f"file with another prompt; {places}")
    add("--threads", type=parse_positive, default=4, help="regions in parallel [%(default)s]")
    add("--per-minute", type=float, default=0.0, metavar="N", help="requests per minute, at most")
    add(
        "--max-questions",
        type=parse_positive,
        metavar="N",
        help="at most this many requests in this run",
    )
    add("--retries", type=int, default=6, help="retries of a failed request [%(default)s]")


def open_judge(options: argparse.Namespace) -> AnswerCache:
    """The judge of the options; its answers are kept in `OUT/answers`."""
    options.out.mkdir(parents=True, exist_ok=True)
    config = ServerConfig(
        url=options.judge,
        model=options.judge_model,
        temperature=0.0,
        max_tokens=_MAX_ANSWER_TOKENS,
        per_minute=options.per_minute,
        retries=options.retries,
    )
    server = ServerAnnotator(config)
    return AnswerCache(options.out / "answers", server, budget=options.max_questions)


def read_prompt(path: Path) -> str:
    """The text of another prompt. Raises `ConfigError` if it cannot be read."""
    try:
        return path.read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the prompt {path}: {error}") from error


def collect_answers(
    judge: Annotator, prompts: Mapping[str, Sequence[str]], threads: int
) -> Iterator[tuple[str, list[str]]]:
    """Return the judge's answers by region; a prompt that stands twice is asked twice. Regions with
    a missing answer are left out and reported.
    """

    def answers(key: str) -> list[str] | UrecaError:
        try:
            return [judge.answer(one).text for one in _make_questions(key, prompts[key])]
        except (AnnotatorError, BudgetError) as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(prompts, desc="judged", unit="region", disable=None)
        for key, said in zip(bar, pool.map(answers, prompts), strict=True):
            if isinstance(said, UrecaError):
                sys.stderr.write(f"{key}: not judged: {said}\n")
            else:
                yield key, said


def _make_questions(key: str, prompts: Sequence[str]) -> Iterator[AnnotatorQuestion]:
    """Questions of one region. `said` is not sent: it tells the answers of equal ones apart."""
    times: Counter[str] = Counter()
    for prompt in prompts:
        said = f"again {times[prompt]}" if times[prompt] else ""
        times[prompt] += 1
        yield make_text_question("judge", key, prompt, said=said)
