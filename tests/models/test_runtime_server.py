"""The captioner behind a server, against a scripted one on a real socket."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.openai_server import Flaky
from ureca.config import from_plain
from ureca.datatypes import RegionInput, RowDelta, RowDone
from ureca.engine import never
from ureca.errors import ConfigError, EngineError
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.pretrained import find_bundle
from ureca.models.runtime.server.answers import AnswerError, parse_captions
from ureca.models.runtime.server.client import KEY_VARIABLE
from ureca.models.runtime.server.config import ServerEngineConfig, load_server_config
from ureca.models.runtime.server.engine import ServerEngine
from ureca.models.runtime.server.fallback import FallbackEngine
from ureca.testing import ScriptedEngine, SyntheticSource

pytest.importorskip("openai", reason="asking servers needs the extra `server`")
SOURCE = SyntheticSource(things=4, width_px=320, height_px=240)
IMAGE = SOURCE.image(0)
MASKS = list(SOURCE.masks(0).values())
REGIONS = [RegionInput(mask) for mask in MASKS]


def say(prompt: str, key: str) -> str:
    """What a good model says: one text for each number of the prompt."""
    style = "thing" if "noun phrase" in prompt else "thing that stands on the table"
    numbers = re.findall(r'"(\d+)": "', prompt)
    return json.dumps({number: f"a {style} called {number}" for number in numbers})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flaky]]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    made: list[Flaky] = []

    def start(*troubles: object, **more: object) -> Flaky:
        made.append(Flaky(troubles, reply=say, **more))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for server in made:
        if server.thread.is_alive():
            server.die()


def engine(server: Flaky, **options: object) -> ServerEngine:
    plain = {"url": server.url, "model": "m", **options}
    return ServerEngine(from_plain(ServerEngineConfig, plain))


def caption(
    of: ServerEngine,
    regions: list[RegionInput] = REGIONS,
    *,
    aborted: Callable[[int], bool] = never,
) -> tuple[dict[int, RowDone], str]:
    """The ends by row, and what `EngineError` said at the end."""
    ends: dict[int, RowDone] = {}
    said: dict[int, str] = {}
    try:
        for out in of.caption(of.encode(IMAGE), regions, aborted=aborted):
            if isinstance(out, RowDelta):
                said[out.row] = said.get(out.row, "")[: out.offset] + out.text
            else:
                assert out.row not in ends
                assert out.stop == "aborted" or said.get(out.row, "") == out.text
                ends[out.row] = out
    except EngineError as error:
        return ends, str(error)
    return ends, ""


@pytest.mark.parametrize(("together", "requests"), [(1, 4), (2, 2), (4, 1)])
def test_regions_are_captioned_alone_or_together(serve, together, requests):
    server = serve()
    of = engine(server, regions_per_request=together, price_in_per_1k=2.0, price_out_per_1k=10.0)
    ends, problem = caption(of)
    assert not problem
    numbers = [row % together + 1 for row in range(4)]
    assert [ends[row].text for row in range(4)] == [f"a thing called {n}" for n in numbers]
    assert {end.stop for end in ends.values()} == {"eos"}
    content = [body["messages"][0]["content"] for body in server.bodies]
    pictures = 1 + together
    assert [len(parts) for parts in content] == [pictures + 1] * requests
    assert of.account.asked == requests
    assert of.account.tokens_in == 100 * requests
    assert of.account.cost == pytest.approx(requests * (0.1 * 2 + 0.005 * 10))
    assert f"{requests} requests, 0 failed" in of.summarise()
    assert of.times.us["prep"] > 0


def test_styles_have_requests_and_prompts_of_their_own(serve):
    regions = [RegionInput(MASKS[0]), RegionInput(MASKS[1], "long"), RegionInput(MASKS[2])]
    server = serve()
    ends, _ = caption(engine(server, regions_per_request=4), regions)
    assert [ends[row].text for row in range(3)] == [
        "a thing called 1",
        "a thing that stands on the table called 1",
        "a thing called 2",
    ]
    mine = engine(server, prompts={"short": "SAY: noun phrase"})
    caption(mine, regions[:1])
    assert "SAY: noun phrase" in server.bodies[-1]["messages"][0]["content"][-1]["text"]


@pytest.mark.parametrize(("pictures", "count"), [("both", 2), ("outlined", 1), ("crop", 1)])
def test_what_is_sent_is_configured(serve, pictures, count):
    server = serve()
    of = engine(server, pictures=pictures, max_tokens=77, extra_body={"top_k": 1})
    caption(of, REGIONS[:1])
    (body,) = server.bodies
    assert len(body["messages"][0]["content"]) == count + 1
    assert (body["model"], body["max_tokens"], body["top_k"]) == ("m", 77, 1)
    assert body["response_format"] == {"type": "json_object"}


def test_a_server_that_fails_and_throttles_is_asked_again(serve):
    server = serve(500, 429, "hang_up", 503)
    ends, problem = caption(engine(server, retries=4))
    assert (len(ends), problem) == (4, "")
    assert sum(server.requests.values()) == 8


def test_a_throttling_server_says_how_long_to_wait(serve):
    server = serve(429, retry_after_s="1")
    began = time.monotonic()
    ends, _ = caption(engine(server), REGIONS[:1])
    assert len(ends) == 1
    assert time.monotonic() - began > 0.9


def test_a_throttle_beyond_the_time_is_a_failure(serve):
    server = serve(429, retry_after_s="30")
    began = time.monotonic()
    ends, problem = caption(engine(server, timeout_s=0.5), REGIONS[:1])
    assert (ends, "timeout_s=0.5" in problem) == ({}, True)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("html", "sent no answer"),
        ("huge", "more than max_answer_bytes=262144"),
        ("endless", "more than max_answer_bytes=262144"),
        ("endless_error", "more than max_answer_bytes=262144"),
        ("zipped", "sent no answer"),
        ("nonsense", "sent no answer"),
        ("nothing", "no JSON object"),
        ("elsewhere", "127.0.0.1"),
        (401, KEY_VARIABLE),
        (404, "does the URL end in /v1"),
        (500, "InternalServerError"),
        (b"a red mug", "no JSON object"),
        (b'["a red mug"]', "no JSON object"),
        (b'{"1": "a mug"} and more', "no JSON object"),
        (b"{}", "nothing about number 1"),
        (b'{"1": 7}', "no text for number 1"),
        (b'{"1": "  "}', "number 1 is empty"),
        (b'{"1": "a \\u0007 bell"}', "cannot be printed"),
        (b'{"1": "the outlined mug"}', "about the outlines"),
        (b'{"1": "a mug", "1": "a cup"}', "a number twice"),
        (b'{"1": "a mug", "2": "a cup"}', "asked were 1 to 1"),
        (b"[" * 100_000, "no JSON object"),
    ],
)
def test_a_lie_costs_its_region_and_no_other(serve, lie, words):
    server = serve(lie)
    of = engine(server, max_concurrency=1, retries=0)
    ends, problem = caption(of, REGIONS[:1])
    assert ends == {}
    assert words in problem
    assert of.account.failed == 1
    assert of.account.unanswered == 1
    ends, problem = caption(of, REGIONS[:1])
    assert (len(ends), problem) == (1, "")


def test_one_bad_number_fails_alone(serve):
    server = serve(b'```json\n{"1": "a mug", "3": "a cup", "4": null}\n```')
    ends, problem = caption(engine(server, regions_per_request=4))
    assert {row: end.text for row, end in ends.items()} == {0: "a mug", 2: "a cup"}
    assert "number 2" in problem
    assert "number 4" in problem


def test_a_slow_server_ends_with_the_deadline(serve):
    server = serve("stall")
    began = time.monotonic()
    ends, problem = caption(engine(server, timeout_s=0.5), REGIONS[:2])
    assert list(ends) in ([0], [1])
    assert "raise it, take a faster model" in problem
    assert time.monotonic() - began < 10


def test_aborted_rows_end_at_once_and_their_request_is_cancelled(serve):
    server = serve()
    server.open.clear()
    of = engine(server)
    began = time.monotonic()
    ends, problem = caption(of, aborted=lambda row: time.monotonic() > began + 0.3)
    assert problem == ""
    assert {end.stop for end in ends.values()} == {"aborted"}
    assert time.monotonic() - began < 10
    assert of.account.cancelled == 4


def test_no_more_requests_than_allowed_are_open(serve):
    server = serve()
    server.open.clear()
    regions = [RegionInput(MASKS[0], "long"), *REGIONS[1:4]]
    of = engine(server, regions_per_request=3, max_concurrency=2)
    threading.Timer(0.5, server.open.set).start()
    assert len(caption(of, regions)[0]) == 4
    of = engine(server, regions_per_request=4, max_concurrency=1)
    server.open.clear()
    threading.Timer(0.5, server.open.set).start()
    assert len(caption(of, regions)[0]) == 4
    assert server.most_open == 2


def test_an_aborted_row_does_not_shift_the_others(serve):
    server = serve()
    server.open.clear()
    threading.Timer(0.5, server.open.set).start()
    of = engine(server, regions_per_request=4)
    ends, problem = caption(of, aborted=lambda row: row == 1)
    assert problem == ""
    assert ends[1].stop == "aborted"
    assert [ends[row].text[-1] for row in (0, 2, 3)] == ["1", "3", "4"]


def test_who_stops_listening_leaves_nothing_behind(serve):
    server = serve("stall")
    of = engine(server)
    outputs = of.caption(of.encode(IMAGE), REGIONS)
    next(outputs)
    outputs.close()  # the fixture of all tests looks for threads and loops


def test_a_dead_server_is_named_and_used_again_when_it_is_back(serve):
    server = serve()
    port, of = server.server_address[1], engine(server)
    server.die()
    ends, problem = caption(of)
    assert ends == {}
    assert "is the server running there?" in problem
    serve(port=port)
    assert len(caption(of)[0]) == 4


def test_requests_keep_their_distance_and_their_number(serve):
    server = serve()
    began = time.monotonic()
    ends, _ = caption(engine(server, requests_per_minute=600), REGIONS[:4])
    assert len(ends) == 4
    assert time.monotonic() - began > 0.28
    few = engine(server, max_concurrency=2)
    with pytest.raises(EngineError, match="at most 2 regions"):
        few.caption(few.encode(IMAGE), REGIONS[:3])


def test_the_key_comes_from_the_environment(serve, monkeypatch):
    server = serve()
    monkeypatch.setenv(KEY_VARIABLE, "secret-of-mine")
    caption(engine(server), REGIONS[:1])
    assert server.keys == ["Bearer secret-of-mine"]


@pytest.mark.parametrize("url", ["http://192.0.2.1/v1", "https://api.example.com/v1"])
def test_pictures_go_to_no_other_host_unless_it_is_named(tmp_path, url):
    path = tmp_path / "server.yaml"
    path.write_text(f"url: {url}\nmodel: m\n")
    host = url.split("/")[2]
    with pytest.raises(ConfigError, match=rf"(?s)server\.yaml.*allow_hosts: \[{re.escape(host)}\]"):
        load_engine(path)
    path.write_text(f"url: {url}\nmodel: m\nallow_hosts: [{host.upper()}]\n")
    assert load_engine(path).info.model == "m"


def test_the_proxy_of_the_environment_gets_no_picture(serve, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert len(caption(engine(serve()), REGIONS[:1])[0]) == 1
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url: http://127.0.0.1/v1\nmodel: m\nmax_concurency: 3", "max_concurrency"),
        ("url: http://127.0.0.1/v1\nmodel: m\nzzz: 3", "known are .*allow_hosts"),
        ("url: http://127.0.0.1/v1", "model"),
        ("url: ftp://127.0.0.1/v1\nmodel: m", "http"),
        ("url: http://me:word@127.0.0.1/v1\nmodel: m", KEY_VARIABLE),
        ("url: http://127.0.0.1/v1\nmodel: m\ntimeout_s: 0", "timeout_s must be"),
        ("url: http://127.0.0.1/v1\nmodel: m\nregions_per_request: 99", "1..16"),
        ("url: http://127.0.0.1/v1\nmodel: m\nextra_body: {stream: true}", "stream"),
        ("url: http://127.0.0.1/v1\nmodel: m\npictures: none", "pictures"),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path, text, words):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)server\.yaml.*{words}"):
        load_engine(path)


def test_the_shipped_examples_can_be_read(repository):
    files = sorted((repository / "configs" / "server").glob("*.yaml"))
    assert files
    assert all(load_server_config(path).model for path in files)


def twofold(server, **options):
    fast = ScriptedEngine(max_regions=8)
    return FallbackEngine(fast, engine(server, **options))


def test_fast_words_are_replaced_by_those_of_the_server(serve):
    of = twofold(serve(), regions_per_request=2)
    outputs = list(of.caption(of.encode(IMAGE), REGIONS))
    *fast, served, end = [out for out in outputs if out.row == 0]
    assert all(isinstance(out, RowDelta) for out in fast)
    assert "".join(out.text for out in fast) == "a red thing"
    assert served == RowDelta(row=0, offset=0, text=end.text)
    ends, problem = caption(of)
    assert (problem, len(ends)) == ("", 4)
    assert all(end.text.startswith("a thing called") for end in ends.values())
    assert {end.writer for end in ends.values()} == {None}
    assert of.info.model == "m"
    assert {"vit", "prep"} <= set(of.times.us)


def test_where_the_server_fails_the_fast_words_stay_and_say_whose_they_are(serve, caplog):
    server = serve(b'{"1": "a mug", "3": "a cup"}')
    of = twofold(server, regions_per_request=4)
    ends, problem = caption(of)
    assert problem == ""
    texts = [ends[row].text for row in range(4)]
    assert texts == ["a mug", "a green thing", "a cup", "a yellow thing"]
    names = [end.writer and end.writer.model for _, end in sorted(ends.items())]
    assert names == [None, "scripted", None, "scripted"]
    assert "2 regions kept the words of scripted" in of.summarise()
    assert "number 2" in caplog.text
    server.die()
    assert {end.writer.model for end in caption(of)[0].values()} == {"scripted"}


def test_rows_aborted_in_either_half_end_once(serve):
    server = serve()
    server.open.clear()
    of = twofold(server)
    began = time.monotonic()
    late = lambda row: row == 2 or time.monotonic() > began + 0.4  # noqa: E731
    ends, problem = caption(of, aborted=late)
    assert problem == ""
    assert {end.stop for end in ends.values()} == {"aborted"}
    assert len(ends) == 4


def test_a_file_names_its_fallback(tmp_path, serve):
    path = tmp_path / "server.yaml"
    path.write_text(f"url: {serve().url}\nmodel: m\nfallback: nowhere\n")
    with pytest.raises(ConfigError, match="none, shipped or a folder, got 'nowhere'"):
        load_engine(path)
    if find_bundle() is None:
        pytest.skip("no shipped bundle here")
    path.write_text(f"url: {serve().url}\nmodel: m\nfallback: shipped\n")
    of = load_engine(path)
    ends = [out for out in of.caption(of.encode(IMAGE), REGIONS[:1]) if isinstance(out, RowDone)]
    assert [end.text for end in ends] == ["a thing called 1"]
    assert "kept the words of ureca-nano" in of.summarise()


def test_numbers_are_read_as_they_stand():
    found = parse_captions(' {"2": "b cup", "1": "a  mug\\n"} ', 2)
    assert found == {1: "a mug", 2: "b cup"}
    with pytest.raises(AnswerError):
        parse_captions('{"01": "a mug"}', 1)


def test_small_regions_stay_when_pictures_shrink(serve):
    mask = np.zeros((2000, 3000), np.bool_)
    mask[1001, 1777] = True
    of = engine(serve(), max_side_px=64)
    image = np.zeros((2000, 3000, 3), np.uint8)
    (_, end) = of.caption(of.encode(image), [RegionInput(mask)])
    assert end.text == "a thing called 1"
