"""The target ``onnx`` of ``eft-fast bench``."""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, emit, note


def bench_onnx(options: argparse.Namespace) -> int:
    """Export unless an export is given, open every runtime, time them in turns."""
    import numpy as np

    from eft_fast.deploy.onnx_export import export_regressor, require_onnx
    from eft_fast.deploy.samples import extreme_crops, photo_crops
    from eft_fast.deploy.speed import ENGINES, OURS, compare_engines, open_engines
    from eft_fast.models import load_regressor
    from eft_fast.models.identity import weights_sha256
    from eft_fast.serving import load_card, usable_cpus

    require_onnx()
    batches, rounds = options.batch or [1, 8], options.rounds or 5
    if min(batches) < 1 or rounds < 1:
        raise UsageError("eft-fast bench: --batch and --rounds must be 1 or more")
    names = tuple(options.engines or ENGINES)
    if OURS not in names or not set(names) <= set(ENGINES):
        raise UsageError(
            f"eft-fast bench: --engines must be of {', '.join(ENGINES)}, with {OURS} among them"
        )
    threads = options.threads or usable_cpus()
    if options.processor_time and threads != 1:
        raise UsageError("eft-fast bench: --processor-time needs --threads 1")
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
            f"eft-fast bench: {folder} must hold the weights of regressor {regressor}, got "
            f"{card.regressor}; give its --regressor, or export it again with this version"
        )
    if card.precision != "fp32" or "joints" in card.outputs:
        raise UsageError(
            f"eft-fast bench: {folder} must be an export of --outputs params --precision fp32"
        )


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
