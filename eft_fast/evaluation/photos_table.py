"""The withheld-keypoint test as a page: tables, paired differences, and where the methods stand."""

from __future__ import annotations

from typing import Any, Final

_COLUMNS: Final = (
    ("given PCK@0.1", "given_pck_0.1", 3),
    ("given PCK@0.05", "given_pck_0.05", 3),
    ("withheld PCK@0.1", "withheld_pck_0.1", 3),
    ("withheld PCK@0.05", "withheld_pck_0.05", 3),
    ("withheld error", "withheld_error", 4),
)
_HEADINGS: Final = {
    "random": "A random {withhold:.0%} withheld",
    "limb": "A whole limb withheld: elbow and wrist, or knee and ankle",
    "outliers": "A random {withhold:.0%} withheld, {outliers:.0%} of the given ones moved",
    "all": "All labels given",
}
#: Methods of which the text speaks, and those that they are held against.
_OURS: Final = ("eft", "map")
_SMPLIFY: Final = "smplify"


def to_markdown(summary: dict[str, Any], command: str) -> str:
    """Write the page of a summary of ``eft-fast eval photos``.

    Args:
        summary: What the command prints with ``--json``.
        command: The command.
    """
    lines = [
        "# Withheld keypoints on photos",
        "",
        f"{summary['people']} people of annotated photos, {summary['draws']} draws. Of each person "
        "some labelled keypoints are withheld from every method; all methods see the same crops, "
        "boxes and keypoints. Errors are those against the labels, over the root of the box's "
        "area; PCK is the share of keypoints within 0.1 or 0.05 of it. Values are means over a "
        "person's draws, then over people; in brackets the 95 % bootstrap interval over people. "
        "There is no 3D truth here: the test tells whether a method knows where the unseen part "
        "of a person appears in the picture. Methods end at unequal errors on what was given, so "
        "both are in the table.",
        "",
        "```",
        command,
        "```",
        "",
        f"Seed {summary['seed']}; regressor `{summary['regressor']}` (weights "
        f"`{summary['weights_hash']}`), body `{summary['body']}`; {summary['threads']} CPU "
        f"threads, {summary['device']}. fits/s include reading the photos and the regressor and "
        "hold for this machine and its load only.",
        "",
    ]
    for form in summary["forms"]:
        lines += [f"## {_HEADINGS[form['form']].format(**summary)}", ""]
        lines += [*_table(form["methods"]), "", *_differences(form["differences"]), ""]
        if any("withheld_error" in row for row in form["methods"].values()):
            lines += [_standing(form), ""]
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    columns = [each for each in _COLUMNS if all(each[1] in row for row in rows.values())]
    names = [heading for heading, _, _ in columns]
    lines = [f"| method | {' | '.join(names)} | fits/s |", "|---" * (2 + len(names)) + "|"]
    for name, row in rows.items():
        cells = [_with_interval(row, key, f".{digits}f") for _, key, digits in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['fits_per_second']:.2g} |")
    return lines


def _with_interval(row: dict[str, float], key: str, form: str) -> str:
    return f"{row[key]:{form}} [{row[f'{key}_low']:{form}}, {row[f'{key}_high']:{form}}]"


def _differences(differences: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    if not differences:
        return []
    lines = [
        "Of the same people, first minus second (an error below 0, a PCK above 0: the first is "
        "better):",
        "",
        "| first | second | withheld error | withheld PCK@0.1 |",
        "|---|---|---|---|",
    ]
    for first, others in differences.items():
        for second, row in others.items():
            error = _with_interval(row, "withheld_error", "+.4f")
            hits = _with_interval(row, "withheld_pck_0.1", "+.3f")
            lines.append(f"| {first} | {second} | {error} | {hits} |")
    return lines


def _standing(form: dict[str, Any]) -> str:
    """Where EFT, ``map`` and SMPLify stand, written from the numbers."""
    rows = form["methods"]
    best = min(rows, key=lambda name: rows[name]["withheld_error"])
    words = [
        f"On what was withheld, {best} has the lowest error "
        f"({rows[best]['withheld_error']:.4f}, PCK@0.1 {rows[best]['withheld_pck_0.1']:.3f})."
    ]
    direct = [name for name in rows if name.startswith(_SMPLIFY)]
    for name in rows:
        if direct and name.split("_")[0] in _OURS:
            words.append(_against(name, direct, form["differences"]))
    return " ".join(words)


def _against(
    name: str, direct: list[str], differences: dict[str, dict[str, dict[str, float]]]
) -> str:
    """What the paired differences of one method from every row of SMPLify say."""
    better, clear, lost = 0, 0, []
    for other in direct:
        middle, low, high = _error_difference(name, other, differences)
        better += middle < 0
        clear += high < 0
        if low > 0:
            lost.append(other)
    sentence = (
        f"{name} has a lower withheld error than {better} of {len(direct)} rows of SMPLify, than "
        f"{clear} of them beyond doubt (the interval excludes 0)."
    )
    return sentence + (f" It loses beyond doubt to {', '.join(lost)}." if lost else "")


def _error_difference(
    name: str, other: str, differences: dict[str, dict[str, dict[str, float]]]
) -> tuple[float, float, float]:
    """Mean and interval of ``name - other``, whichever came first."""
    keys = ("withheld_error", "withheld_error_low", "withheld_error_high")
    row = differences.get(name, {}).get(other)
    if row is not None:
        middle, low, high = (row[key] for key in keys)
        return middle, low, high
    middle, low, high = (-differences[other][name][key] for key in keys)
    return middle, high, low
