"""Stand-ins for `tensorrt` and `cuda.bindings.driver` on a host without a GPU.

A plan is the ONNX graph with its profiles; executing it reads the bound addresses, runs ONNX
Runtime and writes the bound addresses. Memory is checked: only live allocations may be touched, and
only as far as they reach. What the real packages would refuse is refused here as well.
"""
# ruff: noqa: N802  (the driver's own names)

import ctypes
import json
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime


class Driver(ModuleType):
    """The functions of the driver that `models.runtime.cuda` calls; every one returns a tuple."""

    def __init__(self, capability=(8, 7), devices=1):
        super().__init__("cuda.bindings.driver")
        self.capability, self.devices = capability, devices
        self.live, self.current = {}, None
        self.pinned, self.recording, self.graphs, self.launches = {}, None, {}, 0
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1,
        )

    def cuInit(self, flags):
        return (0,)

    def cuDeviceGetCount(self):
        return 0, self.devices

    def cuDeviceGetAttribute(self, kind, device):
        return 0, self.capability[kind]

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, "context"

    def cuCtxSetCurrent(self, context):
        self.current = context
        return (0,)

    def cuStreamCreate(self, flags):
        return 0, 7

    def cuStreamSynchronize(self, stream):
        assert self.recording is None, "a stream that is recorded cannot be waited for"
        return (0,)

    def cuMemHostAlloc(self, size, flags):
        memory = ctypes.create_string_buffer(size)
        self.pinned[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cuMemFreeHost(self, pointer):
        del self.pinned[pointer]
        return (0,)

    def cuMemcpyDtoDAsync(self, target, source, size, stream):
        assert min(len(self.live[target]), len(self.live[source])) >= size
        ctypes.memmove(target, source, size)
        return (0,)

    def cuStreamBeginCapture(self, stream, mode):
        assert self.recording is None, "the stream is recorded already"
        self.recording = []
        return (0,)

    def cuStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        return 0, recorded

    def cuGraphInstantiate(self, graph, flags):
        handle = len(self.graphs) + 1
        self.graphs[handle] = graph
        return 0, handle

    def cuGraphDestroy(self, graph):
        return (0,)

    def cuGraphExecDestroy(self, handle):
        del self.graphs[handle]
        return (0,)

    def cuGraphLaunch(self, handle, stream):
        self.launches += 1
        for execute in self.graphs[handle]:
            execute()
        return (0,)

    def cuMemAllocAsync(self, size, stream):
        assert self.current == "context", "no context is current in this thread"
        assert size > 0, "the driver refuses empty allocations"
        assert self.recording is None, "memory of a recording belongs to it"
        memory = ctypes.create_string_buffer(size)
        self.live[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cuMemFreeAsync(self, pointer, stream):
        del self.live[pointer]
        return (0,)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        assert self.recording is None, "the copy would be part of the recording"
        assert len(self.live[target]) >= size
        ctypes.memmove(target, source, size)
        return (0,)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        assert len(self.live[source]) >= size
        ctypes.memmove(target, source, size)
        return (0,)

    def array(self, address, shape, dtype):
        """The live memory at `address` as an array that shares it."""
        count = int(np.prod(shape))
        assert len(self.live[address]) >= count * np.dtype(dtype).itemsize
        return np.frombuffer(self.live[address], dtype, count).reshape(shape)


class _Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, likeliest, largest):
        self.shapes[name] = (least, likeliest, largest)


class _Config:
    def __init__(self):
        self.profiles, self.cleared = [], []

    def clear_flag(self, flag):
        self.cleared.append(flag)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)


class _Network:
    num_layers = 0

    def __init__(self, flags):
        self.flags, self.proto = flags, None

    @property
    def num_inputs(self):
        return len(self.proto.graph.input)

    def get_input(self, index):
        return SimpleNamespace(name=self.proto.graph.input[index].name, is_shape_tensor=False)


class _Parser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.proto = onnx.load(path)
        return not any(n.op_type == "MatMulInteger" for n in self.network.proto.graph.node)

    def get_error(self, index):
        return SimpleNamespace(desc=lambda: "MatMulInteger is not supported")


class _Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        assert flags == 1 << 1, "TensorRT 10 must be asked for strong typing"
        return _Network(flags)

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        assert config.cleared == ["TF32"]
        head = json.dumps(config.profiles).encode()
        return len(head).to_bytes(8, "big") + head + network.proto.SerializeToString()


class _Engine:
    def __init__(self, data, driver):
        size = int.from_bytes(data[:8], "big")
        self.driver, self.profiles = driver, json.loads(data[8 : 8 + size])
        self.session = onnxruntime.InferenceSession(
            data[8 + size :], providers=["CPUExecutionProvider"]
        )
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = {o.name: o for o in self.session.get_outputs()}
        self.names = [*self.outputs, *self.inputs]  # TensorRT promises no order
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "INPUT" if name in self.inputs else "OUTPUT"

    def get_tensor_dtype(self, name):
        kind = {**self.inputs, **self.outputs}[name].type
        return {"tensor(float)": "FLOAT", "tensor(int64)": "INT64"}[kind]

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index][name]

    def create_execution_context(self):
        return _Context(self)


class _Context:
    def __init__(self, engine):
        self.engine, self.profile = engine, None
        self.shapes, self.addresses, self.runs = {}, {}, 0

    def set_optimization_profile_async(self, index, stream):
        self.profile = self.engine.profiles[index]
        return True

    def set_input_shape(self, name, shape):
        least, _, largest = self.profile[name]
        fits = all(a <= b <= c for a, b, c in zip(least, shape, largest, strict=True))
        assert fits, f"{name} {shape} lies outside of {least} to {largest}"
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        """Free dimensions of outputs, such as `S + Q`, from those of the inputs."""
        free = {}
        for each, shape in self.shapes.items():
            free.update(zip(self.engine.inputs[each].shape, shape, strict=True))
        told = self.engine.outputs[name].shape
        return tuple(
            d if isinstance(d, int) else sum(free[part] for part in d.split(" + ")) for d in told
        )

    def set_tensor_address(self, name, address):
        assert address, "TensorRT refuses null, even for an empty tensor"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        if self.engine.driver.recording is None:
            self.runs += 1
            self._execute(shapes, addresses)
            return True
        assert self.runs, "TensorRT wants one run before it is recorded"
        self.engine.driver.recording.append(partial(self._execute, shapes, addresses))
        return True

    def _execute(self, shapes, addresses):
        feeds = {name: self._array(name, shape, addresses) for name, shape in shapes.items()}
        answers = self.engine.session.run(list(self.engine.outputs), feeds)
        for name, answer in zip(self.engine.outputs, answers, strict=True):
            self._array(name, answer.shape, addresses)[...] = answer

    def _array(self, name, shape, addresses):
        kind = {"FLOAT": np.float32, "INT64": np.int64}[self.engine.get_tensor_dtype(name)]
        return self.engine.driver.array(addresses[name], shape, kind)


def tensorrt(driver, version="10.3.0"):
    """The part of the package `tensorrt` that this project calls, over the driver's memory."""
    module = ModuleType("tensorrt")
    module.__spec__, module.__version__ = ModuleSpec("tensorrt", None), version
    module.TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    module.ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1})
    module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag = SimpleNamespace(TF32="TF32")
    module.Builder, module.OnnxParser = _Builder, _Parser
    module.nptype = {"FLOAT": np.float32, "INT64": np.int64}.__getitem__
    module.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda data: _Engine(data, driver) if len(data) > 8 else None
    )
    return module
