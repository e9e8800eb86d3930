"""The bench as a page: tables, where EFT wins and where it does not, and how to repeat it."""

from __future__ import annotations

from typing import Any, Final

_COLUMNS: Final = (
    ("2D px", "kp_error_px", 2),
    ("PA-MPJPE", "pa_mpjpe_mm", 1),
    ("MPJPE", "mpjpe_mm", 1),
    ("PVE", "pve_mm", 1),
    ("hidden", "hidden_mpjpe_mm", 1),
    ("hidden PA", "hidden_pa_mpjpe_mm", 1),
    ("hidden 2D px", "hidden_kp_error_px", 2),
    ("rotation °", "rotation_deg", 1),
)
#: What is compared at equal 2D error: heading, measure, and its difference.
_COMPARED: Final = (
    ("PA-MPJPE", "pa_mpjpe_mm", "difference_mm"),
    ("MPJPE", "mpjpe_mm", "mpjpe_difference_mm"),
    ("hidden", "hidden_mpjpe_mm", "hidden_mpjpe_difference_mm"),
    ("hidden PA", "hidden_pa_mpjpe_mm", "hidden_pa_mpjpe_difference_mm"),
)
_DETECTOR: Final = (
    "detector-grade keypoints (noise {noise:g} of the person's size, three times that where "
    "hidden; 5 % of the visible and half of the hidden ones missing)"
)
#: Rows of which the text speaks.
_EFT: Final = "eft"
_START: Final = "regressor"
#: Where the poses of a set come from.
_POSES: Final = {
    "motion": "of motion that no training saw",
    "prior": "in poses drawn from the shipped pose prior (methods that use this prior know where "
    "the truth comes from; motion capture is the fair test)",
}


def to_markdown(summary: dict[str, Any], command: str) -> str:
    """Write the page of a summary of ``eft-fast eval openbench``.

    Args:
        summary: What the command prints with ``--json``.
        command: The command.
    """
    poses = _POSES[summary["poses"]]
    lines = [
        "# openbench",
        "",
        f"{summary['people']} rendered people {poses}, under new shapes, "
        "cameras, backgrounds and occluders. Lengths in mm on the body that was drawn (14 joints, "
        "root: pelvis joint; vertices), 2D error in pixels of the 256 px crop against the true "
        "keypoints; in brackets the 95 % bootstrap interval of the mean. hidden: MPJPE over the "
        "limb joints that are occluded, outside of the picture or without a given keypoint; hidden "
        "PA: the same after the alignment by all joints; hidden 2D: of such keypoints, also those "
        "outside of the picture. Whoever has none does not count in these.",
        "",
        "```",
        command,
        "```",
        "",
        f"Seed {summary['seed']}; set sha256 `{summary['set_sha256']}`; regressor "
        f"`{summary['regressor']}` (weights sha256 `{summary['regressor_sha256']}`), body "
        f"`{summary['body']}`; {summary['threads']} CPU threads, {summary['device']}. fits/s "
        "include the regressor and hold for this machine and its load only.",
        "",
    ]
    for level in summary["levels"]:
        name = "exact keypoints" if level["noise"] == 0 else _DETECTOR.format(**level)
        lines += [f"## With {name}", "", _hidden_words(level["hidden"]), ""]
        lines += [*_table(level["methods"]), ""]
        for name, rows in level["equal_error"].items():
            lines += [*_equal_table(name, rows), ""]
        lines += [_paragraph(level), ""]
    return "\n".join(lines)


def _hidden_words(hidden: dict[str, int]) -> str:
    people, joints = hidden["people"], hidden["joints"]
    each = f", {joints / people:.1f} each on average" if people else ""
    return f"{people} people have hidden joints{each}."


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    names = [name for name, _, _ in _COLUMNS]
    more = ["turned", "outside limits", "prior", "betas > 3", "worse than start", "fits/s"]
    lines = [
        "| method | " + " | ".join([*names, *more]) + " |",
        "|---" * (1 + len(names) + len(more)) + "|",
    ]
    for name, row in rows.items():
        cells = [_with_interval(row, key, f".{digits}f") for _, key, digits in _COLUMNS]
        cells += [f"{row['flipped']:.0%}", f"{row['outside_limits']:.2%}"]
        cells += [f"{row['prior_nll']:.0f}", f"{row['large_betas']:.0%}"]
        cells.append(f"{row['worse_than_start']:.0%}" if "worse_than_start" in row else "")
        cells.append(f"{row['fits_per_second']:.2g}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _with_interval(row: dict[str, float], key: str, form: str) -> str:
    return f"{row[key]:{form}} [{row[f'{key}_low']:{form}}, {row[f'{key}_high']:{form}}]"


def _equal_table(name: str, rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        f"At equal 2D error, from the same start: {name} is stopped at the first pass "
        "whose mean 2D error is not above the fit's. Of each measure: the fit's, EFT's, and the "
        "difference, EFT minus the fit, of the same people.",
        "",
        "| fit | its 2D px | passes of EFT | 2D px | "
        + " | ".join(heading for heading, _, _ in _COMPARED)
        + " |",
        "|---" * (4 + len(_COMPARED)) + "|",
    ]
    for name, row in rows.items():
        cells = [
            f"{row[key]:.1f}, {row[f'eft_{key}']:.1f}: {_with_interval(row, difference, '+.1f')}"
            for _, key, difference in _COMPARED
        ]
        lines.append(
            f"| {name} | {row['kp_error_px']:.2f} | {row['eft_passes']:.0f} | "
            f"{row['eft_kp_error_px']:.2f} | {' | '.join(cells)} |"
        )
    return lines


def _paragraph(level: dict[str, Any]) -> str:
    """What the numbers say, written from them, so that it cannot go stale."""
    rows, equal = level["methods"], level["equal_error"]
    if _EFT not in rows or _START not in rows:
        return ""
    start, eft = rows[_START], rows[_EFT]
    words = [
        f"EFT takes the 2D error from {start['kp_error_px']:.1f} to {eft['kp_error_px']:.1f} px "
        f"and the aligned error from {start['pa_mpjpe_mm']:.1f} to {eft['pa_mpjpe_mm']:.1f} mm; "
        f"{eft['worse_than_start']:.0%} of the people end with a higher aligned error than they "
        "started with."
    ]
    words += [_compare_words(name, compared) for name, compared in equal.items() if compared]
    return " ".join(words)


def _compare_words(eft: str, equal: dict[str, dict[str, float]]) -> str:
    clear = [name for name, row in equal.items() if row["difference_mm_high"] < 0]
    better = [name for name, row in equal.items() if row["difference_mm"] < 0]
    lost = [name for name, row in equal.items() if row["difference_mm"] >= 0]
    short = [name for name, row in equal.items() if row["eft_kp_error_px"] > row["kp_error_px"]]
    words = [
        f"Of {len(equal)} fits of the parameters from the same start, {eft} has the lower aligned "
        f"error at equal 2D error against {len(better)}, against {len(clear)} of them beyond "
        "doubt (the interval excludes 0)."
    ]
    over = [name for name, row in equal.items() if row["hidden_mpjpe_difference_mm"] < 0]
    sure = [name for name, row in equal.items() if row["hidden_mpjpe_difference_mm_high"] < 0]
    words.append(
        f"Over hidden joints, from the pelvis, it has the lower error against {len(over)}, against "
        f"{len(sure)} of them beyond doubt."
    )
    if lost:
        words.append(f"It does not win against {', '.join(lost)}.")
    if short:
        words.append(
            f"It did not reach the 2D error of {', '.join(short)} within its passes, and is "
            "compared there at its last one."
        )
    return " ".join(words)
