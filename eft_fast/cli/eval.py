"""``eft-fast eval``: methods side by side on rendered people or on annotated photos."""

from __future__ import annotations

import argparse
import hashlib
import platform
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit, note, write_json

#: Of the rendered set by default; training renders with seed 0.
SEED = 20
#: People by default, and with ``--quick``.
_COUNT, _QUICK_COUNT = 100, 12
_QUICK_METHODS = ("regressor", "eft_head", "smplify_spin_gmm", "smplify_eft_baseline_gmm")
#: Of coco: the columns of the published figure, and their neighbours.
_FIGURE = (
    "regressor", "eft", "eft_head", "smplify_eft_baseline_gmm", "smplify_eft_baseline_angle_off",
    "smplify_eft_baseline_none", "smplify_spin_gmm", "smplify2016_gmm_mean", "smplifyx_gmm_mean",
)  # fmt: skip
_EXAMPLE = "example: eft-fast eval openbench --motion cmu/ --count 200 --out bench"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Measure methods. openbench: renders the open body in motion that no training saw, "
            "fits it by every method, and compares with the truth. coco: the same on your photos, "
            "by 2D error alone, with pictures. renders: a regressor alone, on rendered people. "
            "cards: prints what each published protocol means."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("protocol", choices=("openbench", "coco", "renders", "cards"))
    parser.add_argument(
        "--motion",
        metavar="DIR",
        help="folder of converted motion capture; without it poses come from the pose prior",
    )
    parser.add_argument("--backgrounds", metavar="DIR", help="folder of photographs, if any")
    parser.add_argument("--photos", metavar="DIR", help="of coco: folder of photos")
    parser.add_argument("--annotations", metavar="FILE", help="of coco: keypoints JSON")
    parser.add_argument("--no-pictures", action="store_true", help="of coco: write no overlays")
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"people (default {_COUNT}; of renders 1000)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        metavar="N",
        help=f"of the rendered set (default {SEED}); 0: the test split of a training run",
    )
    parser.add_argument(
        "--noise",
        type=float,
        nargs="+",
        default=[0.0, 0.02],
        metavar="S",
        help="of the keypoints, person sizes; a table each (default 0 0.02: exact, a detector's)",
    )
    parser.add_argument("--quick", action="store_true", help="few people, few methods")
    parser.add_argument("--table", metavar="FILE", help="where to write the page of the tables")
    parser.add_argument("--methods", nargs="+", metavar="M", help="rows of the table; default: all")
    parser.add_argument("--regressor", default="open", help="open, or a checkpoint")
    parser.add_argument("--out", default="eft_fast_bench", metavar="DIR", help="where to write")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Render or load the set, fit, print the table."""
    if options.protocol == "cards":
        from eft_fast.evaluation.protocols import PROTOCOLS

        cards = [protocol.card() for protocol in PROTOCOLS.values()]
        emit({"protocols": list(PROTOCOLS)}, ["\n\n".join(cards)], as_json=options.json)
        return 0
    if options.protocol == "renders":
        from eft_fast.cli.eval_renders import run_renders

        return run_renders(options)
    names = options.methods or (list(_QUICK_METHODS) if options.quick else None)
    if options.protocol == "coco":
        from eft_fast.cli.eval_coco import run_coco

        return run_coco(options, names or list(_FIGURE))
    if options.count is None:
        options.count = _QUICK_COUNT if options.quick else _COUNT
    return _openbench(options, names)


def _openbench(options: argparse.Namespace, names: list[str] | None) -> int:
    import torch

    from eft_fast.api import load_body, load_regressor
    from eft_fast.evaluation.bench_table import to_markdown

    chosen_methods(names, None)  # a wrong name is told before anything is loaded
    if options.count < 1:
        raise UsageError(f"eft-fast eval: --count must be at least 1, got {options.count}")
    if options.motion is None and not options.quiet:
        note("note: without --motion, poses are drawn from the pose prior, which favours its users")
    regressor, body = load_regressor(options.regressor), load_body()
    methods = chosen_methods(names, regressor)
    arrays, digest = _render(options, regressor.input_size)
    levels = [_run_level(options, methods, regressor, body, arrays, n) for n in options.noise]
    summary = {
        "people": len(arrays),
        "poses": "prior" if options.motion is None else "motion",
        "noise": levels[0]["noise"],
        "seed": options.seed,
        "set_sha256": digest,
        "regressor": regressor.id,
        "regressor_sha256": _weights_digest(regressor),
        "body": body.id,
        "threads": torch.get_num_threads(),
        "device": platform.machine(),
        "methods": levels[0]["methods"],
        "levels": levels,
    }
    write_json(str(Path(options.out) / "openbench.json"), summary)
    page = to_markdown(summary, _command(options))
    target = Path(options.table) if options.table else Path(options.out) / "openbench.md"
    target.write_text(page, encoding="utf-8")
    lines = [line for level in levels for line in [f"noise {level['noise']:g}", *_table(level)]]
    emit(summary, lines, as_json=options.json)
    return 0


def _run_level(
    options: argparse.Namespace,
    methods: Any,
    regressor: Any,
    body: Any,
    arrays: Any,
    noise: float,
) -> dict[str, Any]:
    """All methods on keypoints of one quality."""
    from eft_fast.evaluation import bench_scores, openbench

    people = openbench.make_people(
        arrays.image, arrays.landmarks_2d, arrays.rotmat, arrays.betas, noise=noise
    )
    tell = None if options.quiet else lambda name: note(f"noise {noise:g}: fitting by {name}")
    scores = list(openbench.run_bench(regressor, body, people, methods, on_method=tell))
    hidden = bench_scores.hidden_joints(people)
    return {
        "noise": noise,
        "hidden": {"people": int(hidden.any(1).sum()), "joints": int(hidden.sum())},
        "methods": bench_scores.summarise(scores),
        "equal_error": bench_scores.at_equal_error(scores),
    }


def _command(options: argparse.Namespace) -> str:
    """The command that makes this page again; folders by what they hold."""
    words = ["eft-fast eval openbench"]
    if options.motion is not None:
        words.append("--motion CMU")
    if options.backgrounds is not None:
        words.append("--backgrounds PHOTOS")
    words += [f"--count {options.count}", "--noise " + " ".join(f"{n:g}" for n in options.noise)]
    if options.seed != SEED:
        words.append(f"--seed {options.seed}")
    if options.quick:
        words.append("--quick")
    if options.methods:
        words.append("--methods " + " ".join(options.methods))
    return " ".join(words)


def _weights_digest(regressor: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(regressor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def chosen_methods(names: list[str] | None, regressor: Any) -> Any:
    """Methods by name; all that the regressor has, without names.

    Raises:
        UsageError: If there is none of a name.
    """
    from eft_fast.evaluation.openbench import default_methods

    known = {method.name: method for method in default_methods(regressor)}
    if not names:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise UsageError(f"eft-fast eval: method must be one of {', '.join(known)}, got {name}")
    return tuple(known[name] for name in names)


def _render(options: argparse.Namespace, size: int) -> tuple[Any, str]:
    """The set and the hash of its pictures and labels; shards that are there are kept."""
    from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards

    out = Path(options.out)
    kind = "prior-" if options.motion is None else ""
    # Sets of the default seed keep the name that they always had.
    kind += "" if options.seed == SEED else f"seed{options.seed}-"
    job = SynthJob(
        out=out / f"set-{kind}{options.count}-{size}",
        split="test",
        count=options.count,
        motion=None if options.motion is None else Path(options.motion),
        backgrounds=None if options.backgrounds is None else Path(options.backgrounds),
        config=SynthConfig(size=size, seed=options.seed),
    )
    arrays = load_shards(render_shards(job))
    digest = hashlib.sha256(arrays.image.tobytes() + arrays.landmarks_2d.tobytes()).hexdigest()
    return arrays, digest


def _table(level: dict[str, Any]) -> list[str]:
    lines = [
        f"{'method':34s} {'2D px':>7s} {'PA mm':>7s} {'95 %':>15s} {'MPJPE':>7s} {'hidden':>7s} "
        f"{'PVE':>7s} {'worse':>6s} {'fits/s':>8s}"
    ]
    for name, row in level["methods"].items():
        interval = f"{row['pa_mpjpe_mm_low']:.1f} to {row['pa_mpjpe_mm_high']:.1f}"
        worse = f"{row['worse_than_start']:.0%}" if "worse_than_start" in row else ""
        lines.append(
            f"{name:34s} {row['kp_error_px']:7.2f} {row['pa_mpjpe_mm']:7.1f} {interval:>15s} "
            f"{row['mpjpe_mm']:7.1f} {row['hidden_mpjpe_mm']:7.1f} {row['pve_mm']:7.1f} "
            f"{worse:>6s} {row['fits_per_second']:8.2f}"
        )
    return lines
