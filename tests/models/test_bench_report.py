"""The page of `ureca bench report`, and what it says of the machine, from files of benches."""

import json
import stat

import pytest

pytest.importorskip("jinja2", reason="the page needs the extra `bench`")

from ureca.errors import ConfigError
from ureca.models.bench.cli import main
from ureca.models.bench.files import read_measurement
from ureca.models.bench.machine import describe_machine

ORIN = {
    "board": "NVIDIA Jetson Orin Nano Developer Kit",
    "jetson_linux": "R36.4.3",
    "power_mode": "25W",
    "versions": {"tensorrt": "10.3.0"},
}


def engine_file(**machine):
    row = {
        "arm": "shared",
        "runtime": "tensorrt 10.3.0",
        "precision": "fp16",
        "bundle": "/home/alice/bundle-orin",
        "regions": 8,
        "frames": 100,
        "ms_median": 12.34,
        "ms_p95": 15.0,
        "ms_p99": 17.25,
        "captions_per_s": 640.5,
        "same_captions": 0.99,
        "stages_ms": {"vision": 4.0},
    }
    few = {**row, "arm": "naive", "frames": 20, "ms_p99": 99.9}
    rows = [row, few]
    return {"bench": "engine", "machine": machine, "rows": rows, "load_average": [0.4, 0.3, 0.2]}


def node_file(joule=0.31, **machine):
    late = {"n": 120, "p50": 21.0, "p95": 30.5, "p99": 40.25}
    row = {
        "plan": {"regions": 8, "fps": 30.0, "masks": "every"},
        "c2c_ms": {"all": late, "new": {"n": 0}},
        "ttfd_ms": {"all": {"n": 0}},
        "captions": {"per_s": 6.0, "final": 120},
        "frames": {"measured_in": 600, "measured_dropped": {"superseded": 3}},
        "node": {"exit_code": 0},
        "joule_per_caption": joule,
        "books_balance": True,
        "load_average": [1.5, 1.0, 1.0],
    }
    return {"bench": "node", "machine": machine, "rows": [row]}


@pytest.fixture
def page(tmp_path):
    """Makes the page of some documents, each in a file of its own."""

    def make(*documents, before=""):
        paths = []
        for number, document in enumerate(documents):
            path = tmp_path / f"{number}.json"
            path.write_text(before + json.dumps(document) + "\n")
            paths.append(str(path))
        assert main(["report", *paths, "-o", str(tmp_path / "page.html")]) == 0
        return (tmp_path / "page.html").read_text()

    return make


def test_one_machine_is_one_section_with_both_benches(page):
    text = page(engine_file(**ORIN), node_file(**ORIN))
    assert text.count("<h2>") == 1
    assert "<h2>NVIDIA Jetson Orin Nano Developer Kit</h2>" in text
    for shown in ("25W", "R36.4.3", "tensorrt 10.3.0", "640.5", "12.3", "21.0", "0.31", "3 of 600"):
        assert shown in text


def test_another_power_mode_is_another_section(page):
    text = page(engine_file(**ORIN), engine_file(**{**ORIN, "power_mode": "MAXN"}))
    assert text.count("<h2>") == 2


def test_p99_is_shown_of_a_hundred_values_only(page):
    text = page(engine_file())
    assert "17.2" in text
    assert "99.9" not in text


def test_energy_that_was_not_measured_is_said(page):
    assert "<td>not measured</td>" in page(node_file(joule="not measured"))


def test_the_page_shows_neither_paths_nor_markup_of_the_file(page):
    text = page(engine_file(board="<script>alert(1)</script>"))
    assert "/home/alice" not in text
    assert "bundle-orin" in text
    assert "<script" not in text


def test_the_output_of_a_bench_serves_as_its_file(page):
    assert "640.5" in page(engine_file(), before="regions arm\n      8 shared\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no report of"),
        ("no json", "no report of"),
        ('{"bench": "track", "machine": {}, "rows": []}', "no report of"),
        ('{"bench": "engine", "machine": {}, "rows": [{"arm": "shared"}]}', "no report of"),
        ('{"bench": "engine", "machine": {}, "rows": []}', "no measurements"),
    ],
)
def test_other_files_are_refused(content, complaint, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        main(["report", str(path), "-o", str(tmp_path / "page.html")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.json cannot be read"):
        read_measurement(tmp_path / "nothing.json")


@pytest.fixture
def jetson(tmp_path):
    """The files of a Jetson that are read."""
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/cpuinfo": "processor : 0\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n",
        "var/lib/nvpmodel/status": "pmode:0001",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_jetson_is_described_by_its_files(jetson):
    machine = describe_machine(jetson)
    assert machine.board == ORIN["board"]
    assert (machine.jetson_linux, machine.power_mode) == ("R36.4.3", "25W")
    assert machine.governor == "schedutil"


def test_a_mode_without_a_name_keeps_its_number(jetson):
    (jetson / "etc/nvpmodel.conf").unlink()
    assert describe_machine(jetson).power_mode == "mode 1"


def test_the_drivers_command_names_the_gpu(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA RTX 4000, 570.86, 130.00 W, [N/A]'\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine = describe_machine(tmp_path)
    assert (machine.gpu, machine.gpu_driver) == ("NVIDIA RTX 4000", "570.86")
    assert (machine.gpu_power_limit, machine.gpu_clock_limit) == ("130.00 W", "")


def test_a_drivers_command_that_fails_says_nothing(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nexit 9\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert describe_machine(tmp_path).gpu == ""
