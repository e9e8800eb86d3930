"""Write a regressor for other runtimes, and leave it only if it answers as torch does."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.body.smpl import Smpl
from eft_fast.deploy.body_graph import BodyGraph
from eft_fast.deploy.detector_export import add_detector
from eft_fast.deploy.fit_data import find_fit_asset, find_reading, make_fit_samples
from eft_fast.deploy.fit_export import add_fit_model
from eft_fast.deploy.folder import IMAGES, PARITY_NAME, replaced_folder, write_json, write_record
from eft_fast.deploy.formats import FIT_FORMATS, FORMATS, check_format, convert_folder
from eft_fast.deploy.graph import OUTPUTS, PRECISIONS, ExportGraph
from eft_fast.deploy.onnx_graph import save_onnx, to_onnx
from eft_fast.deploy.samples import make_samples
from eft_fast.deploy.verify import TOLERANCES, Report, compare, verify_folder
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor, check_same_body
from eft_fast.models.identity import weights_sha256
from eft_fast.serving.card import MODEL_NAMES, OUTPUT_SHAPES, ModelCard
from eft_fast.serving.session import open_session

#: Opsets that the exporter writes; older ones it would answer with a newer file.
OPSETS: Final = (18, 20, 22, 23)
_OPEN_LICENCE: Final = "Apache-2.0"
_OPEN_BODY_LICENCE: Final = "CC0-1.0"
_LICENSED_NOTICE: Final = (
    "holds data of a licensed SMPL body: its licence decides who may have this file; do not "
    "redistribute it"
)


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        format: ``onnx``; ``openvino``; ``tensorrt`` and ``tensorrt-rtx``: an engine beside the ONNX
            file; ``triton``: a model repository.
        outputs: ``params``; ``joints``: and joints in metres; ``vertices``: and the mesh.
        precision: ``fp32``, or ``fp16``: trunk in half precision, the rest in single.
        opset: ONNX opset.
        max_batch: Largest batch to verify, and that engines take.
        joint_set: Order of the joints.
        detector: Write the package's detector as well, which finds people without torch; not in a
            model repository.
        fit: Joint set of the keypoints of a second file, which fits: the network and ``map`` behind
            it; None: there is none. In single precision, and of format ``onnx`` or ``openvino``.
    """

    format: str = "onnx"
    outputs: str = "params"
    precision: str = "fp32"
    opset: int = 20
    max_batch: int = 64
    joint_set: str = "smpl45"
    detector: bool = False
    fit: str | None = None

    def __post_init__(self) -> None:
        known = {
            "format": FORMATS, "outputs": OUTPUTS, "precision": PRECISIONS, "opset": OPSETS,
        }  # fmt: skip
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"export: {name} must be one of {list(values)}, got {getattr(self, name)!r}"
                )
        if self.detector and self.format == "triton":
            raise ValueError(
                "export: a detector goes with every format but triton, whose folder holds models "
                "that the server serves; export it into a folder of its own with format onnx"
            )
        if self.fit is not None:
            find_joint_set(self.fit)
            if self.format not in FIT_FORMATS or self.precision != "fp32":
                raise ValueError(
                    f"export: a file that fits goes with format {' or '.join(FIT_FORMATS)} and "
                    f"precision fp32, got {self.format} and {self.precision}"
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
    covariance: str | Path | None = None,
    licence: str | None = None,
    source_sha256: str = "",
) -> Report:
    """Export to ``out`` and verify: model, card, stored samples and their comparison with torch.

    The files come to ``out`` only when every check has passed. Needs the extra ``onnx``.

    Args:
        regressor: The network; it stays as it is.
        out: Folder to write; files of an earlier export in it are replaced.
        body: Body of joints and vertices, whose data will be in the model, and of fits, for which
            some of it lies beside the model; default: the open one for fits of its regressors.
        config: Format, outputs, precision, opset.
        photos: Photos whose crops are stored as samples, beside the built-in ones.
        covariance: File of the network's error covariance, without which no fits are possible with
            the export; default: that of the package's regressor.
        licence: SPDX expression of the weights; default: that of the open regressor for it, and
            unknown otherwise.
        source_sha256: Hash of the file that the weights came from; default: what a loaded
            checkpoint knows of itself.

    Returns:
        What the verification found.

    Raises:
        ValueError: If the options do not fit each other, or the regressor does not fit the body.
        TypeError: If the precision is not possible for this network.
        ImportError: If ``onnx``, ``onnxscript``, ``onnxruntime`` or the format's own package is
            missing.
        RuntimeError: If the exported file does not pass; nothing is left in ``out``.

    Example:
        >>> report = export_regressor(load_regressor(), "exported")
        >>> report.passed
        True
    """
    asset, reason = find_fit_asset(regressor, body, covariance)
    if config.fit is not None and asset is None:
        raise ValueError(f"export: a file that fits is not possible ({reason})")
    fit_body, body = body, _check_body(regressor, body, config)
    require_onnx()
    check_format(config.format, config.precision)
    regressor = copy.deepcopy(regressor).to("cpu").eval()
    graph = _make_graph(regressor, body, config)
    samples = make_samples(regressor, body, config.outputs, config.joint_set, photos)
    fit_data = None if asset is None else asset.to_bytes()
    if asset is not None:
        samples |= make_fit_samples(asset, fit_body, samples)
    card = _make_card(regressor, body, config, samples, None if asset is None else asset.body_id)
    if fit_data is not None:
        card = replace(card, fit_sha256=hashlib.sha256(fit_data).hexdigest())
    checkpoint = getattr(regressor, "checkpoint", None)
    source_sha256 = source_sha256 or getattr(checkpoint, "sha256", "")
    card = replace(card, licence=licence or card.licence, source_sha256=source_sha256)
    with replaced_folder(out) as folder:
        if config.detector:
            add_detector(folder, opset=config.opset, eft_fast_version=card.eft_fast_version)
        model = to_onnx(graph, card)
        if config.fit is not None and asset is not None:
            add_fit_model(
                folder,
                regressor,
                asset,
                card,
                samples,
                reading=find_reading(regressor, covariance),
                joint_set=config.fit,
                body=fit_body,
                with_vertices=config.outputs == "vertices",
            )
        report = _write_checked(model, card, samples, folder, fit_data)
        if config.format != "onnx":
            convert_folder(folder, config.format)
            report = verify_folder(folder)
            refuse(report)
        if reason:
            report = replace(report, checks=report.checks | {"fit": reason})
        write_json(folder / PARITY_NAME, report.to_dict())
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
            f"export: {', '.join(missing)} must be installed; pip install {' '.join(missing)}"
        )


