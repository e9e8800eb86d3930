"""``eft-fast export``: a regressor for other runtimes, verified before it is left."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from eft_fast.cli.choices import (
    ALL_JOINT_SETS,
    EXPORT_FORMATS,
    EXPORT_OUTPUTS,
    EXPORT_PRECISIONS,
    FIT_FORMATS,
    GATED,
    OPSETS,
)
from eft_fast.cli.export_report import report_lines
from eft_fast.cli.export_source import (
    describe_source,
    load_export_body,
    tell_notice,
)
from eft_fast.cli.options import add_body, add_covariance, add_out_folder, add_regressor, at_least
from eft_fast.cli.output import UsageError, emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import (
    check_body,
    check_file,
    check_folder,
    check_regressor,
    find_covariance,
    output_folder,
)

if TYPE_CHECKING:
    from eft_fast.deploy.onnx_export import ExportConfig


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "export",
        run,
        summary="write a regressor for ONNX Runtime and others, verified",
        description=(
            "Write a regressor as ONNX, or for OpenVINO, TensorRT or Triton, run it in batches of "
            "1, 7 and --max-batch, and keep it only if it answers as torch does. Where the "
            "regressor's usual error is known, people can be fitted with the export; with "
            "--detector it finds them, too. int8 and bf16 (OpenVINO) must pass a gate on photos "
            "and rendered people as well."
        ),
        examples=[
            "eft-fast export --out exported --outputs joints --detector",
            "eft-fast export --out exported --fit",
            "eft-fast export --out small --precision int8 --photos photos/ --motion cmu/",
        ],
    )
    add_regressor(parser)
    add_out_folder(parser)
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        default="onnx",
        metavar="F",
        help=f"{', '.join(EXPORT_FORMATS)} (default onnx)",
    )
    parser.add_argument(
        "--outputs",
        choices=EXPORT_OUTPUTS,
        default="params",
        metavar="O",
        help="params; joints: and joints; vertices: and the mesh, with the body in the file "
        "(default params)",
    )
    add_body(parser, of="of joints, vertices, fits and the gate: ")
    add_covariance(parser, of="of fits: ")
    parser.add_argument(
        "--precision",
        choices=EXPORT_PRECISIONS,
        default="fp32",
        metavar="P",
        help="fp32; fp16: of the trunk; int8 or bf16 behind a gate (default fp32)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=20,
        metavar="N",
        help=f"ONNX opset: {', '.join(map(str, OPSETS))} (default 20)",
    )
    parser.add_argument(
        "--max-batch",
        type=at_least(1, 1024),
        default=64,
        metavar="N",
        help="largest batch (default 64)",
    )
    parser.add_argument(
        "--joint-set",
        choices=ALL_JOINT_SETS,
        metavar="SET",
        help="of joints and vertices: order of the joints (default smpl45)",
    )
    parser.add_argument(
        "--photos",
        nargs="+",
        type=Path,
        default=[],
        metavar="PHOTO",
        help="photos of people: stored as samples; of int8 and bf16: the gate's",
    )
    parser.add_argument(
        "--motion", type=Path, metavar="DIR", help="of the gate: motion capture to render"
    )
    parser.add_argument(
        "--detector",
        action="store_true",
        help="also the detector, so that predict --find finds people; runs in ONNX Runtime",
    )
    parser.add_argument(
        "--fit",
        nargs="?",
        const="coco17",
        choices=ALL_JOINT_SETS,
        metavar="SET",
        help="also one file that fits to keypoints of this joint set (default coco17); with "
        "--format onnx or openvino, in fp32",
    )
    parser.add_argument("--licence", metavar="SPDX", help="of the weights, as an SPDX expression")


def run(options: argparse.Namespace) -> int:
    """Load, export, verify, and say how far the answers are from torch's."""
    _check(options)
    with output_folder(options.out):
        from eft_fast.deploy.formats import check_format
        from eft_fast.deploy.onnx_export import ExportConfig, require_onnx

        is_gated = options.precision in GATED
        require_onnx()
        check_format(options.format, "fp32" if is_gated else options.precision)
        given = {item.name: getattr(options, item.name) for item in fields(ExportConfig)}
        given["joint_set"] = options.joint_set or ExportConfig.joint_set
        if is_gated:
            from eft_fast.cli.export_gated import export_gated

            return export_gated(options, given)
        return _export(options, ExportConfig(**given))


def _check(options: argparse.Namespace) -> None:
    """Refuse what does not go together or is not there, before anything is loaded."""
    from eft_fast.data import list_photos

    formats = GATED.get(options.precision)
    if formats is None and options.motion is not None:
        raise UsageError("--motion goes with --precision int8 or bf16; leave it out")
    if formats is not None and not options.photos:
        raise UsageError(
            f"precision {options.precision} is measured on real photos: give --photos with people "
            "in them"
        )
    if formats is not None and options.format not in formats:
        raise UsageError(
            f"--precision {options.precision} goes with --format {' or '.join(formats)}, got "
            f"{options.format}"
        )
    if options.detector and options.format == "triton":
        raise UsageError(
            "--detector goes with every format but triton, whose folder holds served models; leave "
            "it out"
        )
    has_fit_runtime = options.format in FIT_FORMATS and options.precision == "fp32"
    if options.fit is not None and not has_fit_runtime:
        raise UsageError(
            "--fit goes with --format onnx or openvino and --precision fp32; leave it out"
        )
    if options.outputs == "params" and options.joint_set is not None:
        raise UsageError("--joint-set goes with --outputs joints or vertices; leave it out")
    check_regressor(options.regressor)
    check_body(options.body)
    if options.covariance is not None:
        check_file("--covariance", options.covariance)
    options.covariance = find_covariance(options)
    has_no_use = options.outputs == "params" and formats is None and options.covariance is None
    if has_no_use and options.body != "open":
        raise UsageError(
            "--body goes with --outputs joints or vertices, or with --covariance; leave it out"
        )
    if options.motion is not None:
        check_folder("--motion", options.motion)
    if options.photos:
        options.photos = list_photos(options.photos)


def _export(options: argparse.Namespace, config: ExportConfig) -> int:
    from eft_fast.deploy.onnx_export import export_regressor
    from eft_fast.models import load_regressor

    start = time.perf_counter()
    regressor = load_regressor(options.regressor)
    licence, sha256 = describe_source(options.regressor)
    report = export_regressor(
        regressor,
        options.out,
        body=load_export_body(options),
        config=config,
        photos=options.photos,
        covariance=options.covariance,
        licence=options.licence or licence,
        source_sha256=sha256,
    )
    summary = {
        "out": str(options.out),
        "regressor": regressor.id,
        "format": options.format,
        "precision": options.precision,
        "seconds": time.perf_counter() - start,
        **report.to_dict(),
    }
    tell_notice(options)
    emit(summary, report_lines(report, str(options.out)), as_json=options.json)
    return 0
