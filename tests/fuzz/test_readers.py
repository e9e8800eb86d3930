"""Mutated files: every reader gives what it promises or a ValueError, in bounded time and memory.

The inputs follow from a seed. EFT_FAST_FUZZ_SECONDS=60 runs each target for so long in place of a
few hundred inputs, EFT_FAST_FUZZ_SEED=7 starts elsewhere.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.body.model_io import load_arrays, to_smplx_arrays
from eft_fast.models.checkpoint import read_state
from eft_fast.models.weights import to_weights
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.serving.card import ModelCard
from tests.helpers import make_tiny_arrays

SECONDS = float(os.environ.get("EFT_FAST_FUZZ_SECONDS", 0))
SEED = int(os.environ.get("EFT_FAST_FUZZ_SEED", 0))
COUNT = 60
#: Of one input: the processor's time, and the memory of the whole run.
MOST_SECONDS, MOST_MB = 2.0, 1000.0

Mutate = Callable[[random.Random], bytes]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out or repeated, most often near the start."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 10])):
        if not changed:
            break
        reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
        place, kind = rng.randrange(reach), rng.random()
        if kind < 0.4:
            changed[place] = rng.randrange(256)
        elif kind < 0.55:
            changed[place : place + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).to_bytes(
                4, "little"
            )
        elif kind < 0.7:
            del changed[place : place + rng.choice([1, 4, 100])]
        elif kind < 0.8:
            del changed[place:]
        else:
            changed[place:place] = changed[place : place + rng.choice([1, 8, 64])]
    return bytes(changed)


def mutate_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One array of another shape, type or content, or gone."""
    changed = dict(arrays)
    key = rng.choice(sorted(changed))
    value = changed[key]
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: value[..., :-1] if value.ndim else value,
        lambda: np.concatenate([value, value]) if value.ndim else value,
        lambda: value.reshape(-1),
        lambda: value.T,
        lambda: np.zeros((0, *value.shape[1:]), value.dtype),
        lambda: np.full(value.shape, rng.choice([np.nan, np.inf, 1e300, -1.0])),
        lambda: np.full(value.shape, rng.choice([-1, 2**40])),
        lambda: np.full(value.shape, rng.choice(["<script>", "\ud800", "x" * 100])),
        lambda: np.array([b"x"] * 3),
        lambda: np.zeros(3, [("a", "f4")]),
        lambda: value.astype(rng.choice([np.complex64, np.float16, np.uint8, np.bool_])),
        lambda: changed[rng.choice(sorted(changed))],
    ]
    if rng.random() < 0.1:
        del changed[key]
        return changed
    try:
        changed[key] = rng.choice(kinds)()
    except (ValueError, TypeError, OverflowError):  # texts become no numbers
        changed[key] = np.array(3.0)
    return changed


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def either(
    arrays: dict[str, np.ndarray], write: Callable[[dict[str, np.ndarray]], bytes]
) -> Mutate:
    """Mutated arrays, or mutated bytes of whole ones."""
    whole = write(arrays)

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutate_bytes(rng, whole)
        try:
            return write(mutate_arrays(rng, arrays))
        except UnicodeEncodeError:  # numpy writes no lone surrogates
            return whole

    return make


def inputs(make: Mutate) -> Iterator[bytes]:
    rng, end = random.Random(SEED), time.process_time() + SECONDS
    count = 0
    while time.process_time() < end if SECONDS else count < COUNT:
        count += 1
        yield make(rng)


def fuzz(make: Mutate, read: Callable[[bytes], object]) -> tuple[int, int]:
    """How many inputs were taken, and how many refused."""
    taken = refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    for data in inputs(make):
        began = time.process_time()
        try:
            read(data)
            taken += 1
        except ValueError as error:
            refused += bool(str(error))  # one without a word counts as none
        took = time.process_time() - began
        assert took < MOST_SECONDS, f"{took:.1f} s for {data[:100]!r}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
    assert grown < MOST_MB, f"{grown:.0f} MB"
    return taken, refused


def with_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def write_and_read(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return write_and_read


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_body_pickles(tmp_path, protocol):
    arrays = to_smplx_arrays(make_tiny_arrays(), np.float64)
    make = either(arrays, lambda content: pickle.dumps(content, protocol))
    taken, refused = fuzz(make, with_file(tmp_path / "body.pkl", load_arrays))
    assert taken
    assert refused


def test_body_archives(tmp_path):
    make = either(to_smplx_arrays(make_tiny_arrays(), np.float64), npz)
    taken, refused = fuzz(make, with_file(tmp_path / "body.npz", load_arrays))
    assert taken
    assert refused


def test_checkpoints(tmp_path):
    """Weights of a small network, under the names that tell where it begins."""
    state = {
        "module.conv1.weight": torch.ones(4, 3, 3, 3),
        "module.bn1.running_var": torch.ones(4),
        "module.deccam.weight": torch.ones(3, 8),
    }
    files = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save({"model": state}, file, _use_new_zipfile_serialization=new)
        files.append(file.getvalue())

    def read(path: Path) -> None:
        for name, value in read_state(path).items():
            to_weights(value, name, "fuzz")

    make: Mutate = lambda rng: mutate_bytes(rng, rng.choice(files))  # noqa: E731
    taken, refused = fuzz(make, with_file(tmp_path / "weights.pt", read))
    assert taken
    assert refused


def test_results(tmp_path):
    count, eye = 2, torch.eye(3)
    params = SmplParams(
        torch.zeros(count, 10), eye.repeat(count, 1, 1, 1), eye.repeat(count, 23, 1, 1)
    )
    camera, number = torch.ones(count, 3), torch.ones(count)
    result = FitResult(
        params=params, pred_cam=camera, init=Prediction(params, camera),
        bbox_center=torch.ones(count, 2), bbox_scale=number, loss=number, init_loss=number,
        kp_error_px=number, init_kp_error_px=number, steps=number.long(),
        stop_reason=("converged",) * count, message=("",) * count,
        keypoints=torch.ones(count, 17, 3), joint_set="coco17", body_id="open-1",
        regressor_id="open-1", method="eft", mode="full",
    )  # fmt: skip
    result.save(tmp_path / "fits.npz")
    with np.load(tmp_path / "fits.npz") as file:
        arrays = dict(file)
    _, refused = fuzz(either(arrays, npz), with_file(tmp_path / "fits.npz", FitResult.load))
    assert refused


def test_cards():
    """Metadata of an exported model: any text under any name."""
    values = ModelCard(
        regressor="r", weights_sha256="", source_sha256="", body="open-1",
        outputs={"rotmat": [24, 3, 3], "betas": [10], "cam": [3]}, input_size=64,
        mean=[0.5] * 3, std=[0.5] * 3, box_margin=1.2, camera_convention="scale_shift",
        joint_set="", joint_names=[], precision="fp32", opset=18, max_batch=8, licence="",
        notice="", eft_fast_version="", exported="",
    ).to_strings()  # fmt: skip
    texts = ["", "[]", "{}", "null", "NaN", "-1", "1e999", "[" * 5000, '["a"]', "true", '{"a": 1}']

    def make(rng: random.Random) -> bytes:
        changed = {**values, rng.choice(sorted(values)): rng.choice(texts)}
        return pickle.dumps(changed)

    taken, refused = fuzz(make, lambda data: ModelCard.from_strings(pickle.loads(data), "fuzz"))
    assert taken
    assert refused
