"""``eft-fast calibrate``: how wrong a regressor usually is, for ``map`` and for EFT's tie."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.options import add_body, add_regressor, add_render_sources, at_least
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import (
    check_body,
    check_file,
    check_regressor,
    check_render_sources,
    output_file,
)

if TYPE_CHECKING:
    from eft_fast.models.error_covariance import ErrorCovariance

#: Of the rendered people, known without loading torch: ``CALIBRATION_SEED`` of the training.
SEED: Final = 101
_COUNT: Final = 1000


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "calibrate",
        run,
        summary="measure how wrong a regressor usually is, for map and for EFT's tie",
        description=(
            "Measure the covariance of a regressor's errors: on people rendered with its body, in "
            "motion that no training saw, or on your own pairs of answer and truth. Without "
            "--motion, poses are drawn from the pose prior that ships with the package."
        ),
        examples=[
            "eft-fast calibrate --regressor model_checkpoint.pt --body SMPL_NEUTRAL.pkl "
            "--out model_checkpoint.error_covariance.npz",
            "eft-fast calibrate --keypoint-pairs detections.npz --out detector_noise.npz",
        ],
    )
    add_regressor(parser)
    add_body(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to write, an .npz"
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="an .npz with pred_rotmat, pred_betas, pred_cam, gt_rotmat, gt_betas and gt_cam or "
        "gt_joints_2d of people whose truth is known; nothing is rendered",
    )
    parser.add_argument(
        "--keypoint-pairs",
        type=Path,
        metavar="FILE",
        help="measure a detector instead: an .npz with keypoints and gt_keypoints [N,K,3] in "
        "pixels; writes the curve from confidence to standard deviation",
    )
    add_render_sources(parser)
    parser.add_argument(
        "--count", type=at_least(85), metavar="N", help=f"people (default {_COUNT})"
    )
    parser.add_argument(
        "--seed", type=at_least(0), metavar="N", help=f"of the people (default {SEED})"
    )
    parser.add_argument(
        "--workers", type=at_least(1), metavar="N", help="processes that render (default 1)"
    )


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked before anything is loaded, then measure."""
    _check(options)
    with output_file(options.out) as out:
        if options.keypoint_pairs is not None:
            return _measure_keypoints(options, out)
        return _measure(options, out)


def _measure(options: argparse.Namespace, out: Path) -> int:
    """Measure, write the file, print what was found."""
    from eft_fast.api import load_body, load_regressor
    from eft_fast.training.error_covariance import measure_on_pairs

    start = time.perf_counter()
    regressor, body = load_regressor(options.regressor), load_body(options.body)
    if options.pairs is not None:
        found = measure_on_pairs(regressor, body, options.pairs)
    else:
        found = _measure_on_renders(options, regressor, body)
    found.save(out)
    errors = typical_errors(found)
    summary = {
        "out": str(out),
        "people": found.people,
        "regressor": regressor.id,
        "weights_hash": found.weights_hash,
        "body": found.body_id,
        "source": found.source,
        "seconds": time.perf_counter() - start,
        **errors,
    }
    lines = [
        f"{found.people} people: {found.source}",
        f"regressor       {regressor.id}, weights {found.weights_hash}, body {found.body_id}",
        f"usual error     root {errors['root_deg']:.0f} and joints {errors['joints_deg']:.0f} "
        f"degrees, betas {errors['betas']:.2f}, scale {errors['scale']:.1%}",
        f"written         {out}",
    ]
    emit(summary, lines, as_json=options.json)
    return 0


def _check(options: argparse.Namespace) -> None:
    check_regressor(options.regressor)
    check_body(options.body)
    if options.out.suffix != ".npz":
        raise UsageError(f"--out must be an .npz, got {options.out}")
    check_render_sources(options)
    pairs = [name for name in ("pairs", "keypoint_pairs") if getattr(options, name) is not None]
    if len(pairs) > 1:
        raise UsageError("--pairs and --keypoint-pairs measure different things; give one of them")
    for name in pairs:
        option = "--" + name.replace("_", "-")
        check_file(option, getattr(options, name))
        for other in ("motion", "backgrounds", "count", "seed", "workers"):
            if getattr(options, other) is not None:
                raise UsageError(
                    f"--{other} is about rendered people; leave it out beside {option}"
                )


def _measure_keypoints(options: argparse.Namespace, out: Path) -> int:
    """The curve of a detector."""
    from eft_fast.models.keypoint_noise import measure_keypoint_pairs

    found = measure_keypoint_pairs(options.keypoint_pairs)
    found.save(out)
    summary = {
        "out": str(out),
        "keypoints": found.count,
        "source": found.source,
        "confidence": found.confidence.tolist(),
        "sigma": found.sigma.tolist(),
    }
    lines = [f"{found.count} keypoints: {found.source}"]
    for knot, sigma in zip(found.confidence, found.sigma, strict=True):
        lines.append(f"confidence {knot:.3f}  sigma {sigma:.4f} of the person's extent")
    emit(summary, [*lines, f"written          {out}"], as_json=options.json)
    return 0


def _measure_on_renders(options: argparse.Namespace, regressor: Any, body: Any) -> ErrorCovariance:
    from eft_fast.training.error_covariance import calibration_job, measure_on_renders

    with tempfile.TemporaryDirectory() as folder:
        job = calibration_job(
            regressor,
            Path(folder),
            _COUNT if options.count is None else options.count,
            body=options.body,
            motion=options.motion,
            backgrounds=options.backgrounds,
            seed=SEED if options.seed is None else options.seed,
        )
        if not options.quiet:
            note(f"rendering {job.count} people and asking {regressor.id} about each")
        return measure_on_renders(regressor, body, job, processes=options.workers or 1)


def typical_errors(found: ErrorCovariance) -> dict[str, float]:
    """Root mean square errors, readable: degrees of a rotation, betas, relative scale."""
    import numpy as np

    from eft_fast.map_rules import BETAS, POSE, SCALE

    variance = np.diagonal(found.second_moment)
    turns = variance[POSE].reshape(-1, 3).sum(1)
    return {
        "root_deg": float(np.rad2deg(np.sqrt(turns[0]))),
        "joints_deg": float(np.rad2deg(np.sqrt(turns[1:].mean()))),
        "betas": float(np.sqrt(variance[BETAS].mean())),
        "scale": float(np.sqrt(variance[SCALE])),
    }
