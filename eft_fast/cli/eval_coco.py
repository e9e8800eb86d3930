"""``eft-fast eval coco``: methods side by side on real photos with annotated keypoints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eft_fast.cli.output import UsageError, emit, note, write_json
from eft_fast.cli.people import People, people_from_annotations

if TYPE_CHECKING:
    from eft_fast.evaluation.openbench import Method
    from eft_fast.models.base import Regressor
    from eft_fast.result import FitResult


def run_coco(options: argparse.Namespace, names: list[str]) -> int:
    """Fit everybody by every method and print 2D errors, which are not errors of the body."""
    from eft_fast.api import fit_batch, load_body, load_regressor

    if options.photos is None or options.annotations is None:
        raise UsageError("eft-fast eval: coco needs --photos and --annotations")
    people = people_from_annotations(
        options.annotations, Path(options.photos), min_keypoints=10, min_area=4000.0
    )
    if not len(people):
        raise UsageError(f"eft-fast eval: {people.nobody()}")
    regressor, body = load_regressor(options.regressor), load_body()
    methods = _methods(names, regressor)
    results: dict[str, FitResult] = {}
    rows: dict[str, dict[str, float]] = {}
    for method in methods:
        if not options.quiet:
            note(f"fitting by {method.name}")
        start = time.perf_counter()
        results[method.name] = fit_batch(
            people.photos,
            people.keypoints,
            bboxes=people.boxes,
            joint_set=people.joint_set,
            method=method.method,
            mode=method.mode if method.method in ("eft", "none") else "full",
            regressor=regressor,
            body=body,
            config=method.config,
            progress=False,
        )
        seconds = time.perf_counter() - start
        rows[method.name] = _measure(results[method.name], people, seconds)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.no_pictures:
        _write_side_by_side(results, people, out)
    summary: dict[str, Any] = {
        "people": len(people),
        "annotations": str(options.annotations),
        "regressor": regressor.full_id,
        "body": body.id,
        "methods": rows,
    }
    write_json(str(out / "coco.json"), summary)
    emit(summary, _table(rows), as_json=options.json)
    return 0


def _methods(names: list[str], regressor: Regressor) -> Sequence[Method]:
    from eft_fast.cli.eval import chosen_methods

    methods: Sequence[Method] = chosen_methods(names, regressor)
    if any(method.method == "spin" for method in methods):
        raise UsageError("eft-fast eval: spin_refit learns from a set; use it with openbench")
    return methods


def _measure(result: FitResult, people: People, seconds: float) -> dict[str, float]:
    import numpy as np
    import torch

    from eft_fast.evaluation.metrics import bootstrap_interval, pck
    from eft_fast.pipeline.assemble import keypoint_distances

    distance = keypoint_distances(result)
    # The person's own box: the root of its area is the usual size, without any margin.
    size = torch.from_numpy(np.sqrt(people.boxes[:, 2] * people.boxes[:, 3]))
    low, high = bootstrap_interval(result.kp_error_px.numpy())
    return {
        "kp_error_px": float(result.kp_error_px.nanmean()),
        "kp_error_px_low": low,
        "kp_error_px_high": high,
        "pck_0.05": pck(distance, size, fraction=0.05),
        "pck_0.1": pck(distance, size),
        "fits_per_second": len(result) / seconds,
    }


def _write_side_by_side(results: dict[str, FitResult], people: People, out: Path) -> None:
    """One picture per person: the panels of all methods, one below the other."""
    from PIL import Image

    from eft_fast.viz.fits import write_overlays

    panels: dict[int, list[Path]] = {}
    for name, result in results.items():
        titles = [f"{name}  {photo}" for photo in people.names]
        rows = write_overlays(result, people.photos, titles, people.ids, out / "panels" / name)
        for number, row in enumerate(rows):
            if row.panel is not None:
                panels.setdefault(number, []).append(Path(row.panel))
    folder = out / "side_by_side"
    folder.mkdir(exist_ok=True)
    for number, paths in panels.items():
        pictures = [Image.open(path) for path in paths]
        width = max(picture.width for picture in pictures)
        sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
        top = 0
        for picture in pictures:
            sheet.paste(picture, (0, top))
            top += picture.height
        sheet.save(folder / f"{number + 1:05d}.png")


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'method':34s} {'2D px':>7s} {'95 %':>15s} {'PCK.05':>7s} {'PCK.1':>7s} fits/s"]
    for name, row in rows.items():
        interval = f"{row['kp_error_px_low']:.1f} to {row['kp_error_px_high']:.1f}"
        lines.append(
            f"{name:34s} {row['kp_error_px']:7.2f} {interval:>15s} {row['pck_0.05']:7.3f} "
            f"{row['pck_0.1']:7.3f} {row['fits_per_second']:6.2f}"
        )
    return lines
