"""``eft-fast eval photos``: how well methods find keypoints that they were not shown."""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.options import add_body, add_photos, add_regressor, at_least, not_negative
from eft_fast.cli.output import UsageError, emit, note, write_json
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import (
    check_annotations,
    check_body,
    check_regressor,
    is_one_folder,
    output_file,
)
from eft_fast.errors import expected_name
from eft_fast.files import write_text

if TYPE_CHECKING:
    from eft_fast.evaluation.photos import Fit, PhotoMethod, PhotoPeople, Protocol

#: People with fewer labelled keypoints, or of at most this area in square pixels, are left out.
_MIN_KEYPOINTS: Final = 10
_MIN_AREA: Final = 8000.0


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "photos",
        run,
        summary="on your photos, by keypoints that were withheld",
        description=(
            "Withhold a share of everybody's labelled keypoints from every method, fit, and "
            "measure the error on the withheld ones, over the root of the box's area. Writes a "
            "page of tables with paired 95 % intervals over people, and the same as JSON."
        ),
        examples=[
            "eft-fast eval photos photos/ --annotations person_keypoints.json --out page.md",
            "eft-fast eval photos photos/ --annotations person_keypoints.json --limb "
            "--outliers 0.08 --methods none eft smplify_tied_anchor --out page.md",
        ],
    )
    add_photos(parser)
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="COCO person-keypoints JSON, or any other that `fit` reads",
    )
    parser.add_argument(
        "--withhold",
        type=not_negative,
        default=0.33,
        metavar="SHARE",
        help="of the labelled keypoints (default 0.33)",
    )
    parser.add_argument(
        "--draws",
        type=at_least(1),
        default=8,
        metavar="N",
        help="fits of everybody, each with other keypoints withheld (default 8)",
    )
    parser.add_argument(
        "--limb", action="store_true", help="a further table, a whole arm or leg withheld"
    )
    parser.add_argument(
        "--outliers",
        type=not_negative,
        metavar="SHARE",
        help="a further table, this share of the given keypoints moved anywhere in the box",
    )
    parser.add_argument(
        "--all-given", action="store_true", help="a further table, all labels given, once"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="rows: none, eft, eft_released, RECIPE_PRIOR and others; a wrong one is told with the "
        "names that there are",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the draws (default 0)"
    )
    parser.add_argument(
        "--min-keypoints",
        type=at_least(1),
        default=_MIN_KEYPOINTS,
        metavar="N",
        help=f"leave out people with fewer labelled keypoints (default {_MIN_KEYPOINTS})",
    )
    parser.add_argument(
        "--min-area",
        type=not_negative,
        default=_MIN_AREA,
        metavar="PX",
        help=f"leave out people of at most this area in square pixels (default {_MIN_AREA:g})",
    )
    add_regressor(parser)
    add_body(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("photo_truth.md"),
        metavar="FILE",
        help="page to write, an .md; a .json of the same name beside it (default photo_truth.md)",
    )


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked before anything is loaded, then fit and measure."""
    check_annotations(options.annotations)
    check_regressor(options.regressor)
    check_body(options.body)
    if options.out.suffix != ".md":
        raise UsageError(f"--out must be an .md, got {options.out}")
    methods, protocols = _methods(options.methods), _protocols(options)
    with output_file(options.out) as page:
        return _measure(options, methods, protocols, page)


def _methods(names: list[str] | None) -> list[PhotoMethod]:
    from eft_fast.evaluation.photos import default_names, photo_methods

    known = photo_methods()
    for name in names or ():
        if name not in known:
            raise UsageError(f"--methods {expected_name(name, known)}")
    return [known[name] for name in names or default_names()]


def _protocols(options: argparse.Namespace) -> list[Protocol]:
    from eft_fast.evaluation.photos import Protocol

    forms = ["random"]
    forms += ["limb"] if options.limb else []
    forms += ["outliers"] if options.outliers else []
    forms += ["all"] if options.all_given else []
    return [
        Protocol(
            form,
            withhold=options.withhold,
            draws=1 if form == "all" else options.draws,
            outliers=options.outliers or 0.0,
            seed=options.seed,
        )
        for form in forms
    ]


def _people(options: argparse.Namespace) -> PhotoPeople:
    from eft_fast.cli.people import people_from_annotations
    from eft_fast.data import list_photos
    from eft_fast.evaluation.photos import PhotoPeople

    # Of one folder the annotations name the photos; one that is missing there is told of.
    photos = options.photos[0] if is_one_folder(options.photos) else list_photos(options.photos)
    people = people_from_annotations(
        options.annotations,
        photos,
        min_keypoints=options.min_keypoints,
        min_area=options.min_area,
    )
    if not len(people):
        raise UsageError(people.nobody())
    if not options.quiet:
        for problem in people.problems:
            note(f"note: {problem}")
    ids = [f"{name}/{number}" for name, number in zip(people.names, people.ids, strict=True)]
    return PhotoPeople(people.photos, people.keypoints, people.boxes, people.joint_set, ids)


def _measure(
    options: argparse.Namespace,
    methods: list[PhotoMethod],
    protocols: list[Protocol],
    page: Path,
) -> int:
    import torch

    from eft_fast.api import fit_batch, load_body, load_regressor
    from eft_fast.evaluation.photos_table import to_markdown
    from eft_fast.models.identity import weights_hash

    people = _people(options)
    regressor, body = load_regressor(options.regressor), load_body(options.body)
    fit = partial(fit_batch, regressor=regressor, body=body)
    forms = [_run_form(fit, people, methods, each, quiet=options.quiet) for each in protocols]
    summary = {
        "people": len(people),
        "draws": options.draws,
        "withhold": options.withhold,
        "outliers": options.outliers or 0.0,
        "seed": options.seed,
        "regressor": regressor.id,
        "weights_hash": weights_hash(regressor),
        "body": body.id,
        "threads": torch.get_num_threads(),
        "device": platform.machine(),
        "methods": forms[0]["methods"],
        "forms": forms,
    }
    write_json(str(page.with_suffix(".json")), summary)
    write_text(page, to_markdown(summary, _command(options)))
    lines = [line for form in forms for line in _table(form)]
    emit(summary, lines, as_json=options.json)
    return 0


def _run_form(
    fit: Fit, people: PhotoPeople, methods: list[PhotoMethod], protocol: Protocol, *, quiet: bool
) -> dict[str, Any]:
    from eft_fast.evaluation.photos import compare, run_photos, summarise

    def tell(name: str, draw: int) -> None:
        note(f"{protocol.form}: fitting by {name}, draw {draw + 1} of {protocol.draws}")

    counted = "given_error" if protocol.form == "all" else "withheld_error"
    scores = list(run_photos(fit, people, methods, protocol, on_fit=None if quiet else tell))
    return {
        "form": protocol.form,
        "people": int((~_is_nan(scores[0].values[counted])).sum()),
        "methods": summarise(scores),
        "differences": compare(scores),
    }


def _is_nan(column: Any) -> Any:
    import numpy as np

    return np.isnan(column)


def _command(options: argparse.Namespace) -> str:
    """The command that makes this page again; folders by what they hold."""
    words = ["eft-fast eval photos PHOTOS --annotations FILE"]
    words.append(f"--withhold {options.withhold:g} --draws {options.draws}")
    words += ["--limb"] if options.limb else []
    words += [f"--outliers {options.outliers:g}"] if options.outliers else []
    words += [f"--seed {options.seed}"] if options.seed else []
    if options.min_keypoints != _MIN_KEYPOINTS:
        words.append(f"--min-keypoints {options.min_keypoints}")
    if options.min_area != _MIN_AREA:
        words.append(f"--min-area {options.min_area:g}")
    words += ["--all-given"] if options.all_given else []
    words += ["--methods " + " ".join(options.methods)] if options.methods else []
    return " ".join(words)


def _table(form: dict[str, Any]) -> list[str]:
    lines = [
        f"{form['form']}, {form['people']} people",
        f"{'method':34s} {'given@.1':>8s} {'@.05':>6s} {'withheld@.1':>11s} {'error':>7s} "
        f"{'95 %':>16s} {'fits/s':>7s}",
    ]
    # Where nothing is withheld, the error is that of what is given.
    kind = "given" if form["form"] == "all" else "withheld"
    for name, row in form["methods"].items():
        interval = f"{row[f'{kind}_error_low']:.4f} to {row[f'{kind}_error_high']:.4f}"
        hits = f"{row['withheld_pck_0.1']:.3f}" if kind == "withheld" else ""
        lines.append(
            f"{name:34s} {row['given_pck_0.1']:8.3f} {row['given_pck_0.05']:6.3f} "
            f"{hits:>11s} {row[f'{kind}_error']:7.4f} {interval:>16s} "
            f"{row['fits_per_second']:7.2f}"
        )
    return lines
