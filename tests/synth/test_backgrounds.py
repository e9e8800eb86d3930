from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast.synth.backgrounds import CREDITS, Backgrounds


def test_backgrounds_repeat_and_differ() -> None:
    backgrounds = Backgrounds()
    one = [backgrounds.draw(np.random.default_rng(i), 32) for i in range(30)]
    again = [backgrounds.draw(np.random.default_rng(i), 32) for i in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert len({picture.tobytes() for picture in one}) == 30
    assert all(p.shape == (32, 32, 3) and p.dtype == np.uint8 for p in one)


def test_only_credited_photographs_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "unknown_by_somebody.jpg")
    with pytest.raises(FileNotFoundError, match="none of the 18 credited photographs"):
        Backgrounds(tmp_path)
    Image.new("RGB", (40, 40), (0, 0, 255)).save(tmp_path / "china.jpg")
    backgrounds = Backgrounds(tmp_path)
    assert backgrounds.num_photos == 1
    picture = backgrounds.draw(np.random.default_rng(0), 16, photo=1.0)
    assert picture.max(axis=(0, 1)).max() > 200
    assert (np.sort(picture.reshape(-1, 3).mean(0))[:2] < 10).all()


def test_credits_name_free_licences_only() -> None:
    free = ("CC BY 4.0", "CC BY 2.0", "CC0", "CC0 1.0", "public domain")
    for name, credit in CREDITS.items():
        assert credit.rsplit(", ", 1)[1] in free, name


def test_shared_photographs_are_all_there(shared_dir: Path) -> None:
    assert Backgrounds(shared_dir / "data" / "backgrounds").num_photos == len(CREDITS)
