"""The bench's arithmetic, on samples that were written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ureca.errors import ConfigError
from ureca.node.bench.aggregate import BenchRow, captions, row, stages
from ureca.node.bench.caption_age import ages, first_captions
from ureca.node.bench.compare import compare, load_report
from ureca.node.bench.intervals import ratio_interval, slope, summary
from ureca.node.bench.report import chart, table
from ureca.node.bench.resource_usage import Usage, energy_uj, find_rail, packages
from ureca.node.bench.run import Heard, Raw
from ureca.node.bench.run_config import RunPlan
from ureca.node.bench.sender import Sent, send
from ureca.node.bench.subscriber import Keeper, ReceivedEvent
from ureca.node.bench.workload import named, shots
from ureca.protocol.events import CaptionDelta, CaptionFinal, Heartbeat, Panoptic, TrackNew

MS = 1_000_000
PLAN = RunPlan(frames="ipc://nowhere", regions=2, fps=10, warm_up_s=1, duration_s=4, size="128x96")


def life(rid: str, *, at_ms: int = 0) -> list[ReceivedEvent]:
    """A region that is captioned every half second, each time 100 ms after capture."""
    found = [
        ReceivedEvent(kind="track.new", at_ns=(at_ms + 5) * MS, rid=rid, captured_ns=at_ms * MS)
    ]
    for number in range(10):
        capture, request = at_ms + 500 * number, ord(rid) * 100 + number
        common = {"rid": rid, "request_id": request, "captured_ns": capture * MS}
        found += [
            ReceivedEvent(kind="caption.delta", at_ns=(capture + 60) * MS, **common),
            ReceivedEvent(
                kind="caption.final",
                at_ns=(capture + 100) * MS,
                trigger="new" if number == 0 else "refresh",
                ttl_ms=10_000,
                stage_us={"track": 20_000, "gen": 50_000, "ttft": 40_000},
                **common,
            ),
        ]
    return found


def beats() -> list[ReceivedEvent]:
    return [
        ReceivedEvent(
            kind="heartbeat",
            at_ns=second * 1000 * MS,
            counters={
                "frames_in": 10 * second,
                "frames_processed": 9 * second,
                "drop_superseded": second,
                "frames_in_flight": 0,
                "requests_in_flight": 0,
            },
        )
        for second in range(1, 6)
    ]


def observed(slower_ms: int = 0) -> Raw:
    samples = sorted(life("a") + life("b") + beats(), key=lambda sample: sample.at_ns)
    late = [msgspec.structs.replace(s, at_ns=s.at_ns + slower_ms * MS) for s in samples]
    usage = [Usage(n * 500 * MS, n * 0.25, 80_000_000 + n * 1000, 10) for n in range(11)]
    return Raw(
        plan=PLAN,
        start_ns=0,
        ready_ms=400,
        spawned_ns=0,
        sent=Sent(50, (1000,) * 50),
        heard=[Heard(tuple(late), 0)],
        usage=usage,
    )


def test_a_row_says_what_was_observed() -> None:
    found = row(observed())
    assert found.c2c_ms["all"].p50 == found.c2c_ms["refresh"].max == 100
    assert found.ttfd_ms["all"].p50 == 60
    assert found.warm_up_c2c_ms.n == 4
    assert found.c2c_ms["all"].n == 16
    assert found.captions["per_batch"] == 2.0  # both regions, in each captioned frame
    assert found.frames["measured_dropped"] == {"superseded": 3}
    assert found.frames["never_seen"] == 0
    assert found.node["cpu_cores"] == pytest.approx(0.5)
    assert found.node["rss_slope_mb_per_min"] == pytest.approx(0.12)
    assert found.joule_per_caption == "not measured"
    assert found.books_balance


def test_means_of_the_stages_add_up_to_the_mean_of_the_whole() -> None:
    found = stages(captions(life("a"), 0))
    assert list(found) == ["track", "gen", "residual"]  # `ttft` is part of `gen`
    assert sum(stage.mean or 0 for stage in found.values()) == pytest.approx(100)
    assert found["residual"].mean == pytest.approx(30)


def test_a_repeated_caption_counts_once() -> None:
    assert len(captions([*life("a"), *life("a")], 0)) == 10


def test_the_age_of_information_rises_between_captions_and_counts_what_has_none() -> None:
    points, without = ages(life("a"), start_ns=0, begin_s=0.0, end_s=2.0)
    assert without == pytest.approx(0.0)
    assert (points[0], points[-1]) == (pytest.approx((0.1, 100.0)), pytest.approx((1.9, 400.0)))
    lonely = [ReceivedEvent(kind="track.new", at_ns=0, rid="x", captured_ns=0)]
    assert ages(lonely, start_ns=0, begin_s=0, end_s=1)[1] == 1.0
    gone = [*lonely, ReceivedEvent(kind="track.end", at_ns=1, rid="x")]
    assert ages(gone, start_ns=0, begin_s=0.5, end_s=1)[1] == 0.0


def test_first_captions_are_counted_from_first_sight() -> None:
    assert first_captions(life("a", at_ms=50)) == [100.0]


NEEDS_SCIPY = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason="comparisons need the extra `bench`"
)


@NEEDS_SCIPY
def test_a_report_equals_itself_and_is_worse_than_a_faster_one(tmp_path: Path) -> None:
    old, slow = (msgspec.to_builtins([row(observed(ms))]) for ms in (0, 40))
    assert not [v for v in compare(old, old, margin=0.1) if v.is_worse]
    worse = {verdict.what for verdict in compare(old, slow, margin=0.1) if verdict.is_worse}
    assert "2 regions, 10 fps: c2c_ms p50" in worse
    assert not [v for v in compare(slow, old, margin=0.1) if v.is_worse]
    other = msgspec.structs.replace(PLAN, regions=3)
    with pytest.raises(ConfigError, match="no row"):
        compare([{**old[0], "plan": msgspec.to_builtins(other)}], old, margin=0.1)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ConfigError, match="--out"):
        load_report(tmp_path / "x.json")


def test_the_report_can_be_read_and_drawn(tmp_path: Path) -> None:
    rows: list[BenchRow] = [row(observed())]
    text = table(rows)
    assert "superseded" in text
    assert "counters add up" in text
    chart(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_no_captions_are_no_crash() -> None:
    empty = observed()
    empty.heard[0] = Heard((), 0)
    assert "0 captions" in table([row(empty)])


def test_a_slope_is_found_with_its_interval(rng: np.random.Generator) -> None:
    x = np.arange(200.0)
    found = slope(list(x), list(3 * x + rng.normal(0, 5, 200)))
    assert found is not None
    assert abs(found[0] - 3) < found[1] < 0.1
    assert slope([1, 2], [1, 2]) is None
    assert summary([]).n == 0


@NEEDS_SCIPY
def test_noise_is_no_regression(rng: np.random.Generator) -> None:
    series = [np.stack([np.arange(2000) / 50, rng.gamma(9, 10, 2000)], axis=1) for _ in range(2)]
    interval = ratio_interval(*series, 0.95)
    assert interval is not None
    assert interval[1] < 1 < interval[2]


class Camera:
    """Stands in for a publisher."""

    stream, session_id = "bench", bytes(16)

    def __init__(self) -> None:
        self.sent: list[tuple[int, object]] = []

    def send_encoded(self, header, pixels) -> None:
        self.sent.append((header.captured_ns, header.regions))


def test_frames_leave_when_they_are_due_even_after_a_stall() -> None:
    now, camera = [0], Camera()

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9) + (700 * MS if now[0] < 500 * MS else 0)

    plan = msgspec.structs.replace(PLAN, masks="warm-up")
    sent = send(plan, shots(plan), camera, start_ns=MS, now_ns=lambda: now[0], sleep=sleep)
    stamps = [stamp for stamp, _ in camera.sent]
    assert stamps == [MS + plan.due_ns(n) for n in range(50)]  # stamped with the due time
    assert max(sent.late_us) == 700_000
    assert sent.late_us[-1] == 0
    shown = [regions is not msgspec.UNSET for _, regions in camera.sent]
    assert shown == [True] * 10 + [False] * 40


def test_regions_change_hands_one_after_the_other() -> None:
    plan = msgspec.structs.replace(PLAN, life_s=2.0)
    first = shots(plan)[0]
    names = [[region.rid for region in named(first, plan, at_s)] for at_s in (0, 1, 2)]
    assert names == [["r0-0", "r1-0"], ["r0-0", "r1-1"], ["r0-1", "r1-1"]]
    assert plan.most_regions(2.0) == 8


@pytest.mark.parametrize(
    "wrong",
    [{"regions": 1000}, {"fps": 0}, {"duration_s": 0}, {"size": "big"}, {"size": "10x10"}],
)
def test_impossible_plans_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--"):
        RunPlan(frames="", **wrong)


def test_of_the_deltas_only_the_first_is_kept() -> None:
    keeper = Keeper()
    delta = CaptionDelta(rid="a", request_id=1, offset=0, text="a")
    assert keeper.sample(delta, 7) == ReceivedEvent(
        kind="caption.delta", at_ns=7, rid="a", request_id=1
    )
    assert keeper.sample(delta, 8) is None
    beat = Heartbeat(uptime_ms=1, state="running", counters={"frames_in": 3}, streams={})
    assert keeper.sample(beat, 9).counters == {"frames_in": 3}
    born = keeper.sample(TrackNew(rid="a", seq=0, captured_ns=5, box=(0, 0, 1, 1)), 9)
    assert (born.kind, born.captured_ns) == ("track.new", 5)
    assert CaptionFinal.__struct_config__.tag == "caption.final"


def test_energy_is_the_sum_of_whole_packages_or_nothing(tmp_path: Path) -> None:
    for name, kind, value in (
        ("0", "package-0", "5"),
        ("0:0", "core", "3"),
        ("1", "package-1", "2"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(kind)
        (tmp_path / name / "energy_uj").write_text(value)
    assert energy_uj(packages(tmp_path)) == 7
    assert energy_uj(packages(tmp_path / "none")) is None


def test_energy_of_a_jetson_is_its_input_power_over_time(tmp_path: Path) -> None:
    monitor = tmp_path / "hwmon4"
    monitor.mkdir()
    for number, name in ((1, "VDD_IN"), (2, "VDD_CPU_GPU_CV")):
        (monitor / f"in{number}_label").write_text(f"{name}\n")
    (monitor / "in1_input").write_text("5000\n")
    rail = find_rail(tmp_path)
    assert rail is not None
    assert rail.energy_uj(0) is None  # the current cannot be read
    (monitor / "curr1_input").write_text("1000\n")
    assert rail.energy_uj(10**9) == 0
    assert rail.energy_uj(2 * 10**9) == 5_000_000  # 5 W for a second
    (monitor / "curr1_input").write_text("2000\n")
    assert rail.energy_uj(4 * 10**9) == 20_000_000  # and 7.5 W on average for two
    assert find_rail(tmp_path / "none") is None


def test_maps_of_whole_frames_are_counted_in_the_measured_time():
    raw = observed()
    maps = [
        ReceivedEvent(
            kind="panoptic",
            at_ns=(500 * n + 200) * MS,
            captured_ns=500 * n * MS,
            stage_us={"look": 40_000, "segments": 100_000 + 1000 * n},
            segments=7,
        )
        for n in range(20)
    ]
    raw.heard[0] = Heard((*raw.heard[0].samples, *maps), 0)
    raw.plan = msgspec.structs.replace(PLAN, panoptic=True)
    found = row(raw)
    assert (found.panoptic["passes"], found.panoptic["per_s"]) == (8, 2.0), "from 1 s to 5 s"
    assert found.panoptic["age_ms"].p50 == 200
    assert found.panoptic["segments"].mean == 7
    assert found.panoptic["stages_ms"]["look"].mean == 40
    assert found.panoptic["stages_ms"]["segments"].mean == pytest.approx(105.5)
    text = table([found])
    assert "2 passes a second (8), 7.0 segments in one; stages ms: look 40.0" in text
    assert "whole frames" in text
    assert "passes" not in table([row(observed())])


def test_the_subscriber_keeps_what_figures_of_maps_need():
    event = Panoptic(
        seq=1, captured_ns=5, width=4, height=3, segments=(), png=b"", stage_us={"look": 9}
    )
    wanted = ReceivedEvent(kind="panoptic", at_ns=7, captured_ns=5, stage_us={"look": 9})
    assert Keeper().sample(event, 7) == wanted


def test_a_load_of_whole_frames_says_what_it_takes():
    whole = msgspec.structs.replace(PLAN, panoptic=True)
    assert whole.key != PLAN.key
    assert whole.most_regions(2.0) == 4, "those that are no segments any more live on for a while"
    with pytest.raises(ConfigError, match="not both"):
        msgspec.structs.replace(PLAN, panoptic=True, auto=True)
    with pytest.raises(ConfigError, match="1 to 48"):
        msgspec.structs.replace(PLAN, panoptic=True, regions=49)
