"""Mutated TOML of training runs and of ``fit --config``: options in range, or one sentence."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from eft_fast.cli.fitting import check_fit_options
from eft_fast.cli.main import make_program
from eft_fast.cli.output import UsageError
from eft_fast.training.config_file import is_label_run, load_label_run, load_run
from tests.fuzz.test_readers import mutate_bytes

REPO = Path(__file__).resolve().parents[2]
Rounds = Callable[[], Iterator[random.Random]]
VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1", "0.5", "5.0", "1e308", "-1e-300", "true", "false", "''",
    "'x'", "'\\x00'", '"\\u0000"', "[]", "[[]]", "[1]", "['head']", "['render', 'render']", "{}",
    "{a = 1}", "[{}]", "[[1, 2], [3, 4]]", "9" * 30, "9" * 5000, "0x7fffffffffffffff", "'cuda:99'",
    "'../../../etc/x'", "'/'", "2026-01-01", "1979-05-27T07:32:00Z", "07:32:00", "'open'", "'2d'",
    "[nan, nan]", "[4, 3]", "[-1, 1]", "[" * 3000 + "]" * 3000, '"\\ud800"', "'é'", "''''''",
)  # fmt: skip
LINES = (
    b"[recipe.head]", b"[x]", b"[[data]]", b"a.b.c = 1", b"help = true", b"config = 'x'",
    b"json = 1", b"device = 'cpu'", b"tie = 'x'", b"lr = 1e400", b"no-pictures = 'a'",
)  # fmt: skip
LABEL_RUN = """work = "run"
start = "open"
threads = 2
calibration = 100
[[data]]
path = "fits"
share = 0.6
labels = "2d"
[[data]]
path = "renders"
sigma_mm = 60.0
[options]
steps = 100
batch = 8
lr = 1e-4
[options.augment]
[options.loss]
"""
FIT = """photos = ["photos"]
annotations = "people.json"
out = "run"
method = "eft"
max-steps = 20
threshold = 0.5
workers = 2
focal = "diagonal"
no-pictures = true
joint-set = "coco17"
min_keypoints = 6
"""


def seeds() -> dict[str, bytes]:
    return {
        "train": (REPO / "docs" / "train_small.toml").read_bytes(),
        "train whole": (REPO / "docs" / "train_full.toml").read_bytes(),
        "labels": LABEL_RUN.encode(),
        "fit": FIT.encode(),
    }


def mutate_toml(rng: random.Random, data: bytes) -> bytes:
    """Values exchanged, and lines doubled, moved to other tables or gone."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place, kind = rng.randrange(len(lines)), rng.random()
        name, equals, _ = lines[place].partition(b"=")
        if kind < 0.75 and equals:
            lines[place] = name + b"= " + rng.choice(VALUES).encode()
        elif kind < 0.85:
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif kind < 0.95 and len(lines) > 1:
            del lines[place]
        else:
            lines.insert(place, rng.choice(LINES))
    return b"\n".join(lines)


def check_numbers(value: Any) -> None:
    """No number that is none has come through, at any depth."""
    if is_dataclass(value):
        for item in fields(value):
            check_numbers(getattr(value, item.name))
    elif isinstance(value, tuple):
        for item in value:
            check_numbers(item)
    elif isinstance(value, float):
        assert math.isfinite(value)


@pytest.mark.parametrize("name", list(seeds()))
def test_mutated_run_files(tmp_path: Path, rounds: Rounds, name: str) -> None:
    file, whole = tmp_path / "run.toml", seeds()[name]
    for each in ("photos", "people.json"):
        (tmp_path / each).mkdir(exist_ok=True)
    for number, rng in enumerate(rounds()):
        file.write_bytes(mutate_toml(rng, whole))
        began = time.process_time()
        try:
            if name == "fit":
                read_fit(file)
            elif is_label_run(file):
                check_numbers(load_label_run(file))
            else:
                check_numbers(load_run(file))
        except Exception as error:
            is_told = isinstance(error, ValueError) and ": " in str(error)
            is_told = is_told or (name == "fit" and isinstance(error, UsageError))
            if not is_told or isinstance(error, UnicodeError):
                raise AssertionError(f"round {number}") from error
        assert time.process_time() - began < 5, f"round {number}"


def read_fit(file: Path) -> None:
    """As ``fit`` reads it, to the point where models are loaded."""
    options = make_program().parse_args(["fit", f"--config={file}"])
    check_fit_options(options)
