"""``eft-fast export`` in int8 and bf16: gathers what the gate is measured on."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from eft_fast.cli.export_report import gate_lines, report_lines
from eft_fast.cli.export_source import (
    describe_source,
    load_export_body,
    tell_notice,
)
from eft_fast.cli.output import UsageError, emit, note

#: Rendered people; their seed is neither that of the training nor that of openbench.
_PEOPLE, _SEED = 96, 21


def export_gated(options: argparse.Namespace, given: dict[str, Any]) -> int:
    """Cut the crops, render the people, export, and print accuracy next to speed."""
    from eft_fast.deploy.gate import MIN_PHOTOS, GateSet
    from eft_fast.deploy.onnx_export import ExportConfig
    from eft_fast.deploy.quantise import MIN_CALIBRATION
    from eft_fast.deploy.reduced import GateError, export_reduced
    from eft_fast.models import load_regressor

    config = ExportConfig(**(given | {"precision": "fp32"}))
    start = time.perf_counter()
    regressor = load_regressor(options.regressor)
    body = _gate_body(options, regressor)
    crops = _crops(options, regressor.input_size)
    if len(crops) < MIN_PHOTOS + MIN_CALIBRATION:
        raise UsageError(
            f"{options.precision} needs {MIN_PHOTOS + MIN_CALIBRATION} people on "
            f"the photos or more, found {len(crops)}"
        )
    # Every other person calibrates, so that neighbours in a folder go to both sides.
    gate_set = GateSet(crops[::2], *_rendered(options, regressor.input_size))
    licence, sha256 = describe_source(options.regressor)
    try:
        report, gate = export_reduced(
            regressor,
            options.out,
            options.precision,
            config=config,
            body=body,
            calibration=crops[1::2],
            gate_set=gate_set,
            with_body=load_export_body(options) is not None,
            covariance=options.covariance,
            licence=options.licence or licence,
            source_sha256=sha256,
        )
    except GateError as error:
        note(f"{options.prog}: {error}")
        failed = {"out": None, "gate": error.report.to_dict()}
        emit(failed, gate_lines(error.report), as_json=options.json)
        return 1
    summary = {
        "out": str(options.out),
        "regressor": regressor.id,
        "format": options.format,
        "precision": options.precision,
        "seconds": time.perf_counter() - start,
        **report.to_dict(),
        "gate": gate.to_dict(),
    }
    tell_notice(options)
    lines = gate_lines(gate) + report_lines(report, str(options.out))
    emit(summary, lines, as_json=options.json)
    return 0


def _gate_body(options: argparse.Namespace, regressor: Any) -> Any:
    from eft_fast.body import load_body
    from eft_fast.models.base import check_same_body

    body = load_body(options.body)
    # The gate measures joints on it, also where no body goes into the file.
    check_same_body(regressor, body.id, "--body")
    return body


def _crops(options: argparse.Namespace, size: int) -> Any:
    """Crops of everybody whom the detector finds on the photos."""
    from eft_fast.cli.people import people_from_detector
    from eft_fast.imaging import Crop, crop_image, load_image

    people = people_from_detector(options.photos, quiet=options.quiet)
    crops = [
        crop_image(load_image(photo), Crop.from_box(box, size))
        for photo, box in zip(people.photos, people.boxes, strict=True)
    ]
    return np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)


def _rendered(options: argparse.Namespace, size: int) -> tuple[Any, Any, Any]:
    """Pictures, rotations and shapes of rendered people."""
    from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards

    if not options.quiet:
        note(f"rendering {_PEOPLE} people for the gate")
    with tempfile.TemporaryDirectory() as scratch:
        job = SynthJob(
            out=Path(scratch),
            split="test",
            count=_PEOPLE,
            motion=options.motion,
            config=SynthConfig(size=size, seed=_SEED),
        )
        arrays = load_shards(render_shards(job))
    return arrays.image, arrays.rotmat, arrays.betas
