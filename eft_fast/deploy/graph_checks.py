"""What an exported ONNX file must be, whatever runs it; needs the package ``onnx``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from eft_fast.serving.card import OUTPUT_SHAPES, ModelCard

#: What a file would hold if places of the exporting machine had been left in it.
_TRACES: Final = re.compile(
    rb"pkg\.torch\.onnx\.stack_trace|site-packages|(?:/home/|/root/|/Users/|[A-Z]:\\)[\w.\-/\\]+"
)


def check_graph(path: Path, card: ModelCard, problems: list[str], checks: dict[str, str]) -> None:
    """Opset, operators, full checker with strict shape inference: needs ``onnx``."""
    model = load_checked(path, problems, checks)
    if model is None:
        return
    wrong = [*operator_faults(model, card.opset), *_shape_faults(model, card)]
    problems += wrong
    checks["checker"] = "failed" if wrong else "passed"
    found = find_trace(model)
    if found is not None:
        problems.append(_trace_fault(found))
    checks["traces"] = "passed" if found is None else "failed"


def graph_faults(path: Path, opset: int, name: str) -> list[str]:
    """What there is against a file, if ``onnx`` is installed: sentences that begin with a name."""
    problems: list[str] = []
    model = load_checked(path, problems, {})
    if model is not None:
        problems += operator_faults(model, opset)
        trace = find_trace(model)
        if trace is not None:
            problems.append(_trace_fault(trace))
    return [f"{name}: {problem}" for problem in problems]


def load_checked(path: Path, problems: list[str], checks: dict[str, str]) -> Any:
    """The model if the checker takes it, else None; says which checks were left out or failed."""
    try:
        import onnx
    except ImportError:
        checks["checker"] = checks["traces"] = "left out: onnx is not installed"
        return None
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # Protobuf, the checker and shape inference have their own kinds.
        problems.append(f"the ONNX checker refuses the file ({' '.join(str(error).split())[:200]})")
        checks["checker"] = "failed"
        return None
    return model


def find_trace(model: Any) -> str | None:
    """A path or stack trace that the exporter left in the model, or None."""
    copied = type(model)()
    copied.CopyFrom(model)
    # Weights are no text, but any text can be found in them.
    tensors = list(copied.graph.initializer)
    tensors += [
        item.t for node in copied.graph.node for item in node.attribute if item.HasField("t")
    ]
    for tensor in tensors:
        tensor.ClearField("raw_data")
    found = _TRACES.search(copied.SerializeToString())
    return found[0].decode("ascii", "replace") if found else None


def _trace_fault(trace: str) -> str:
    return f"the file must not name places of the exporting machine, got {trace}"


def operator_faults(model: Any, opset: int) -> Iterator[str]:
    """Sentences on opset, operators and batch dimension."""
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets.get("") != opset:
        yield f"the opset must be {opset}, got {opsets.get('')}"
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign or len(model.functions):
        yield f"only standard operators may be used, got {foreign or 'functions'}"
    for value in (*model.graph.input, *model.graph.output):
        dims = _dims(value)
        if dims[:1] != ["batch"]:
            yield f"{value.name} must have the batch first and open, got {dims}"


def _shape_faults(model: Any, card: ModelCard) -> Iterator[str]:
    for value in (*model.graph.input, *model.graph.output):
        dims, known = _dims(value), OUTPUT_SHAPES.get(value.name)
        if known is not None and dims[1:] != card.outputs.get(value.name):
            yield f"{value.name} must be {card.outputs.get(value.name)}, got {dims[1:]}"


def _dims(value: Any) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
