"""`lm_static` in ONNX Runtime, caches bound in place: whole captions equal the growing cache."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

import onnxruntime

from tests.once import build_once
from ureca.export.graphs.interfaces import count_own_slots
from ureca.export.graphs.onnx_export import export_graph, save_graph
from ureca.models.runtime.graph_names import LM_STATIC, LmNames

_VERSION = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.long,
    pytest.mark.skipif(
        _VERSION < (1, 24),
        reason=f"lm_static is NOT PROVEN: ONNX Runtime {onnxruntime.__version__} has no opset 24",
    ),
]
PROMPT = 4


@pytest.fixture(scope="module")
def graph(tiny_model, tmp_path_factory):
    def build(folder):
        save_graph(export_graph(tiny_model, LM_STATIC, opset=24), folder / "graph.onnx")

    return onnx.load(build_once(tmp_path_factory, "static-graph", build) / "graph.onnx")


@pytest.fixture(scope="module")
def session(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class InPlace:
    """Own caches that are input and output at one address, and a prefix, bound once."""

    def __init__(self, session, model, prefix, rows):
        language = model.config.language
        self.session, self.names = session, LmNames.of(language.layers)
        self.binding = session.io_binding()
        shape = (language.heads, rows, count_own_slots(model.config), language.head_dim)
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        # What lies behind the written slots must not matter: fill it with large numbers.
        self.own = {name: value(np.full(shape, 9.0, np.float32)) for name in self.names.own}
        keys, values = zip(*prefix, strict=True)
        for name, tensor in zip(self.names.prefix, (*keys, *values), strict=True):
            self.binding.bind_ortvalue_input(name, value(tensor.numpy().copy()))
        for own, grown in zip(self.names.own, self.names.grown, strict=True):
            self.binding.bind_ortvalue_input(own, self.own[own])
            self.binding.bind_ortvalue_output(grown, self.own[own])
        self.logits = value(np.zeros((rows, language.vocab_size), np.float32))
        self.argmax = value(np.zeros((rows, 1), np.int64))
        self.binding.bind_ortvalue_output("logits", self.logits)
        self.binding.bind_ortvalue_output("argmax", self.argmax)

    def step(self, x, position):
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.binding.bind_ortvalue_input("x", value(np.ascontiguousarray(x)))
        self.binding.bind_ortvalue_input("position", value(np.array([position], np.int64)))
        self.session.run_with_iobinding(self.binding)
        return self.logits.numpy(), self.argmax.numpy()


@pytest.mark.parametrize("rows", [1, 3, 32, 33])
@pytest.mark.parametrize("prefix_length", [0, 7])
@torch.inference_mode()
def test_a_whole_caption_in_place_equals_the_growing_cache(
    session, tiny_model, rows, prefix_length
):
    torch.manual_seed(rows)
    width, steps = tiny_model.config.language.width, tiny_model.config.language.max_new_tokens
    prefix = tiny_model.make_prefix(torch.randn(1, prefix_length, width))
    prompt = torch.randn(rows, PROMPT, width)
    logits, own = tiny_model.run_lm(prompt, prefix, tiny_model.language.make_empty_kv(rows))
    static = InPlace(session, tiny_model, prefix, rows)
    got, best = static.step(prompt.numpy(), 0)
    for step in range(steps):
        np.testing.assert_allclose(got, logits.numpy(), atol=2e-4)
        np.testing.assert_array_equal(best[:, 0], logits.numpy().argmax(-1))
        embedded = tiny_model.embed(logits.argmax(-1))[:, None]
        logits, own = tiny_model.run_lm(embedded, prefix, own)
        got, best = static.step(embedded.numpy(), PROMPT + step)


def test_every_cache_is_scattered_once_and_nothing_is_concatenated(graph, tiny_model):
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("TensorScatter") == 2 * tiny_model.config.language.layers
    caches = {value.name for value in graph.graph.input if value.name.startswith("own_")}
    readers = {n.op_type for n in graph.graph.node if caches & set(n.input)}
    assert readers <= {"TensorScatter", "Shape"}
