"""``eft-fast export``: a regressor for other runtimes, verified before it is left."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit, note

_EXAMPLE = "example: eft-fast export --out exported --outputs joints"
#: Precisions that have to pass the gate on photos and rendered people first.
_GATED = ("int8", "bf16")


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Write a regressor as ONNX, or for OpenVINO, TensorRT or Triton, run it in batches of "
            "1, 7 and --max-batch, and keep it only if it answers as torch does. int8 and bf16 "
            "(OpenVINO) must pass a gate on photos and rendered people as well."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        "--regressor", default="open", help="open, weights of it, or a SPIN or EFT checkpoint"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--format", default="onnx", help="onnx, openvino, tensorrt, tensorrt-rtx or triton"
    )
    parser.add_argument(
        "--outputs",
        default="params",
        help="params; joints: and joints; vertices: and the mesh, with the body in the file",
    )
    parser.add_argument(
        "--body", default="open", help="of joints and vertices: open, or a licensed SMPL file"
    )
    parser.add_argument(
        "--precision", default="fp32", help="fp32; fp16: of the trunk; int8 or bf16 behind a gate"
    )
    parser.add_argument("--opset", type=int, default=20, help="ONNX opset (default 20)")
    parser.add_argument(
        "--max-batch", type=int, default=64, metavar="N", help="largest batch (default 64)"
    )
    parser.add_argument("--joint-set", default="smpl45", help="order of the joints")
    parser.add_argument(
        "--photos",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help="photos of people: stored as samples; of int8 and bf16: the gate's",
    )
    parser.add_argument("--motion", metavar="DIR", help="of the gate: motion capture to render")
    parser.add_argument("--licence", help="of the weights, as an SPDX expression")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, export, verify, and say how far the answers are from torch's."""
    from eft_fast.deploy.onnx_export import ExportConfig, export_regressor, require_onnx
    from eft_fast.models import load_regressor

    require_onnx()
    given = {item.name: getattr(options, item.name) for item in fields(ExportConfig)}
    if options.precision in _GATED:
        from eft_fast.cli.export_gated import export_gated

        return export_gated(options, given)
    if options.motion is not None:
        raise UsageError("eft-fast export: --motion goes with --precision int8 or bf16")
    config = ExportConfig(**given)
    start = time.perf_counter()
    regressor = load_regressor(options.regressor)
    licence, sha256 = describe_source(options.regressor)
    report = export_regressor(
        regressor,
        options.out,
        body=load_export_body(options),
        config=config,
        photos=list_samples(options.photos),
        licence=options.licence or licence,
        source_sha256=sha256,
    )
    summary = {
        "out": options.out,
        "regressor": regressor.id,
        "format": options.format,
        "precision": options.precision,
        "seconds": time.perf_counter() - start,
        **report.to_dict(),
    }
    tell_notice(options)
    emit(summary, report_lines(report, options.out), as_json=options.json)
    return 0


def load_export_body(options: argparse.Namespace) -> Any:
    """The body of joints and vertices; None where none goes into the file."""
    if options.outputs == "params":
        return None
    from eft_fast.body import load_body

    return load_body(options.body)


def list_samples(photos: list[str]) -> list[Path]:
    """The photos of the command line; folders stand for what is in them."""
    if not photos:
        return []
    from eft_fast.data import list_photos

    return list_photos(photos)


def describe_source(source: str) -> tuple[str | None, str]:
    """Licence, where the file tells, and hash of the file that weights come from."""
    import hashlib

    from eft_fast.models.open_file import read_card
    from eft_fast.models.registry import OPEN_REGRESSOR_PATH

    path = OPEN_REGRESSOR_PATH if source == "open" else Path(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    is_ours = path.suffix == ".npz"
    return (str(read_card(path)["licence"]) if is_ours else None), digest


def tell_notice(options: argparse.Namespace) -> None:
    """Say who may have the file, if that is not everybody."""
    from eft_fast.serving.card import load_card

    notice = load_card(options.out).notice
    if notice and not options.quiet:
        note(f"note: {options.out} {notice}")


def report_lines(report: Any, folder: str) -> list[str]:
    """What a verification found, for people."""
    lines = [
        f"{folder}: {'verified' if report.passed else 'does NOT pass'} on {report.provider}, "
        f"batches of {', '.join(map(str, report.batches))}"
    ]
    for name, value in report.max_difference.items():
        unit = "degrees" if name == "rotmat" else ""
        lines.append(
            f"  {name:9s} max difference {value:.2g} {unit} (at most {report.tolerance[name]:g}; "
            f"torch's own rounding {report.torch_rounding[name]:.2g})"
        )
    lines += [f"  {name:9s} {found}" for name, found in report.checks.items()]
    return lines + [f"  problem: {problem}" for problem in report.problems]
