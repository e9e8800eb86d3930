"""Draw the pictures of docs/gallery.md from the photos that ship: good fits and wrong ones.

python tools/make_gallery.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from wrong_fits import DEMO, WrongFit, make_fits

from eft_fast.cli.report_rows import judge_people
from eft_fast.files import safe_stem
from eft_fast.result import FitResult
from eft_fast.viz.fits import write_overlays

PICTURES: Final = Path(__file__).resolve().parent.parent / "docs" / "gallery"
WIDTH: Final = 760
QUALITY: Final = 80


def picture_name(one: WrongFit) -> str:
    """File of a fit: its label, of the good ones the photo."""
    label = f"good {Path(one.photo).stem}" if one.name == "good" else one.name
    return safe_stem(label.replace(" ", "_").replace("'", "")) + ".jpg"


def main() -> None:
    """Draw them all."""
    made = make_fits()
    result = FitResult.concatenate([one.result for one in made])
    names, labels = [one.photo for one in made], [one.name for one in made]
    judged = judge_people(result, [str(k) for k in range(len(made))])
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        photos = [DEMO / name for name in names]
        rows = write_overlays(result, photos, names, labels, scratch, warnings=judged.words)
        for one, row in zip(made, rows, strict=True):
            assert row.panel is not None
            with Image.open(row.panel) as panel:
                size = (WIDTH, round(panel.height * WIDTH / panel.width))
                small = panel.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            small.save(PICTURES / picture_name(one), quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
