"""Write a regressor as ONNX, and leave it only if it answers as torch does."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from eft_fast import conventions
from eft_fast.body.smpl import Smpl
from eft_fast.deploy.graph import OUTPUTS, PRECISIONS, BodyGraph, ExportGraph
from eft_fast.deploy.samples import make_samples
from eft_fast.deploy.verify import (
    HASHES_NAME,
    PARITY_NAME,
    SAMPLES_NAME,
    TOLERANCES,
    Report,
    compare,
    hash_files,
    verify_folder,
)
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor
from eft_fast.serving.card import CARD_NAME, INPUT_NAME, MODEL_NAMES, ModelCard
from eft_fast.serving.session import open_session

#: Opsets that the exporter writes; older ones it would answer with a newer file.
OPSETS: Final = (18, 20, 22, 23)
_EXAMPLE_BATCH: Final = 3  # more than one: sizes 0 and 1 would be taken for constants
_OPEN_LICENCE: Final = "Apache-2.0"
_LICENSED_NOTICE: Final = (
    "holds data of a licensed SMPL body: its licence decides who may have this file; do not "
    "redistribute it"
)


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        outputs: ``params``; ``joints``: and joints in metres; ``vertices``: and the mesh.
        precision: ``fp32``, or ``fp16``: trunk in half precision, the rest in single.
        opset: ONNX opset.
        max_batch: Largest batch to verify.
        joint_set: Order of the joints.
    """

    outputs: str = "params"
    precision: str = "fp32"
    opset: int = 20
    max_batch: int = 64
    joint_set: str = "smpl45"

    def __post_init__(self) -> None:
        for name, known in (("outputs", OUTPUTS), ("precision", PRECISIONS), ("opset", OPSETS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"export: {name} must be one of {list(known)}, got {getattr(self, name)!r}"
                )
        if not 1 <= self.max_batch <= 1024:
            raise ValueError(f"export: max_batch must be 1 to 1024, got {self.max_batch}")
        find_joint_set(self.joint_set)


DEFAULT_CONFIG: Final = ExportConfig()


def export_regressor(
    regressor: Regressor,
    out: str | Path,
    *,
    body: Smpl | None = None,
    config: ExportConfig = DEFAULT_CONFIG,
    photos: Sequence[str | Path] = (),
    licence: str | None = None,
) -> Report:
    """Export to ``out`` and verify: model, card, stored samples and their comparison with torch.

    The files come to ``out`` only when every check has passed. Needs the extra ``onnx``.

    Args:
        regressor: The network; it stays as it is.
        out: Folder to write; files of an earlier export in it are replaced.
        body: Body of the joints and vertices; needed for those alone. Its data will be in the file.
        config: Outputs, precision, opset.
        photos: Photos whose crops are stored as samples, beside the built-in ones.
        licence: SPDX expression of the weights; default: Apache-2.0 for the open regressor, and
            unknown otherwise.

    Returns:
        What the verification found.

    Raises:
        ValueError: If the options do not fit each other, or the regressor does not fit the body.
        ImportError: If ``onnx``, ``onnxscript`` or ``onnxruntime`` is missing.
        RuntimeError: If the exported file does not pass; nothing is left in ``out``.

    Example:
        >>> report = export_regressor(load_regressor(), "exported")
        >>> report.passed
        True
    """
    body = _check_body(regressor, body, config)
    require_onnx()
    regressor = regressor.to("cpu").eval()
    target = Path(out).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    graph_body = None
    if body is not None:
        graph_body = BodyGraph(body, config.joint_set, with_vertices=config.outputs == "vertices")
    graph = ExportGraph(regressor, graph_body, config.precision).eval()
    samples = make_samples(regressor, body, config.outputs, config.joint_set, photos)
    card = _make_card(regressor, body, config, samples, licence)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target) as scratch:
        folder = Path(scratch)
        model = _to_onnx(graph, card, config)
        report = _write_checked(model, card, samples, folder)
        for path in folder.iterdir():
            shutil.move(path, target / path.name)
    return report


def require_onnx() -> None:
    """Raise ImportError unless everything is there that an export needs."""
    missing = []
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ImportError(
            f"export: {', '.join(missing)} must be installed; pip install 'eft-fast[onnx]'"
        )


