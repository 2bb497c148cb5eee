"""`ureca eval vip`: ViP-Bench with a language model behind an OpenAI-compatible server as judge."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ureca.errors import ConfigError
from ureca.models.curation.annotators.server import ServerAnnotator
from ureca.models.curation.answer_cache import AnswerCache
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.judging import (
    add_judge_options,
    collect_answers,
    open_judge,
    read_prompt,
)
from ureca.models.evaluation.options import parse_positive
from ureca.models.evaluation.vip.answering import ask_server, caption_objects, read_answers
from ureca.models.evaluation.vip.questions import (
    AGAIN,
    PROMPT,
    VipQuestion,
    make_vip_prompt,
    parse_score,
    read_vip_questions,
    summarise_scores,
)
from ureca.models.runtime.server.client import KEY_VARIABLE, ServerConfig

_EPILOG = f"""examples:
  ureca eval vip --bench ViP-Bench --split bbox --url http://127.0.0.1:8000/v1 --model internvl \\
      --judge http://127.0.0.1:9000/v1 --judge-model gpt-4 -o runs/vip
  ureca eval vip --bench ViP-Bench --answers results/vip-llava-7b-bbox.json \\
      --judge http://127.0.0.1:9000/v1 --judge-model gpt-4 --runs 5 -o runs/vip-other
  ureca eval vip BUNDLE --bench ViP-Bench --judge http://127.0.0.1:9000/v1 --judge-model gpt-4 \\
      -o runs/vip-captions

A bundle is a captioner: it reads no question, its captions of the marked regions are the answers.
The judge sees no picture. Its name and the hash of the prompt are in metrics.json: figures of other
judges or prompts are other figures. Answers are kept; start again to go on. The keys of both
servers come from {KEY_VARIABLE}.

Exit status: 0 done, 1 some questions have no answer or judgement, 2 it could not be run."""
Json = dict[str, Any]  # JSON values


def main(argv: Sequence[str]) -> int:
    """Run the command; see `--help`."""
    options = _build_parser().parse_args(argv)
    if sum(map(bool, (options.model_folder, options.url, options.answers))) != 1:
        raise ConfigError("give one of BUNDLE_OR_CHECKPOINT, --url with --model, and --answers")
    template = read_prompt(options.prompt) if options.prompt else PROMPT
    questions = read_vip_questions(options.bench, options.split)
    make_vip_prompt(template, questions[0], "")
    options.out.mkdir(parents=True, exist_ok=True)
    answers = _collect(options, questions)
    (options.out / "answers.json").write_text(json.dumps(answers, indent=1) + "\n", "utf8")
    judged, counts, judge = _judge(options, questions, answers, template)
    metrics = _summarise(options, questions, answers, judged) | {
        "judge": judge,
        "prompt": options.prompt.name if options.prompt else "ours",
        "prompt_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "asked": counts["asked"],
        "tokens": [counts["tokens_in"], counts["tokens_out"]],
    }
    _write(options.out, metrics, questions, answers, judged)
    sys.stdout.write((json.dumps(metrics) if options.json else _format_table(metrics)) + "\n")
    return int(bool(metrics["without_answer"] or metrics["not_judged"]))


def _collect(options: argparse.Namespace, questions: Sequence[VipQuestion]) -> dict[str, str]:
    """Answers by key, in the order of the questions."""
    if options.answers:
        return read_answers(options.answers, questions)
    if options.model_folder:
        engine = open_engine(options.model_folder)
        return dict(caption_objects(engine, options.bench, questions))
    server = ServerConfig(
        url=options.url,
        model=options.model or "",
        temperature=0.0,
        per_minute=options.per_minute,
        retries=options.retries,
    )
    ledger = AnswerCache(options.out / "said", ServerAnnotator(server))
    try:
        asked = ask_server(ledger, options.bench, options.split, questions, options.threads)
        return dict(asked)
    finally:
        ledger.close()


def _judge(
    options: argparse.Namespace,
    questions: Sequence[VipQuestion],
    answers: Mapping[str, str],
    template: str,
) -> tuple[dict[str, list[str]], Mapping[str, int], str]:
    """The judge's words of each run by key. An answer without a score is asked for once more."""
    ledger = open_judge(options)
    asked = {
        one.key: [make_vip_prompt(template, one, answers[one.key])] * options.runs
        for one in questions
        if one.key in answers
    }
    try:
        judged = dict(collect_answers(ledger, asked, options.threads))
        again = {
            key: [asked[key][0] + AGAIN] * sum(parse_score(text) is None for text in said)
            for key, said in judged.items()
        }
        more = dict(collect_answers(ledger, {k: p for k, p in again.items() if p}, options.threads))
    finally:
        ledger.close()
    for key, said in more.items():
        known = [text for text in judged[key] if parse_score(text) is not None]
        judged[key] = known + said
    return judged, ledger.counts, ledger.model


def _summarise(
    options: argparse.Namespace,
    questions: Sequence[VipQuestion],
    answers: Mapping[str, str],
    judged: Mapping[str, Sequence[str]],
) -> Json:
    scores = {key: [parse_score(text) or 0.0 for text in said] for key, said in judged.items()}
    return {
        "bench": "ViP-Bench",
        "split": options.split,
        "model": str(options.model_folder or options.model or options.answers),
        "answers_are": "captions of the regions" if options.model_folder else "answers",
        **summarise_scores(questions, scores),
        "runs": options.runs,
        "unread": sum(parse_score(text) is None for said in judged.values() for text in said),
        "without_answer": len(questions) - len(answers),
        "not_judged": len(answers) - len(judged),
    }


def _write(
    out: Path,
    metrics: Json,
    questions: Sequence[VipQuestion],
    answers: Mapping[str, str],
    judged: Mapping[str, Sequence[str]],
) -> None:
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", "utf8")
    with (out / "judged.jsonl").open("w", encoding="utf8") as lines:
        for one in questions:
            if one.key in judged:
                row = {
                    "key": one.key,
                    "question": one.text,
                    "truth": one.truth,
                    "answer": answers[one.key],
                    "capability": list(one.capabilities),
                    "judge": list(judged[one.key]),
                    "scores": [parse_score(text) for text in judged[one.key]],
                }
                lines.write(json.dumps(row) + "\n")


def _format_table(metrics: Json) -> str:
    lines = [f"{'total':<24} {metrics['total']} (deviation over runs {metrics['total_std']})"]
    for kind in ("capabilities", "integrations"):
        for name, one in metrics[kind].items():
            lines.append(f"{name:<24} {one['score']:>6} of {one['n']}")
    names = ("n", "runs", "unread", "without_answer", "not_judged", "judge", "prompt", "asked")
    return "\n".join([*lines, *(f"{name:<24} {metrics[name]}" for name in names)])


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval vip",
        description="ViP-Bench: questions about marked regions, judged by a language model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("model_folder", type=Path, nargs="?", metavar="BUNDLE_OR_CHECKPOINT")
    add("--bench", type=Path, required=True, metavar="DIR", help="the benchmark's folder")
    add("--split", choices=("bbox", "human"), default="bbox", help="who drew the marks [bbox]")
    add("--url", help="a server that answers: OpenAI-compatible, http://HOST/v1")
    add("--model", help="name of its model")
    add("--answers", type=Path, metavar="FILE", help="answers that exist: a JSON object by key")
    add("--runs", type=parse_positive, default=1, help="judge every answer N times [%(default)s]")
    add_judge_options(parser, "contains {question}, {truth} and {answer}")
    add("-o", "--out", type=Path, required=True, help="folder for the results")
    add("--json", action="store_true", help="print metrics.json instead of a table")
    return parser
