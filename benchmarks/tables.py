"""Stored rows as Markdown: ``python -m benchmarks.tables FILE.csv... [--suite smpl|points]``.

Prints what the README and results/README.md show, so that no figure is copied by hand. Of several
rows of one case, size, peer and number of threads, the last one counts.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

Key = tuple[str, int, str, str]


def read_rows(paths: list[Path]) -> dict[Key, dict[str, str]]:
    """The rows of files by case, size, peer and threads."""
    rows: dict[Key, dict[str, str]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows[row["case"], int(row["size"]), row["peer"], row["threads"]] = row
    return rows


def _short(milliseconds: str) -> str:
    return f"{float(milliseconds):.3g}"


def print_table(rows: dict[Key, dict[str, str]]) -> None:
    """One line per case, size and threads; a column per peer: its time, and ours so many times."""
    peers = sorted({peer for _, _, peer, _ in rows}, key=lambda peer: (peer != "smplx", peer))
    print(f"| case | people | threads | eft_fast, ms | {' | '.join(f'{p}, ms' for p in peers)} |")
    print("|---" * (4 + len(peers)) + "|")
    lines = {(case, threads, size): None for case, size, _, threads in rows}
    for case, threads, size in lines:
        found = [rows.get((case, size, peer, threads)) for peer in peers]
        ours = next(row["ours_ms"] for row in found if row is not None)
        cells = [
            "" if row is None else f"{_short(row['peer_ms'])} ({float(row['ratio']):.3g}x)"
            for row in found
        ]
        print(f"| {case} | {size} | {threads} | {_short(ours)} | {' | '.join(cells)} |")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--suite", help="only the rows of one suite")
    options = parser.parse_args(arguments)
    rows = read_rows(options.files)
    if options.suite:
        rows = {key: row for key, row in rows.items() if row["suite"] == options.suite}
    if not rows:
        print("tables: no such rows", file=sys.stderr)
        return 2
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
