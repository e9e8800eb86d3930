"""Exports in int8 and bf16: made from the fp32 export, and left only if they pass the gate."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from eft_fast.body.smpl import Smpl
from eft_fast.deploy.folder import (
    FIT_SAMPLES,
    GATE_NAME,
    IMAGES,
    PARITY_NAME,
    replaced_folder,
    write_json,
    write_record,
)
from eft_fast.deploy.formats import check_format, convert_folder
from eft_fast.deploy.gate import GateReport, GateSet, run_gate
from eft_fast.deploy.onnx_export import ExportConfig, export_regressor, refuse
from eft_fast.deploy.quantise import quantise_file
from eft_fast.deploy.verify import Report, load_samples, verify_folder
from eft_fast.models.base import Regressor
from eft_fast.serving.card import FIT_NAME, MODEL_NAMES, load_card
from eft_fast.serving.detector_card import DETECTOR_FOLDER
from eft_fast.serving.session import open_session

#: Precision -> the formats that have it.
REDUCED: Final = {"int8": ("onnx", "openvino", "triton"), "bf16": ("openvino",)}


def export_reduced(
    regressor: Regressor,
    out: str | Path,
    precision: str,
    *,
    config: ExportConfig,
    body: Smpl,
    calibration: UInt8[np.ndarray, "N S S 3"],
    gate_set: GateSet,
    with_body: bool,
    covariance: str | Path | None = None,
    licence: str | None = None,
    source_sha256: str = "",
) -> tuple[Report, GateReport]:
    """Export in ``int8`` or ``bf16`` and measure it.

    The stored samples hold the answers of the model that passed the gate; ``gate.json`` says how
    far those are from fp32.

    Args:
        regressor: The network; it stays as it is.
        out: Folder to write.
        precision: ``int8``: the trunk's convolutions, everything behind in fp32; ``bf16``: as
            OpenVINO computes on processors that have it.
        config: Of the export; its precision is that of the starting point, fp32.
        body: Body that joints are measured on.
        calibration: Crops that the ranges of int8 are taken from.
        gate_set: Crops of the gate.
        with_body: Whether ``body`` goes into the file, as ``config.outputs`` asks.
        covariance: See ``export_regressor``; with one ``body`` lies beside the model for fits.
        licence: See ``export_regressor``.
        source_sha256: See ``export_regressor``.

    Raises:
        ValueError: If precision and format do not fit, or there are too few crops.
        RuntimeError: If the processor lacks the precision, or the gate does not pass; nothing is
            left in ``out``.
    """
    _check(precision, config)
    with tempfile.TemporaryDirectory() as scratch, replaced_folder(out) as folder:
        exact = Path(scratch)
        export_regressor(
            regressor,
            exact,
            body=body if with_body or covariance is not None else None,
            covariance=covariance,
            config=replace(config, format="onnx"),
            licence=licence,
            source_sha256=source_sha256,
        )
        card = replace(load_card(exact), precision=precision, max_difference={})
        samples = load_samples(exact, card)
        source, target = exact / MODEL_NAMES["onnx"], folder / MODEL_NAMES["onnx"]
        if precision == "int8":
            quantise_file(source, target, regressor, card, calibration)
        else:
            shutil.copy(source, target)
        fit_data = (exact / FIT_NAME).read_bytes() if card.fit_sha256 else None
        if config.detector:
            shutil.copytree(exact / DETECTOR_FOLDER, folder / DETECTOR_FOLDER)
        write_record(folder, card, samples, fit_data)
        if config.format != "onnx":
            convert_folder(folder, config.format)
        candidate = open_session(folder)
        report = run_gate(precision, open_session(exact, provider="cpu"), candidate, body, gate_set)
        if not report.passed:
            raise GateError(report)
        write_json(folder / GATE_NAME, report.to_dict())
        kept = {name: samples[name] for name in samples if name.startswith(FIT_SAMPLES)}
        kept |= {IMAGES: samples[IMAGES]} | candidate.run(samples[IMAGES])
        write_record(folder, card, kept)
        verified = verify_folder(folder)
        refuse(verified)
        write_json(folder / PARITY_NAME, verified.to_dict())
    return verified, report


def _check(precision: str, config: ExportConfig) -> None:
    if precision not in REDUCED:
        raise ValueError(f"export: precision must be one of {list(REDUCED)}, got {precision!r}")
    if config.format not in REDUCED[precision] or config.precision != "fp32":
        raise ValueError(
            f"export: {precision} goes with format {' or '.join(REDUCED[precision])}, got "
            f"{config.format}"
        )
    check_format(config.format, config.precision)


class GateError(RuntimeError):
    """A precision that costs too much; ``report`` has the table."""

    def __init__(self, report: GateReport) -> None:
        super().__init__("export: the gate does not pass: " + "; ".join(report.problems))
        self.report = report
