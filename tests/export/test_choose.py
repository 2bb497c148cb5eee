"""What `ureca export` picks and refuses, as pure functions of the machine."""

import re

import pytest

pytest.importorskip("onnxruntime", reason="exporting needs the extra `export`")

from ureca.config import from_plain
from ureca.errors import ConfigError
from ureca.export.cli import main
from ureca.export.config import ExportConfig
from ureca.export.runtime_selection import (
    EXPERIMENTAL,
    PRECISIONS,
    Machine,
    choose_runtime,
    resolve_config,
    why_not_runnable,
)
from ureca.models.runtime.compatibility import is_rtx_target_supported

ALL = frozenset({"tensorrt", "tensorrt_rtx", "onnxruntime-gpu"})
BARE = Machine(None, "there is no CUDA driver", frozenset())


@pytest.mark.parametrize(
    ("device", "packages", "runtime", "reason"),
    [
        (None, ALL, "onnx", "there is no CUDA driver; int8"),
        ("sm_87", ALL, "tensorrt", "sm_87"),
        ("sm_89", ALL - {"tensorrt"}, "tensorrt-rtx", "tensorrt is not"),
        ("sm_87", ALL - {"tensorrt"}, "ort-gpu", "no TensorRT for it"),
        ("sm_90", {"tensorrt_rtx"}, "onnx", "nothing to use it: pip install"),
        ("sm_75", {"tensorrt_rtx"}, "onnx", "nothing to use it"),
        ("sm_89", (), "onnx", r"ureca\[rtx\]"),
    ],
)
def test_auto_takes_the_most_specialised_that_can_run(device, packages, runtime, reason):
    found, why = choose_runtime(Machine(device, "there is no CUDA driver", frozenset(packages)))
    assert found == runtime
    assert re.search(reason, why)


@pytest.mark.parametrize("runtime", PRECISIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_every_combination_runs_or_is_refused_with_the_reason(runtime, precision):
    config = ExportConfig(runtime=runtime, precision=precision)
    machine = Machine("sm_89", "", ALL)
    if precision in PRECISIONS[runtime]:
        assert resolve_config(config, machine)[0].precision == precision
        return
    with pytest.raises(ConfigError, match=rf"{runtime} cannot be .* {precision}: .*Choose --prec"):
        resolve_config(config, machine)


def test_what_is_left_open_is_settled_once():
    config, said = resolve_config(ExportConfig(runtime="auto"), BARE)
    assert (config.runtime, config.precision, config.buckets) == ("onnx", "int8", ())
    assert said.startswith("runtime onnx, int8, for this machine: there is no CUDA driver")
    assert resolve_config(config, BARE)[0] == config
    config, _ = resolve_config(ExportConfig(runtime="tensorrt-rtx", max_regions=33), BARE)
    assert (config.target, config.buckets) == ("sm_80+", (1, 2, 4, 8, 16, 32, 33))
    assert resolve_config(ExportConfig(runtime="ort-gpu", max_regions=1), BARE)[0].buckets == (1,)


def test_targets_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match=r"can be sm_80\+, sm_75"):
        resolve_config(ExportConfig(runtime="tensorrt-rtx", target="sm_87"), BARE)
    with pytest.raises(ConfigError, match="builds on the device that it builds for"):
        resolve_config(ExportConfig(runtime="tensorrt"), BARE)


def test_an_export_for_elsewhere_says_why_it_is_not_run():
    rtx, ort = (
        resolve_config(ExportConfig(runtime=r), BARE)[0] for r in ("tensorrt-rtx", "ort-gpu")
    )
    assert why_not_runnable(rtx, BARE) == why_not_runnable(ort, BARE) == "there is no CUDA driver"
    assert "this device is sm_75" in why_not_runnable(rtx, Machine("sm_75", "", ALL))
    assert why_not_runnable(rtx, Machine("sm_86", "", ALL)) == ""
    assert why_not_runnable(resolve_config(ExportConfig(), BARE)[0], BARE) == ""
    on_cpu = resolve_config(ExportConfig(runtime="ort-gpu", target="cpu"), BARE)[0]
    assert why_not_runnable(on_cpu, BARE) == ""


@pytest.mark.parametrize("buckets", [[2, 1, 32], [0, 32], [1, 1, 32], [1, 2]])
def test_buckets_must_ascend_and_hold_the_largest_batch(buckets):
    with pytest.raises(ConfigError, match="bucket"):
        from_plain(ExportConfig, {"buckets": buckets})


def test_rtx_plans_know_their_devices():
    assert is_rtx_target_supported("sm_80+", "sm_120")
    assert not is_rtx_target_supported("sm_80+", "sm_75")
    assert not is_rtx_target_supported("sm_80+", "sm_87")
    assert is_rtx_target_supported("sm_75", "sm_75")
    assert not is_rtx_target_supported("sm_75", None)


def test_help_and_documents_mark_what_never_ran_on_a_device(capsys, repository):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(EXPERIMENTAL)} are experimental" in told
    page = (repository / "docs/export.md").read_text("utf-8")
    marked = re.findall(r"^\| `([\w-]+)` \(experimental\) \|", page, re.MULTILINE)
    assert sorted(marked) == sorted(EXPERIMENTAL)


GPU_MACHINE = Machine("sm_89", "", ALL | {"torch-tensorrt-rtx", "torch-tensorrt"})


def _plans(**changes):
    return ExportConfig(**{"runtime": "tensorrt-rtx", "builder": "torch-tensorrt", **changes})


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_torch_tensorrt_builds_the_plans_of_both_packages(runtime):
    config, said = resolve_config(_plans(runtime=runtime), GPU_MACHINE)
    assert config.builder == "torch-tensorrt"
    assert "built by torch-tensorrt" in said


@pytest.mark.parametrize(
    ("changes", "machine", "complaint"),
    [
        ({"runtime": "onnx"}, GPU_MACHINE, "makes plans: expected --runtime tensorrt or"),
        ({}, Machine("sm_89", "", ALL), r"needs torch-tensorrt-rtx, .*ureca\[torch-tensorrt-rtx\]"),
        (
            {},
            Machine(None, "there is no CUDA driver", GPU_MACHINE.packages),
            "asks the CUDA device .* there is no CUDA driver: .*--builder onnx",
        ),
        ({"target": "sm_75"}, GPU_MACHINE, "cannot build for one device"),
        ({"static_cache": True}, GPU_MACHINE, "export --static-cache with --builder onnx"),
    ],
)
def test_what_torch_tensorrt_cannot_build_is_refused_before_any_work(changes, machine, complaint):
    with pytest.raises(ConfigError, match=complaint):
        resolve_config(_plans(**changes), machine)
