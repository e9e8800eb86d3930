"""Mutated motion files: poses, or one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from eft_fast.data.formats.motion_npz import load_motion_npz, save_motion_npz
from eft_fast.data.motion.collect import collect_motion, read_motion
from tests.data.motion.rigs import (
    MIXAMO,
    random_angles,
    rest_joints,
    write_acclaim,
    write_amass,
    write_bvh,
)
from tests.fuzz.test_readers import mutate_bytes

WORDS = (
    "nan", "inf", "1e999", "-1", "0", "", "{", "}", "End Site {", "JOINT x {", "MOTION", "ROOT",
    "CHANNELS 6", "OFFSET", ":hierarchy", "begin", "end", "root", "dof rx", "axis", "99999999999",
    "\x00", "é", "²",
)  # fmt: skip


def mutate_text(rng: Random, data: bytes) -> bytes:
    """Words and lines exchanged, doubled or gone: what a mutated byte seldom does."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, kind = rng.randrange(len(lines)), rng.random()
        words = lines[place].split(b" ")
        if kind < 0.5:
            words[rng.randrange(len(words))] = rng.choice(WORDS).encode()
            lines[place] = b" ".join(words)
        elif kind < 0.65:
            lines.insert(place, rng.choice(lines))
        elif kind < 0.8 and len(lines) > 1:
            del lines[place]
        else:
            lines[place] = rng.choice(lines)
    return b"\n".join(lines)


@pytest.mark.parametrize("kind", ["bvh", "asf", "amc", "npz", "motion"])
def test_mutated_motion(tmp_path: Path, rounds: Callable[[], Iterator[Random]], kind: str) -> None:
    rest = rest_joints()
    path = tmp_path / f"07_01.{'npz' if kind == 'motion' else 'amc' if kind == 'asf' else kind}"
    changed = tmp_path / "07.asf" if kind == "asf" else path
    write_acclaim(tmp_path, rest[:22], random_angles(3, 22), np.zeros((22, 3)))
    if kind == "bvh":
        write_bvh(path, MIXAMO, rest, random_angles(3, 24))
    elif kind == "npz":
        write_amass(path, np.zeros((3, 156)), np.zeros((3, 3)))
    elif kind == "motion":
        motion = collect_motion([tmp_path / "07_01.amc"], rest).motion
        assert motion is not None
        save_motion_npz(path, motion)
    whole = changed.read_bytes()
    for number, rng in enumerate(rounds()):
        is_text = kind in ("bvh", "asf", "amc") and rng.random() < 0.6
        changed.write_bytes((mutate_text if is_text else mutate_bytes)(rng, whole))
        began = time.process_time()
        try:
            if kind == "motion":
                assert np.isfinite(load_motion_npz(path).pose).all()
            else:
                read = read_motion(path, rest)
                assert np.isfinite(read.full_pose).all()
                assert read.full_pose.shape[1:] == (24, 3)
        except Exception as error:
            if not isinstance(error, ValueError) or ": " not in str(error):
                raise AssertionError(f"round {number}") from error
        assert time.process_time() - began < 2, f"round {number}"
