"""`ureca bench engine` on the tiny bundle: every arm speaks, in turns, and the figures add up."""

import contextlib
import io
import json

import pytest

pytest.importorskip("torch", reason="the eager arm needs the extra `train`")
pytest.importorskip("transformers", reason="needs the extra `bench`")

from ureca.errors import ConfigError
from ureca.models.bench.arms import AGAINST, ArmOutput, measure_equal_texts, open_arms
from ureca.models.bench.engine_bench import main
from ureca.models.bench.files import read_measurement
from ureca.models.bench.report import render_report
from ureca.models.bench.roofline import Peaks, StageWork, count_work
from ureca.models.bench.scenes import make_scenes
from ureca.models.bench.timing import measure_arms
from ureca.models.config import CaptionerConfig

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture(scope="module")
def printed(tiny_bundle, tiny_checkpoint, tmp_path_factory):
    """(stdout lines, chart) of one small bench with every arm."""
    chart = tmp_path_factory.mktemp("bench") / "speed.png"
    arguments = ["--bundle", tiny_bundle, "--checkpoint", tiny_checkpoint, "--regions", "1,3"]
    arguments += ["--frames", "2", "--tokens", "3", "--threads", "1", "--chart", chart]
    arguments += ["--against", ",".join(AGAINST)]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(map(str, arguments))) == 0
    return out.getvalue().splitlines(), chart


def test_the_last_line_holds_a_row_for_every_arm_and_count(printed):
    rows = json.loads(printed[0][-1])["rows"]
    assert [(r["regions"], r["arm"]) for r in rows] == [
        (count, arm) for count in (1, 3) for arm in ("shared", *AGAINST)
    ]
    assert all(r["frames"] == 2 and 0 < r["ms_median"] <= r["ms_p95"] for r in rows)
    assert len({r["tokens_per_caption"] for r in rows if r["regions"] == 3}) == 1


def test_speed_stands_beside_quality(printed):
    report = json.loads(printed[0][-1])
    assert all(r["same_captions"] == 1.0 for r in report["rows"])  # all are float32, all exact
    (bundle,) = report["bundles"].values()
    assert bundle["agreement"]["caption_exact"] == 1.0
    assert len(bundle["sha256"]) == 64


def test_stages_are_told_and_lie_under_the_roof(printed):
    shared = json.loads(printed[0][-1])["rows"][0]
    assert set(shared["stages_ms"]) == {"prep", "vision", "prefix", "regions", "decode"}
    assert set(shared["roofline"]) <= {"vision", "prefix", "regions", "decode"}
    assert sum(shared["stages_ms"].values()) <= 1.5 * shared["ms_p95"]


def test_what_it_prints_can_be_put_on_a_page(printed, tmp_path):
    path = tmp_path / "engine.txt"
    path.write_text("\n".join(printed[0]))
    measured = read_measurement(path)
    assert [row.arm for row in measured.rows] == 2 * ["shared", *AGAINST]
    assert render_report([measured], "a page").count("<tr>") == 1 + len(measured.rows)


def test_a_chart_is_drawn(printed):
    assert printed[1].read_bytes().startswith(b"\x89PNG")


def test_an_unknown_arm_is_refused(tiny_bundle):
    with pytest.raises(ConfigError, match="naive, eager, transformers"):
        open_arms([tiny_bundle], against=["magic"], checkpoint=None, threads=1)


def test_later_arms_take_turns(tiny_bundle, tiny_checkpoint):
    order = []
    arms = open_arms(
        [tiny_bundle], against=["naive", "eager"], checkpoint=tiny_checkpoint, threads=1
    )

    def spied(arm):
        class Spy(type(arm)):
            def __call__(self, scene):
                order.append(self.name)
                return super().__call__(scene)

        return Spy(arm.engine, bundle=arm.bundle)

    measure_arms([spied(arm) for arm in arms], make_scenes(frames=2, regions=1, tokens=2))
    turns = [order[i : i + 3] for i in (3, 6)]  # the first round warms up
    assert turns == [["shared", "naive", "eager"], ["shared", "eager", "naive"]]


def test_texts_are_compared_row_by_row():
    ours, theirs = ArmOutput(("a cup", "a dog"), (2, 2)), ArmOutput(("a cup", "a cat"), (2, 2))
    assert measure_equal_texts(ours, theirs) == 0.5


def test_the_roof_is_the_slower_of_arithmetic_and_memory():
    peaks = Peaks(gemm_gflops=100.0, memory_gb_s=10.0)
    assert StageWork(flop=1e9, weight_bytes=0).bound_ms(peaks, 1) == pytest.approx(10.0)
    assert StageWork(flop=1e9, weight_bytes=0).bound_ms(peaks, 2) == pytest.approx(5.0)
    assert StageWork(flop=0, weight_bytes=1e9).bound_ms(peaks, 2) == pytest.approx(100.0)


def test_work_grows_with_regions_where_it_should():
    one, eight = (count_work(CaptionerConfig(), regions=n, tokens=4) for n in (1, 8))
    assert one["vision"] == eight["vision"]
    assert one["prefix"] == eight["prefix"]
    assert eight["decode"].flop == pytest.approx(8 * one["decode"].flop)
    assert eight["decode"].weight_bytes == one["decode"].weight_bytes
