"""Formats that are made from an exported ONNX folder, in place."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eft_fast.deploy.folder import hash_files, write_json
from eft_fast.deploy.tensorrt import ENGINE_NAME, build_engine
from eft_fast.deploy.triton import MODEL_NAME, make_config
from eft_fast.serving.base import one_line
from eft_fast.serving.card import HASHES_NAME, MODEL_NAMES, load_card

#: Format -> the module that makes it, and the package that brings it.
_NEEDS: Final = {
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "'tensorrt-cu13>=10.13,<11'"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx-cu13"),
}
#: Those whose runtime takes the file that fits, which stays ONNX.
FIT_FORMATS: Final = ("onnx", "openvino")
FORMATS: Final = ("onnx", "openvino", "tensorrt", "tensorrt-rtx", "triton")


def check_format(name: str, precision: str) -> None:
    """Raise before the work begins if a format cannot be made here.

    Raises:
        ImportError: If its package is missing.
        ValueError: If it does not take the precision.
    """
    module, package = _NEEDS.get(name, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise ImportError(f"export: format {name} needs {module}; pip install {package}")
    if name == "openvino" and precision == "fp16":
        raise ValueError(
            "export: format openvino takes no precision fp16, which processors compute as fp32; "
            "use fp32, and ask for bf16 when it is run"
        )


def convert_folder(folder: Path, name: str) -> None:
    """Turn a verified ONNX folder into another format.

    Raises:
        RuntimeError: If the format's own tools refuse the model.
    """
    _CONVERTERS[name](folder)
    write_json(folder / HASHES_NAME, hash_files(folder))


def _to_openvino(folder: Path) -> None:
    import openvino

    source = folder / MODEL_NAMES["onnx"]
    card = load_card(folder)
    try:
        model = openvino.convert_model(str(source))
        # Text and weights alike stay as they are: nothing is rounded on the way.
        openvino.save_model(model, str(folder / MODEL_NAMES["openvino"]), compress_to_fp16=False)
    except RuntimeError as error:
        raise RuntimeError(
            f"export: OpenVINO cannot convert {card.regressor} ({one_line(error)})"
        ) from error
    source.unlink()


def _to_tensorrt(folder: Path) -> None:
    _write_engine(folder, "tensorrt")


def _to_tensorrt_rtx(folder: Path) -> None:
    _write_engine(folder, "tensorrt_rtx")


def _write_engine(folder: Path, library: str) -> None:
    engine = build_engine(folder / MODEL_NAMES["onnx"], load_card(folder), library=library)
    (folder / ENGINE_NAME).write_bytes(engine)


def _to_triton(folder: Path) -> None:
    """``DIR/eft_fast`` is the model; ``tritonserver --model-repository DIR``."""
    place = folder / MODEL_NAMES["triton"]
    place.parent.mkdir(parents=True)
    (folder / MODEL_NAMES["onnx"]).rename(place)
    (folder / MODEL_NAME / "config.pbtxt").write_text(make_config(load_card(folder)))


_CONVERTERS: Final[dict[str, Callable[[Path], None]]] = {
    "openvino": _to_openvino,
    "tensorrt": _to_tensorrt,
    "tensorrt-rtx": _to_tensorrt_rtx,
    "triton": _to_triton,
}