def _check_body(regressor: Regressor, body: Smpl | None, config: ExportConfig) -> Smpl | None:
    if config.outputs == "params":
        return None
    if body is None:
        raise ValueError(
            f"export: outputs {config.outputs} need the body of {regressor.id} "
            f"({regressor.body_id}); pass body="
        )
    check_same_body(regressor, body.id, "export")
    return body


def _make_graph(regressor: Regressor, body: Smpl | None, config: ExportConfig) -> ExportGraph:
    part = None
    if body is not None:
        part = BodyGraph.of(body, config.joint_set, with_vertices=config.outputs == "vertices")
    return ExportGraph(regressor, part, config.precision).eval()


def _make_card(
    regressor: Regressor,
    body: Smpl | None,
    config: ExportConfig,
    samples: dict[str, np.ndarray],
    fit_body: str | None,
) -> ModelCard:
    """What the model says of itself; ``fit_body``: whose data lies beside it for fits, if any."""
    is_open = regressor.body_id.startswith("open")
    body_id = fit_body if body is None else body.id
    body_is_licensed = body_id is not None and not body_id.startswith("open")
    licence = _OPEN_LICENCE if is_open and not body_is_licensed else "unknown"
    if is_open and body_id is not None and not body_is_licensed:
        licence += f" AND {_OPEN_BODY_LICENCE}"
    names = find_joint_set(config.joint_set).names if body is not None else ()
    return ModelCard(
        regressor=regressor.full_id,
        weights_sha256=weights_sha256(regressor),
        source_sha256="",
        body=regressor.body_id if body_id is None else body_id,
        outputs={k: list(v.shape[1:]) for k, v in samples.items() if k in OUTPUT_SHAPES},
        input_size=regressor.input_size,
        mean=list(regressor.img_mean),
        std=list(regressor.img_std),
        box_margin=regressor.box_margin,
        camera_convention=regressor.camera_convention,
        joint_set=config.joint_set if body is not None else "",
        joint_names=list(names),
        precision=config.precision,
        opset=config.opset,
        max_batch=config.max_batch,
        licence=licence,
        notice=_LICENSED_NOTICE if body_is_licensed else "",
        eft_fast_version=_version(),
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _write_checked(
    model: Any,
    card: ModelCard,
    samples: dict[str, np.ndarray],
    folder: Path,
    fit_data: bytes | None,
) -> Report:
    path = folder / MODEL_NAMES["onnx"]
    save_onnx(model, card, path)
    # Once without the comparison in the metadata, to make it; then the whole check on the file.
    session, count = open_session(path, provider="cpu"), len(samples[IMAGES])
    first = compare(session, samples, TOLERANCES[card.precision], batches=(count,))
    refuse(first)
    card = replace(card, max_difference=first.max_difference)
    save_onnx(model, card, path)
    write_record(folder, card, samples, fit_data)
    report = verify_folder(folder, provider="cpu")
    refuse(report)
    return report


def refuse(report: Report) -> None:
    """Raise RuntimeError unless the report is clean."""
    if not report.passed:
        raise RuntimeError(
            "export: the exported file does not pass and was not kept: "
            + "; ".join(report.problems)
        )


def _version() -> str:
    try:
        return version("eft-fast")
    except PackageNotFoundError:
        return "unknown"
