"""8-bit files: the trunk's convolutions in int8, calibrated on crops; everything behind in fp32."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from eft_fast.deploy.graph import TRUNK_END
from eft_fast.deploy.onnx_graph import save_onnx, strip_traces
from eft_fast.models.base import Regressor
from eft_fast.serving.card import INPUT_NAME, ModelCard

#: Fewest crops that the ranges of activations may be taken from.
MIN_CALIBRATION: Final = 8
#: Name of the regressor inside ``ExportGraph``, in front of the names of its weights.
_PREFIX: Final = "regressor."


def quantise_file(
    source: Path,
    target: Path,
    regressor: Regressor,
    card: ModelCard,
    crops: UInt8[np.ndarray, "N S S 3"],
) -> None:
    """Write the int8 form of an exported fp32 file.

    Args:
        source: The fp32 file.
        target: File to write.
        regressor: The network that was exported: tells which weights stand behind the trunk.
        card: Metadata of the new file.
        crops: What the ranges are measured on.

    Raises:
        ValueError: If there are too few crops, or trunk and head cannot be told apart in the file.
        RuntimeError: If ONNX Runtime cannot quantise the file.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if len(crops) < MIN_CALIBRATION:
        raise ValueError(
            f"export: int8 is calibrated on {MIN_CALIBRATION} crops or more, got {len(crops)}; "
            "give more photos of people"
        )
    names = find_trunk(onnx.load(str(source)), regressor)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # It advises a pre-processing that fails on such files.
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        try:
            quantize_static(
                str(source),
                str(path),
                _Reader(crops),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=names,
                per_channel=True,
                # Without VNNI, sums of full-range products overflow their 16 bits.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # The tool's kinds are not public.
            text = " ".join(str(error).split())[:200]
            raise RuntimeError(f"export: ONNX Runtime cannot quantise the file ({text})") from error
        finally:
            logger.setLevel(level)
        model = onnx.load(str(path))
    strip_traces(model)
    save_onnx(model, card, target)


def find_trunk(model: Any, regressor: Regressor) -> list[str]:
    """Names of the convolution nodes of the trunk.

    Those behind it keep their weights' names in the file; every one of them must be found there, or
    the head might be quantised unseen.

    Raises:
        ValueError: If the network does not tell where its trunk ends, or a weight is not found.
    """
    if TRUNK_END not in regressor.stages:
        raise ValueError(
            f"export: int8 needs a network that can be cut at the stage {TRUNK_END!r}, which "
            f"{type(regressor).__name__} cannot; use fp32"
        )
    behind = {id(parameter) for parameter in regressor.parameters_from(TRUNK_END)}
    kept = {
        _PREFIX + name
        for name, value in regressor.named_parameters()
        if id(value) in behind and value.dim() == 4
    }
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    lost = kept - {node.input[1] for node in convolutions}
    trunk = [node.name for node in convolutions if node.input[1] not in kept]
    if lost or not trunk:
        what = f"does not find {sorted(lost)[0]}" if lost else "finds no convolution of the trunk"
        raise ValueError(f"export: int8 {what} in the exported file; use fp32")
    return trunk


class _Reader:
    """Feeds the calibration, a crop at a time."""

    def __init__(self, crops: np.ndarray) -> None:
        self._rows: Iterator[np.ndarray] = iter(crops)

    def get_next(self) -> dict[str, np.ndarray] | None:
        crop = next(self._rows, None)
        return None if crop is None else {INPUT_NAME: crop[None]}
