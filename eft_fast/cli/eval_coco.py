"""``eft-fast eval coco``: methods side by side on real photos with annotated keypoints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.eval_methods import add_methods, chosen_methods
from eft_fast.cli.options import add_out_folder, add_regressor
from eft_fast.cli.output import UsageError, emit, note, write_json
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_annotations, check_folder, check_regressor, output_folder
from eft_fast.cli.people import People, people_from_annotations
from eft_fast.folders import replaced_files

if TYPE_CHECKING:
    from eft_fast.result import FitResult


#: What the command leaves; another run replaces it.
_WRITTEN: Final = ("coco.json", "panels", "side_by_side")
#: The columns of the published figure, and their neighbours.
_FIGURE: Final = (
    "regressor", "eft", "eft_head", "smplify_eft_baseline_gmm", "smplify_eft_baseline_angle_off",
    "smplify_eft_baseline_none", "smplify_spin_gmm", "smplify2016_gmm_mean", "smplifyx_gmm_mean",
)  # fmt: skip


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "coco",
        run,
        summary="on your photos with annotated keypoints, by 2D error alone",
        description=(
            "Fit everybody on photos by every method and print 2D errors, which are not errors of "
            "the body. Writes coco.json and one picture per person with all methods."
        ),
        examples=["eft-fast eval coco --photos photos/ --annotations people.json --out bench"],
    )
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder of photos"
    )
    parser.add_argument("--annotations", required=True, metavar="FILE", help="keypoints JSON")
    add_methods(parser, default="those of the published figure")
    add_regressor(parser)
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")
    add_out_folder(parser, "eft_fast_bench")


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked before anything is loaded, then fit and measure."""
    check_folder("--photos", options.photos)
    check_annotations(options.annotations)
    check_regressor(options.regressor)
    names = options.methods or list(_FIGURE)
    if any(method.method == "spin" for method in chosen_methods(names, None)):
        raise UsageError("spin_refit learns from a set; use it with openbench")
    with output_folder(options.out) as out:
        people = people_from_annotations(
            options.annotations, options.photos, min_keypoints=10, min_area=4000.0
        )
        if not len(people):
            raise UsageError(people.nobody())
        return _measure_methods(options, names, people, out)


def _measure_methods(
    options: argparse.Namespace, names: Sequence[str], people: People, out: Path
) -> int:
    from eft_fast.api import fit_batch, load_body, load_regressor

    regressor, body = load_regressor(options.regressor), load_body()
    methods = chosen_methods(names, regressor)
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
            mode=method.mode if method.method in ("eft", "none") else None,
            regressor=regressor,
            body=body,
            config=method.config,
            progress=False,
        )
        seconds = time.perf_counter() - start
        if "interrupted" in results[method.name].stop_reason:
            # A fit answers an interrupt with what is done; a table of some people would mislead.
            raise KeyboardInterrupt
        rows[method.name] = _measure(results[method.name], people, seconds)
    summary: dict[str, Any] = {
        "people": len(people),
        "annotations": str(options.annotations),
        "regressor": regressor.full_id,
        "body": body.id,
        "methods": rows,
    }
    with replaced_files(out, _WRITTEN) as new:
        write_json(str(new / "coco.json"), summary)
        if not options.no_pictures:
            _write_side_by_side(results, people, new)
    emit(summary, _table(rows), as_json=options.json)
    return 0


def _measure(result: FitResult, people: People, seconds: float) -> dict[str, float]:
    import numpy as np
    import torch

    from eft_fast.evaluation.metrics import bootstrap_interval, pck

    distance = result.keypoint_distances()
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
