"""The runtimes of the file that fits: ONNX Runtime and OpenVINO, both on the CPU.

On CUDA the loops of the file would wait for the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from eft_fast.serving.base import one_line
from eft_fast.serving.fit_card import METADATA
from eft_fast.serving.onnx_session import open_runtime


class FitRuntime(NamedTuple):
    """An opened file.

    Attributes:
        metadata: Its card as JSON; ``{}`` where it has none.
        outputs: Of each output the names that the runtime has for it.
        call: From inputs by name to the outputs in their order; RuntimeError where it fails.
    """

    metadata: str
    outputs: list[Set[str]]
    call: Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def open_in_onnxruntime(path: Path, threads: int) -> FitRuntime:
    """Open the file in ONNX Runtime; errors as of ``onnx_session.open_runtime``."""
    session = open_runtime(path, {"cpu": {}}, threads)

    def call(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return list(session.run(None, feed))
        except Exception as error:  # The runtime has a dozen kinds, none of them public.
            raise RuntimeError(f"serving: ONNX Runtime failed ({one_line(error)})") from error

    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    return FitRuntime(metadata, [{item.name} for item in session.get_outputs()], call)


def open_in_openvino(path: Path, threads: int) -> FitRuntime:
    """Open the file in OpenVINO, in single precision.

    Raises:
        ImportError: If OpenVINO is not installed.
        ValueError: If the file is damaged.
    """
    try:
        import openvino
    except ImportError:
        raise ImportError("serving: OpenVINO is not installed; pip install openvino") from None
    core = openvino.Core()
    # The systems of the fit lose their digits in anything less.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    place = ["framework", METADATA]
    try:
        model = core.read_model(str(path))
        metadata = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else "{}"
        compiled = core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise ValueError(
            f"serving: {path} is damaged or not a model ({one_line(error)}); export it again"
        ) from error
    # One request serves all callers: a second one would double the memory, not the speed.
    lock = threading.Lock()

    def call(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        with lock:
            try:
                result = compiled(feed)
            except RuntimeError as error:
                raise RuntimeError(f"serving: OpenVINO failed ({one_line(error)})") from error
            return [np.array(result[index], np.float32) for index in range(len(result))]

    return FitRuntime(metadata, [set(port.get_names()) for port in compiled.outputs], call)


#: What opens the file, by name.
FIT_RUNTIMES: Final[Mapping[str, Callable[[Path, int], FitRuntime]]] = {
    "onnxruntime": open_in_onnxruntime,
    "openvino": open_in_openvino,
}
