"""``eft-fast bench onnx``: an exported regressor in every runtime, beside torch."""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from eft_fast.cli.choices import ENGINES
from eft_fast.cli.options import add_regressor, at_least
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_regressor


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "onnx",
        run,
        summary="an exported regressor in every runtime that is installed, beside torch",
        description=(
            "Time an exported regressor in ONNX Runtime, OpenVINO and torch, in turns, and say how "
            "far their answers are apart."
        ),
        examples=["eft-fast bench onnx --batch 1 8 --threads 2"],
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="that are counted (default 5)"
    )
    parser.add_argument(
        "--threads", type=at_least(1), metavar="N", help="on the CPU; default: all of them"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of wall time: one thread on a machine that others use too",
    )
    add_regressor(parser)
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="an fp32 export of the regressor; default: made for the run",
    )
    parser.add_argument(
        "--batch",
        type=at_least(1),
        nargs="+",
        default=[1, 8],
        metavar="N",
        help="batch sizes (default 1 8)",
    )
    parser.add_argument(
        "--engines",
        choices=ENGINES,
        nargs="+",
        default=ENGINES,
        metavar="E",
        help=f"which runtimes: {', '.join(ENGINES)} (default all)",
    )


def run(options: argparse.Namespace) -> int:
    """Export unless an export is given, open every runtime, time them in turns."""
    import numpy as np

    from eft_fast.deploy.onnx_export import export_regressor, require_onnx
    from eft_fast.deploy.samples import extreme_crops, photo_crops
    from eft_fast.deploy.speed import OURS, compare_engines, open_engines
    from eft_fast.models import load_regressor
    from eft_fast.models.identity import weights_sha256
    from eft_fast.serving import load_card, usable_cpus

    names, batches, rounds = tuple(options.engines), options.batch, options.rounds
    threads = options.threads or usable_cpus()
    if OURS not in names:
        raise UsageError(f"--engines must have {OURS} among them, which the others are beside")
    if options.processor_time and threads != 1:
        raise UsageError("--processor-time needs --threads 1")
    check_regressor(options.regressor)
    require_onnx()
    clock = time.process_time if options.processor_time else time.perf_counter
    regressor = load_regressor(options.regressor)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.model or Path(scratch) / "fp32")
        if options.model is None:
            export_regressor(regressor, folder)
        else:
            _check_model(load_card(folder), folder, regressor.full_id, weights_sha256(regressor))
        photos = np.stack(list(photo_crops(regressor.input_size)))
        crops = np.concatenate([photos, np.stack(list(extreme_crops(regressor.input_size)))])
        place = Path(scratch) / "int8"
        place.mkdir()
        engines = open_engines(regressor, folder, crops, place, names=names, threads=threads)
        rows: list[dict[str, Any]] = []
        for batch in batches:
            rows += compare_engines(engines, photos, batch, rounds, clock)
            if not options.quiet:
                note(f"timed batches of {batch}")
    summary = {
        "rows": [{**row, "case": regressor.id} for row in rows],
        "left_out": engines.left_out,
        "threads": threads,
        "rounds": rounds,
        "processor": _processor(),
        "clock": "processor" if options.processor_time else "wall",
    }
    emit(summary, _lines(summary), as_json=options.json)
    return 0


def _check_model(card: Any, folder: Path, regressor: str, digest: str) -> None:
    if card.weights_sha256 != digest:
        raise UsageError(
            f"{folder} holds other weights than regressor {regressor}; give its --regressor"
        )
    if card.precision != "fp32" or "joints" in card.outputs:
        raise UsageError(f"{folder} must be an export of --outputs params --precision fp32")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.is_file() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{'engine':18s} {'batch':>5s} {'ms':>9s} {'images/s':>9s} {'x of ONNX Runtime':>18s} "
        f"{'degrees':>8s} {'betas':>8s} {'provider':>9s}"
    ]

    def line(who: str, row: dict[str, Any], name: str, ratio: float) -> str:
        far = row[f"{who}_max_difference"]
        return (
            f"{name:18s} {row['size']:5d} {row[f'{who}_ms']:9.1f} "
            f"{row[f'{who}_images_per_second']:9.2f} {ratio:18.2f} {far['rotmat']:8.2g} "
            f"{far['betas']:8.2g} {row[f'{who}_provider']:>9s}"
        )

    size = None
    for row in summary["rows"]:
        if row["size"] != size:
            size = row["size"]
            lines.append(line("ours", row, row["ours"], 1.0))
        lines.append(line("peer", row, row["peer"], 1 / row["ratio"]))
    lines.append(
        f"{summary['processor']}, {summary['threads']} threads, medians of {summary['rounds']} "
        f"rounds in turns, {summary['clock']} time"
    )
    return lines + [f"left out: {name}: {why}" for name, why in summary["left_out"].items()]
