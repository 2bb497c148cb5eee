"""torch-tensorrt's converters and TensorRT-RTX's builder on every graph, without a GPU.

What only a device knows is answered by stand-ins, here and nowhere else: four queries of torch, and
opening the plan that was built. Converters, builder and plan are the real ones. `make
test-torch-tensorrt` runs this in an environment of its own.
"""

import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

try:
    metadata.version("torch-tensorrt-rtx")
except metadata.PackageNotFoundError:
    pytest.skip(
        "torch-tensorrt-rtx is not installed: its converters are NOT PROVEN here",
        allow_module_level=True,
    )

import torch

from tests.parity.fake_nvidia import Driver
from ureca.bundle import load_manifest
from ureca.errors import BundleError, EngineError
from ureca.export.cli import main
from ureca.export.graphs import torch_tensorrt_plans
from ureca.export.graphs.torch_tensorrt_plans import build_torch_tensorrt_plan
from ureca.models.nano.checkpoint import load_checkpoint
from ureca.models.runtime.graph_names import GATHER, LM, REGIONS, SCORE, VISION
from ureca.models.runtime.load import load_engine

SHIPPED = Path(__file__).parents[2] / "models/pretrained/ureca-nano/checkpoint"
pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings("default")]


class Runtime:
    """Opens nothing: it keeps the plan, as an engine would give it back."""

    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        plan = bytes(plan)
        return SimpleNamespace(serialize=lambda: plan, get_aliased_input_tensor=lambda name: "")


@pytest.fixture(scope="module")
def layers():
    """The layers of the last network by kind, on a device that is a stand-in."""
    found = Counter()
    with pytest.MonkeyPatch.context() as patch:
        device = SimpleNamespace(name="none", major=7, minor=5, total_memory=1 << 34)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
        patch.setattr(torch.cuda, "get_device_properties", lambda *_: device)
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (1 << 33, 1 << 34))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        import torch_tensorrt  # noqa: F401  (asks the device)
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

        run = interpreter.TRTInterpreter.run

        def counted(self, *args, **options):
            result = run(self, *args, **options)
            network = self.ctx.net
            kinds = (network.get_layer(i).type for i in range(network.num_layers))
            found.clear()
            found.update(str(kind).rpartition(".")[2] for kind in kinds)
            return result

        patch.setattr(interpreter.trt, "Runtime", Runtime)
        patch.setattr(interpreter.TRTInterpreter, "run", counted)
        yield found


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(SHIPPED)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", [GATHER, VISION, REGIONS, LM, SCORE])
def test_the_nanos_graph_becomes_one_plan(name, half, layers, model):
    plan = build_torch_tensorrt_plan("tensorrt-rtx", model, name, max_regions=32, half=half)
    kinds = ", ".join(f"{kind} {n}" for kind, n in layers.most_common(6))
    sys.stdout.write(f"\n{name}: {len(plan)} bytes, {layers.total()} layers: {kinds}\n")
    assert len(plan) > 1000
    assert not any("PLUGIN" in kind for kind in layers)


def test_a_bundle_has_the_same_manifest_and_refusals(
    layers, tiny_checkpoint, tmp_path, monkeypatch
):
    """`ureca export --builder torch-tensorrt`, for devices that this one is not: built, not run."""
    monkeypatch.setenv("URECA_DATA", "nowhere")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Driver(capability=(7, 5)))
    out = tmp_path / "bundle"
    (tmp_path / "few.yaml").write_text("parity_regions: 8\nprecision: fp32\n")
    arguments = [str(tiny_checkpoint), "-o", str(out), "--config", str(tmp_path / "few.yaml")]
    assert main([*arguments, "--runtime", "tensorrt-rtx", "--builder", "torch-tensorrt"]) == 0
    manifest = load_manifest(out)
    assert (manifest.runtime, manifest.target) == ("tensorrt-rtx", "sm_80+")
    assert {graph.file for graph in manifest.graphs.values()} == {
        f"{name}.plan" for name in (VISION, REGIONS, LM, GATHER)
    }
    assert (out / "golden.json").is_file()
    with pytest.raises(BundleError, match=r"on sm_75\. .*--runtime auto"):
        load_engine(out)


def test_an_operator_without_a_converter_is_named(layers, tiny_checkpoint, monkeypatch):
    class Strange(torch.nn.Module):
        def forward(self, *tensors):
            return tuple(torch.linalg.svd(cache)[0] for cache in tensors[1:])

    tiny = load_checkpoint(tiny_checkpoint)
    monkeypatch.setattr(torch_tensorrt_plans, "make_traceable", lambda *_: Strange())
    with pytest.raises(EngineError, match=r"cannot build 'gather': no converter for .*svd"):
        build_torch_tensorrt_plan("tensorrt-rtx", tiny, GATHER, max_regions=8, half=False)
