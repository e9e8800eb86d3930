"""How large reports are, and how soon they open and sort: people of tools/wrong_fits.py, repeated.

    python -m benchmarks.report_pages --out /tmp/pages --sizes 17 340 5000

prints a row for each size and leaves the reports and their screenshots (1400 and 390 pixels wide,
light and dark). Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from eft_fast.viz.report import ReportRow, ReportSummary, write_report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
_SCREENS = ((1400, 1000), (390, 844))
#: Asked of the page: the time from a change of order until the browser has painted it.
_SORT = """async key => {
  const order = document.getElementById("order"), begin = performance.now();
  order.value = key;
  order.dispatchEvent(new Event("change", { bubbles: true }));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - begin;
}"""


def make_people(scratch: Path) -> list[ReportRow]:
    """The rows of the good and the wrong fits, with their pictures as arrays."""
    import wrong_fits

    from eft_fast.cli.report_rows import judge_people
    from eft_fast.result import FitResult
    from eft_fast.viz.fits import write_overlays

    made = wrong_fits.make_fits()
    result = FitResult.concatenate([one.result for one in made])
    names, labels = [one.photo for one in made], [one.name for one in made]
    judged = judge_people(result, labels)
    photos = [wrong_fits.DEMO / name for name in names]
    rows = write_overlays(result, photos, names, labels, scratch, warnings=judged.words)
    return [
        replace(row, picture=np.asarray(Image.open(row.panel).convert("RGB")), panel=None)
        for row in judged.to_rows(rows)
        if row.panel is not None
    ]


def repeat(rows: Sequence[ReportRow], count: int) -> list[ReportRow]:
    """That many people, each with a name and an error of its own."""
    rng = np.random.default_rng(0)
    factors = rng.uniform(0.8, 1.25, count)
    return [
        replace(
            rows[k % len(rows)],
            name=f"{k // len(rows):04d}_{rows[k % len(rows)].name}",
            key=f"person {k}",
            kp_error_px=rows[k % len(rows)].kp_error_px * factors[k],
        )
        for k in range(count)
    ]


def measure(browser: Any, path: Path, count: int) -> dict[str, float]:
    """Bytes, seconds to open, and milliseconds to sort; and take the screenshots."""
    folder = path.with_name(path.stem + "_thumbnails")
    beside = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
    opened, sorts = [], []
    for _ in range(3):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        begin = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(".person[aria-current=true] img")
        opened.append(time.perf_counter() - begin)
        for key in ("error", "name", "number", "worst"):
            sorts.append(page.evaluate(_SORT, key))
        page.close()
    for width, height in _SCREENS:
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page = context.new_page()
            page.goto(path.resolve().as_uri())
            page.wait_for_timeout(300)
            page.screenshot(path=path.with_name(f"{path.stem}_{width}_{scheme}.png"))
            context.close()
    size = path.stat().st_size
    return {
        "people": count,
        "file_kb": size / 1e3,
        "beside_kb": beside / 1e3,
        "kb_a_person": (size + beside) / count / 1e3,
        "open_s": median(opened),
        "sort_ms": median(sorts),
        "slowest_sort_ms": max(sorts),
    }


def main() -> None:
    """Make, open and measure."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[17, 340, 5000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        people = make_people(Path(scratch))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for count in options.sizes:
            path = options.out / f"report_{count}.html"
            rows = repeat(people, count)
            write_report(path, rows, ReportSummary(title=f"{count:,} people"))
            found = measure(browser, path, count)
            print("  ".join(f"{name} {value:,.1f}" for name, value in found.items()), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
