"""An ONNX Runtime that claims to have GPUs."""

from __future__ import annotations

from types import SimpleNamespace

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class FakeRuntime:
    """ONNX Runtime with a GPU build: a real session on the CPU, whatever was asked for."""

    def __init__(self, used, parts):
        import onnxruntime

        self.real, self.used, self.parts = onnxruntime, used, parts
        self.SessionOptions = onnxruntime.SessionOptions
        self.__file__, self.__version__ = onnxruntime.__file__, onnxruntime.__version__
        self.severities = []
        self.set_default_logger_severity = self.severities.append

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self):
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, path, options, providers):
        self.asked = providers
        session = self.real.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: self.used
        session.get_provider_graph_assignment_info = lambda: [
            SimpleNamespace(
                ep_name=name,
                get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=kind) for kind in kinds],
            )
            for name, kinds in self.parts
        ]
        return session
