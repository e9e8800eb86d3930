"""``eft-fast eval truth``: methods side by side on datasets whose truth in space is known."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.eval_methods import add_methods, chosen_methods
from eft_fast.cli.options import add_body, add_regressor, at_least
from eft_fast.cli.output import UsageError, emit, note, write_json
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, check_folder, check_regressor, output_file

if TYPE_CHECKING:
    from eft_fast.evaluation.protocols import Protocol
    from eft_fast.evaluation.truth import TruthBodies
    from eft_fast.sample import Sample

_DEFAULT: Final = ("regressor", "eft", "map")
_BODIES: Final = ("neutral", "female", "male")
#: Protocols that have 3D joints; ``tests/cli/test_eval_truth.py`` holds it equal to the library's.
PROTOCOL_NAMES: Final = ("3dpw14", "h36m_p1", "h36m_p2", "3dhp17", "smpl24", "limbs12")


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "truth",
        run,
        summary="on a dataset with 3D truth, by its published protocol",
        description=(
            "Fit the people of a dataset whose points in space or SMPL bodies are known (3DPW, "
            "Human3.6M, MPI-INF-3DHP, AGORA ...) and measure by its protocol. Methods see photos, "
            "2D keypoints, boxes and cameras, and nothing of the truth. 3dpw14 needs the data "
            "set's own bodies (--truth-male, --truth-female), and for the published joints "
            "--joint-regressor. Prints what the protocol means above the numbers."
        ),
        examples=[
            "eft-fast eval truth 3DPW/sequenceFiles/test --photos 3DPW --out 3dpw.json",
            "eft-fast eval truth 3DHP/test --photos 3DHP/test --methods regressor map --count 500",
        ],
    )
    parser.add_argument("data", metavar="DATA", help="file or folder, as NAME:PATH if need be")
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder of the photos"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOL_NAMES,
        metavar="NAME",
        help=f"{', '.join(PROTOCOL_NAMES)}; default: that of the dataset",
    )
    parser.add_argument(
        "--count", type=at_least(1), metavar="N", help="people, spread evenly (default: all)"
    )
    parser.add_argument(
        "--joint-regressor",
        type=Path,
        metavar="FILE",
        help="J_regressor_h36m.npy, for the published joints of meshes",
    )
    for gender in _BODIES:
        parser.add_argument(
            f"--truth-{gender}", metavar="B", help=f"SMPL of the dataset's {gender} people"
        )
    add_methods(parser, default=" ".join(_DEFAULT))
    add_regressor(parser)
    add_body(parser, of="body of the fits: ")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("eval_truth.json"),
        metavar="FILE",
        help="numbers to write (default eval_truth.json)",
    )


def run(options: argparse.Namespace) -> int:
    """Check what can be checked, read, fit and measure."""
    check_folder("--photos", options.photos)
    check_regressor(options.regressor)
    check_body(options.body)
    for gender in _BODIES:
        given = getattr(options, f"truth_{gender}")
        if given is not None:
            check_body(given)
    names = options.methods or list(_DEFAULT)
    if any(method.method == "spin" for method in chosen_methods(names, None)):
        raise UsageError("spin_refit learns from a set; use it with openbench")
    with output_file(options.out) as out:
        return _measure(options, names, out)


def _measure(options: argparse.Namespace, names: Sequence[str], out: Path) -> int:
    from eft_fast.api import load_body, load_regressor
    from eft_fast.evaluation.protocols import protocol as find_protocol
    from eft_fast.evaluation.truth import choose_protocol, run_truth, truth_joints

    samples, left_out = _people(options)
    bodies = _bodies(options)
    protocol = (
        find_protocol(options.protocol) if options.protocol else choose_protocol(samples, bodies)
    )
    samples, unknown = _with_truth(samples, truth_joints(samples, protocol, bodies), protocol)
    if unknown:
        left_out["without the joints of the protocol"] = unknown
    if not samples:
        raise UsageError(
            f"nobody has the joints of {protocol.name}; `eft-fast eval cards` says what it needs"
        )
    regressor, body = load_regressor(options.regressor), load_body(options.body)
    scores = []
    methods = chosen_methods(names if options.methods else None, regressor)
    for method in [one for one in methods if one.name in names]:
        if not options.quiet:
            note(f"fitting {len(samples)} people by {method.name}")
        scores.append(
            run_truth(samples, method, protocol, regressor=regressor, body=body, bodies=bodies)
        )
        unfitted = [
            name for name, values in scores[-1].columns.items() if not (values == values).any()
        ]
        if unfitted:
            note(f"note: {method.name} has no finite {unfitted[0]} for anybody")
    exact = bodies.regressor is not None or protocol.joint_source != "h36m17_Jreg"
    summary: dict[str, Any] = {
        "protocol": protocol.name,
        "dataset": samples[0].dataset,
        "people": len(samples),
        "left_out": left_out,
        "published_joints": exact,
        "body": body.id,
        "regressor": regressor.full_id,
        "device": platform.machine(),
        "methods": {score.name: score.row() for score in scores},
    }
    write_json(str(out), summary)
    emit(summary, [*_head(protocol, summary, exact), *_table(summary)], as_json=options.json)
    return 0


def _people(options: argparse.Namespace) -> tuple[list[Sample], dict[str, int]]:
    """Usable people of one joint set."""
    from eft_fast.data import stream_annotations

    stream = stream_annotations(options.data, options.photos)
    samples = [sample for sample in stream if sample.problem is None and sample.image is not None]
    left_out = {**stream.left_out, **stream.problems}
    if not samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UsageError(f"{options.data} has nobody to fit ({reasons or 'it is empty'})")
    sets = sorted({sample.keypoint_set for sample in samples})
    if len(sets) > 1:
        raise UsageError(f"one joint set is expected, got {', '.join(sets)}; give one file of them")
    if options.count is not None and options.count < len(samples):
        step = len(samples) / options.count
        samples = [samples[int(number * step)] for number in range(options.count)]
    return samples, left_out


def _bodies(options: argparse.Namespace) -> TruthBodies:
    from eft_fast.api import load_body
    from eft_fast.evaluation.truth import TruthBodies, load_joint_regressor

    found = {}
    for gender in _BODIES:
        given = getattr(options, f"truth_{gender}")
        if given is not None:
            found[gender] = load_body(given)
    path = options.joint_regressor
    return TruthBodies(found, None if path is None else load_joint_regressor(path))


def _with_truth(samples: list[Sample], truth: Any, protocol: Protocol) -> tuple[list[Sample], int]:
    """People of whom every joint of the protocol is known, and how many are not."""
    import numpy as np

    needed = [*(protocol.joints or range(truth.shape[1])), protocol.root or 0]
    known = np.isfinite(truth[:, needed]).all((1, 2))
    kept = [sample for sample, is_known in zip(samples, known, strict=True) if is_known]
    return kept, int((~known).sum())


def _head(protocol: Protocol, summary: dict[str, Any], exact: bool) -> list[str]:
    lines = [protocol.card(), ""]
    if not exact:
        lines.append("joints: those of the body, not of J_regressor_h36m; give --joint-regressor")
    lines.append(f"people        {summary['people']} of {summary['dataset']}")
    lines += [f"left out      {count} {why}" for why, count in summary["left_out"].items()]
    return lines


def _table(summary: dict[str, Any]) -> list[str]:
    rows = summary["methods"]
    measures = [
        name
        for name in next(iter(rows.values()))
        if not name.endswith(("_low", "_high")) and name != "fits_per_second"
    ]
    lines = [f"{'method':<28}" + "".join(f"{name:>26}" for name in measures)]
    for method, row in rows.items():
        cells = [f"{row[m]:.1f} [{row[m + '_low']:.1f}, {row[m + '_high']:.1f}]" for m in measures]
        if any(m in ("pck150", "auc") for m in measures):
            cells = [f"{row[m]:.3f}" if m in ("pck150", "auc") else c
                     for m, c in zip(measures, cells, strict=True)]  # fmt: skip
        lines.append(f"{method:<28}" + "".join(f"{cell:>26}" for cell in cells))
    return lines
