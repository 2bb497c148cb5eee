"""Level 2 of the proof ladder: NVIDIA's own parser and builder take every graph, without a GPU."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")
trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA compilation is NOT PROVEN here"
)

from tqdm import tqdm

from ureca.bundle import load_manifest
from ureca.errors import BundleError, EngineError
from ureca.export.cli import main
from ureca.export.graphs.mask_head import export_mask_graphs
from ureca.export.graphs.onnx_export import export_graph, save_graph
from ureca.export.graphs.quantise import convert_to_f16, quantise_int8, store_as_f16
from ureca.export.graphs.tensorrt_plans import build_plan, build_static_plan
from ureca.models.config import CaptionerConfig
from ureca.models.nano.masks.config import MaskHeadConfig
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.nano.network import Captioner
from ureca.models.runtime.graph_names import GATHER, LM, LM_STATIC, REGIONS, VISION
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.shape_ranges import build_profiles

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _no_tqdm_thread(monkeypatch):
    """tqdm's monitor is one thread for the whole process, and meant to stay."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Captioner(CaptionerConfig()).eval()


@pytest.fixture(scope="module")
def graphs(model, tmp_path_factory):
    """Paths of the float graphs by name, each exported when first asked for."""
    folder, made = tmp_path_factory.mktemp("graphs"), {}

    def path(name):
        if name not in made:
            made[name] = folder / f"{name}.onnx"
            save_graph(export_graph(model, name, opset=24), made[name])
        return made[name]

    return path


@pytest.mark.parametrize("name", [VISION, REGIONS, LM, GATHER])
def test_nvidia_builds_the_graph_without_plugins(name, graphs, model):
    built = build_plan(trt, graphs(name), name, model.config, max_regions=32)
    assert len(built.plan) > 1000
    assert built.count("PLUGIN") == 0


@pytest.mark.parametrize("trunk", ["yolox-nano", "efficientnet-lite0"])
def test_nvidia_builds_the_mask_head_without_plugins(trunk, tmp_path):
    """As float32, and as it ships: with weights stored in float16."""
    torch.manual_seed(0)
    network = MaskNetwork(MaskHeadConfig(trunk=trunk)).eval()
    for name, proto in export_mask_graphs(network, opset=20).items():
        for stored in (proto, store_as_f16(proto)):
            path = tmp_path / f"{name}.onnx"
            save_graph(stored, path)
            built = build_static_plan(trt, path)
            assert len(built.plan) > 1000
            assert built.count("PLUGIN") == 0
            if name != "masks":
                assert built.count("GRID_SAMPLE") > 0


def test_float16_is_built_as_typed_and_for_one_device(graphs, model, tmp_path):
    """Strong typing takes the graph's types: the plan must shrink with its weights."""
    import onnx

    path = tmp_path / "lm.onnx"
    save_graph(convert_to_f16(onnx.load(str(graphs(LM)))), path)
    limits = {"max_regions": 32, "target": "sm_89"}
    half = build_plan(trt, path, LM, model.config, **limits)
    whole = build_plan(trt, graphs(LM), LM, model.config, **limits)
    assert half.count("PLUGIN") == 0
    assert len(half.plan) < 0.9 * len(whole.plan)


def test_a_bundle_of_plans_says_what_was_not_proven(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    """`ureca export --runtime tensorrt-rtx` without a GPU: built, not run, and it says so."""
    monkeypatch.setenv("URECA_DATA", "nowhere")
    out = tmp_path / "bundle"
    assert main([str(tiny_checkpoint), "-o", str(out), "--runtime", "tensorrt-rtx"]) == 0
    printed = capsys.readouterr().out
    assert "runtime tensorrt-rtx, fp16, for sm_80+" in printed
    assert "NOT PROVEN: execution and speed on sm_80+" in printed
    manifest = load_manifest(out)
    assert (manifest.runtime_version, manifest.target) == (trt.__version__, "sm_80+")
    assert {graph.file for graph in manifest.graphs.values()} == {
        f"{name}.plan" for name in (VISION, REGIONS, LM, GATHER)
    }
    with pytest.raises(BundleError, match=r"on no device: .*--runtime auto"):
        load_engine(out)


def test_the_static_cache_is_updated_in_place(graphs, model):
    built = build_plan(trt, graphs(LM_STATIC), LM_STATIC, model.config, max_regions=32)
    assert built.count("KV") == 2 * model.config.language.layers
    assert built.count("PLUGIN") == 0


def test_the_processors_int8_is_refused_in_nvidias_own_words(graphs, model, tmp_path):
    """Why CPU and NVIDIA need two quantised artefacts of one float graph."""
    import onnx

    path = tmp_path / "int8.onnx"
    save_graph(quantise_int8(onnx.load(str(graphs(LM))), "s7"), path)
    with pytest.raises(EngineError, match="cannot parse"):
        build_plan(trt, path, LM, model.config, max_regions=32)


def test_the_prefix_pass_has_a_profile_of_its_own():
    prefix, rest = build_profiles(LM, CaptionerConfig(), max_regions=32)
    assert prefix["P"] == prefix["S"] == (0, 0, 0)
    assert rest["N"] == (1, 8, 32)
    assert len(build_profiles(VISION, CaptionerConfig(), max_regions=32)) == 1
