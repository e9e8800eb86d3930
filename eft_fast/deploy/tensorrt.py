"""TensorRT engines: parsed and built from the exported file, whose precisions they keep.

The network is strongly typed: what is half precision in the file is half in the engine, and nothing
else. TensorRT times kernels and needs the GPU that will run the engine. TensorRT-RTX builds ahead
of time for a list of architectures, without a GPU, and runs on RTX GPUs only.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from eft_fast.serving.card import INPUT_NAME, ModelCard

ENGINE_NAME: Final = "model.engine"
#: Architectures of ahead-of-time engines: Ampere and Ada.
RTX_ARCHS: Final = ("SM86", "SM89")
#: Batch that an engine is tuned for, unless it takes less.
_BEST_BATCH: Final = 8


def build_engine(path: Path, card: ModelCard, *, library: str = "tensorrt") -> bytes:
    """Parse an ONNX file and build the engine for batches of 1 to ``card.max_batch``.

    Args:
        path: The exported file.
        card: Of the model.
        library: ``tensorrt`` (10.x) or ``tensorrt_rtx``.

    Raises:
        ImportError: If the library is missing or cannot be loaded.
        RuntimeError: If it refuses the model, or cannot build here.
    """
    trt = _load(library)
    log = _make_log(trt)
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:
        raise RuntimeError(
            f"export: {library} cannot build an engine here ({log.last or error}); it needs an "
            "NVIDIA GPU and its driver"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        first = parser.get_error(0).desc() if parser.num_errors else log.last
        raise RuntimeError(f"export: {library} refuses the model ({' '.join(first.split())})")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        # It is on by default, and rounds what the file has in single precision to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
    if library == "tensorrt_rtx":
        config.num_compute_capabilities = len(RTX_ARCHS)
        for index, name in enumerate(RTX_ARCHS):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    profile = builder.create_optimization_profile()
    crop = (card.input_size, card.input_size, 3)
    batches = (1, min(_BEST_BATCH, card.max_batch), card.max_batch)
    profile.set_shape(INPUT_NAME, *((batch, *crop) for batch in batches))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"export: {library} cannot build an engine here ({log.last})")
    return bytes(engine)


def _load(library: str) -> Any:
    try:
        trt = importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f"export: {library} cannot be loaded ({error}); pip install "
            f"{library.replace('_', '-')}-cu13"
        ) from error
    if library == "tensorrt" and not trt.__version__.startswith("10."):
        raise ImportError(
            f"export: TensorRT 10 is needed, as ONNX Runtime's provider is, got {trt.__version__}; "
            "pip install 'tensorrt-cu13>=10.13,<11'"
        )
    return trt


def _make_log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error."""

    class Log(trt.ILogger):  # type: ignore[misc]
        last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (self.ERROR, self.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Log()
