"""From a torch module to an ONNX model, without what the exporter leaves behind."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from eft_fast.deploy.graph import ExportGraph
from eft_fast.files import write_bytes
from eft_fast.serving.card import INPUT_NAME, ModelCard
from eft_fast.serving.detector_card import DetectorCard
from eft_fast.serving.fit_card import FitCard

EXAMPLE_BATCH: Final = 3  # more than one: sizes 0 and 1 would be taken for constants


def to_onnx(graph: ExportGraph, card: ModelCard) -> Any:
    """Export, check what the exporter does not, and take its traces out.

    Args:
        graph: The module.
        card: Gives crop size, opset and output names.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        RuntimeError: If torch cannot export the module, or not in this opset.
    """
    size = card.input_size
    example = torch.zeros(EXAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    return trace_onnx(graph, example, {}, list(card.outputs), card.opset)


def trace_onnx(
    module: nn.Module,
    example: UInt8[Tensor, "B H W 3"],
    sides: Mapping[int, Any],
    outputs: Sequence[str],
    opset: int,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> Any:
    """Export a module that takes pictures; the batch is open.

    Args:
        module: From pictures to one or more tensors.
        example: A batch of ``EXAMPLE_BATCH`` pictures.
        sides: ``torch.export.Dim`` of the other open dimensions.
        outputs: Names of the tensors.
        opset: ONNX opset.
        more: Examples of what it takes beside the pictures, by the names of its arguments, of
            which the batch is the only open dimension.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        RuntimeError: If torch cannot export the module, or not in this opset.
    """
    batch = torch.export.Dim("batch", min=1, max=1024)
    with _silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (example, *more.values()),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME, *more],
                output_names=list(outputs),
                dynamic_shapes={
                    INPUT_NAME: {0: batch, **sides},
                    **{name: {0: batch} for name in more},
                },
                verbose=False,
            )
        except Exception as error:  # The exporter's kinds are not public.
            raise RuntimeError(
                f"export: torch cannot export this network ({_first_line(error)})"
            ) from error
    if program is None:
        raise RuntimeError("export: torch's exporter gave no model")
    model = program.model_proto
    # An opset that cannot be had is answered with a newer one and no error.
    found = {item.domain: item.version for item in model.opset_import}.get("")
    if found != opset:
        raise RuntimeError(f"export: opset {opset} was asked for, the exporter gave {found}")
    strip_traces(model)
    return model


def strip_traces(model: Any) -> None:
    """Remove what the exporter notes of sources and paths: most of the text in the file."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = ""
    graph.name = "eft_fast"


def save_onnx(model: Any, card: ModelCard | DetectorCard | FitCard, path: Path) -> None:
    """Write the model with the card as its metadata."""
    import onnx

    onnx.helper.set_model_props(model, card.to_strings())
    write_bytes(path, model.SerializeToString())


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter from talking of torchvision and of its own internals."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
