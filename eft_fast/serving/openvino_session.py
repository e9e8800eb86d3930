"""OpenVINO on the CPU, in the precision that was asked for or not at all."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from eft_fast.serving.base import Session, one_line
from eft_fast.serving.card import INPUT_NAME, ModelFiles, load_card

#: Precision -> OpenVINO's name of it.
_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession(Session):
    """A model in OpenVINO.

    Args:
        files: The model, ``.xml`` or ``.onnx``.
        threads: Number of threads.
        precision: ``fp32``, or ``bf16`` where the processor has it; default: the export's own.
        gated: Whether ``bf16`` is for exports alone that were measured with it; only benchmarks
            and the measurement itself do without.
    """

    def __init__(
        self, files: ModelFiles, threads: int, precision: str | None = None, *, gated: bool = True
    ) -> None:
        try:
            import openvino
        except ImportError:
            raise ImportError("serving: OpenVINO is not installed; pip install openvino") from None
        self.card = load_card(files.folder)
        own = "bf16" if self.card.precision == "bf16" else "fp32"
        precision = precision or own
        if precision not in _HINTS:
            raise ValueError(
                f"serving: OpenVINO precision must be one of {list(_HINTS)}, got {precision!r}"
            )
        if precision == "bf16" and own != "bf16" and gated:
            raise ValueError(
                f"serving: {files.folder} was not measured in bf16; export it with --format "
                "openvino --precision bf16, which is"
            )
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise RuntimeError(
                "serving: bf16 was asked for, but OpenVINO finds none in this processor; use an "
                "export in fp32"
            )
        config = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads}
        try:
            model = core.read_model(str(files.path))
            self._model = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise ValueError(
                f"serving: {files.path} is damaged or not a model ({one_line(error)}); export it "
                "again"
            ) from error
        self.provider, self.precision = "openvino", precision
        self._check_input(files)
        self.check_outputs([item.get_any_name() for item in self._model.outputs])
        # One request serves all callers: a second one would double the memory, not the speed.
        self._lock = threading.Lock()

    def _check_input(self, files: ModelFiles) -> None:
        size = self.card.input_size
        found = [
            (port.get_any_name(), port.get_element_type().to_string(), str(port.partial_shape))
            for port in self._model.inputs
        ]
        named = len(found) == 1 and found[0][:2] == (INPUT_NAME, "u8")
        if not named or not _fits(found[0][2], size):
            raise ValueError(
                f"serving: {files.path} must take {INPUT_NAME} u8 [?,{size},{size},3], got "
                f"{found}; export it again"
            )

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        with self._lock:
            try:
                result = self._model([images])
            except RuntimeError as error:
                raise RuntimeError(f"serving: OpenVINO failed ({one_line(error)})") from error
            return [np.array(result[index], np.float32) for index in range(len(result))]


def _fits(shape: str, size: int) -> bool:
    """Whether a shape such as ``[1..1024,256,256,3]`` has an open batch of the right crops."""
    batch, *others = shape.strip("[]").split(",")
    return others == [str(size), str(size), "3"] and not batch.isdigit()