def _check_body(regressor: Regressor, body: Smpl | None, config: ExportConfig) -> Smpl | None:
    if config.outputs == "params":
        return None
    if body is None:
        raise ValueError(
            f"export: outputs {config.outputs} need the body of {regressor.id} "
            f"({regressor.body_id}); pass body="
        )
    family = "smpl" if body.id.startswith("smpl") else body.id.split(":")[0]
    if regressor.body_id not in (family, body.id):
        raise ValueError(
            f"export: regressor {regressor.id} predicts body {regressor.body_id}, got body "
            f"{body.id}; pass the body that it was trained with"
        )
    return body


def _make_card(
    regressor: Regressor,
    body: Smpl | None,
    config: ExportConfig,
    samples: dict[str, np.ndarray],
    licence: str | None,
) -> ModelCard:
    is_open = regressor.body_id.startswith("open")
    body_is_licensed = body is not None and not body.id.startswith("open")
    names = find_joint_set(config.joint_set).names if body is not None else ()
    shapes = {name: list(value.shape[1:]) for name, value in samples.items() if name != "images"}
    return ModelCard(
        regressor=regressor.id,
        weights_sha256=hash_weights(regressor),
        body=regressor.body_id if body is None else body.id,
        outputs=shapes,
        input_size=regressor.input_size,
        mean=list(conventions.IMG_MEAN),
        std=list(conventions.IMG_STD),
        box_margin=conventions.BOX_MARGIN,
        camera_convention=regressor.camera_convention,
        joint_set=config.joint_set if body is not None else "",
        joint_names=list(names),
        precision=config.precision,
        opset=config.opset,
        max_batch=config.max_batch,
        licence=licence or (_OPEN_LICENCE if is_open and not body_is_licensed else "unknown"),
        notice=_LICENSED_NOTICE if body_is_licensed else "",
        eft_fast_version=_version(),
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def hash_weights(regressor: Regressor) -> str:
    """SHA-256 over names and values of all weights and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(regressor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _to_onnx(graph: ExportGraph, card: ModelCard, config: ExportConfig) -> Any:
    """Export, check what the exporter does not, and take its traces out."""
    size = card.input_size
    example = torch.zeros(_EXAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with _silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=config.opset,
                input_names=[INPUT_NAME],
                output_names=list(card.outputs),
                dynamic_shapes={INPUT_NAME: {0: batch}},
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
    if found != config.opset:
        raise RuntimeError(f"export: opset {config.opset} was asked for, the exporter gave {found}")
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


def _write_checked(
    model: Any, card: ModelCard, samples: dict[str, np.ndarray], folder: Path
) -> Report:
    path = folder / MODEL_NAMES["onnx"]
    _save(model, card, path)
    # Once without the comparison in the metadata, to make it; then the whole check on the file.
    first = compare(open_session(path, provider="cpu"), samples, TOLERANCES[card.precision])
    refuse(first)
    card = replace(card, max_difference=first.max_difference)
    _save(model, card, path)
    write_folder(folder, card, samples)
    report = verify_folder(folder, provider="cpu")
    refuse(report)
    write_json(folder / PARITY_NAME, report.to_dict())
    return report


def write_folder(folder: Path, card: ModelCard, samples: dict[str, np.ndarray]) -> None:
    """Write what stands beside a model: its card, the samples, and the hashes of all three."""
    (folder / CARD_NAME).write_text(card.to_json(), encoding="utf-8")
    with open(folder / SAMPLES_NAME, "wb") as file:
        np.savez_compressed(file, **samples)  # type: ignore[arg-type]
    write_json(folder / HASHES_NAME, hash_files(folder))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file for people to read as well."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def refuse(report: Report) -> None:
    """Raise RuntimeError unless the report is clean."""
    if not report.passed:
        raise RuntimeError(
            "export: the exported file does not pass and was not kept: "
            + "; ".join(report.problems)
        )


def _save(model: Any, card: ModelCard, path: Path) -> None:
    import onnx

    onnx.helper.set_model_props(model, card.to_strings())
    path.write_bytes(model.SerializeToString())


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


def _version() -> str:
    try:
        return version("eft-fast")
    except PackageNotFoundError:
        return "unknown"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
