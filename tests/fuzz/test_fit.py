"""Arrays of people through ``fit_batch``: numbers that no photo has, and arrays of other shapes.

A round is a batch of one good person and two mutated ones. The good one's fit keeps every bit,
nobody's numbers raise, and every fit is finite or has a reason and a sentence.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.keypoints import joint_set
from eft_fast.models.base import Regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.result import FitResult
from tests.helpers import make_covariance

Rounds = Callable[[], Iterator[random.Random]]
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
COUNT = len(joint_set("coco17"))
#: Where finite answers end, where float32 does, and what annotations say in place of a number.
NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-7, 1 + 1e-7, 2.0, 5.0, 93.0, 120.0, 90.0, 1e4, 15000.0, 1e7,
    1e20, 3.5e38, 1e300, -1e300, 5e-324, 1e-40, np.nan, np.inf, -np.inf,
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "map": {"method": "map"},
    "eft": {"method": "eft"},
    "smplify": {"method": "smplify_spin"},
    "none": {"method": "none"},
}
CAMERAS: list[Any] = [None, None, "diagonal", 150.0, 1e-3, 1e9]


@dataclass(frozen=True)
class Start:
    """What every fit of a module begins with: the options of ``fit_batch``, and good people."""

    options: dict[str, Any]
    keypoints: np.ndarray
    box: np.ndarray


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def body() -> Smpl:
    return load_body()


@pytest.fixture(scope="module")
def start(
    regressor: Regressor, body: Smpl, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Start]:
    path = tmp_path_factory.mktemp("covariance") / "tiny.npz"
    make_covariance(regressor).save(path)
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform([20, 15], [100, 75], (COUNT, 2)), np.ones((COUNT, 1))], 1)

    def make(method: str) -> Start:
        options: dict[str, Any] = {**METHODS[method], "regressor": regressor, "body": body}
        if method == "map":
            options["config"] = eft_fast.MapConfig(covariance=path, max_steps=6, robust_rounds=2)
        elif method == "eft":
            options["config"] = eft_fast.EftConfig(max_steps=2, tie=None)
        elif method == "smplify":
            options["config"] = eft_fast.SmplifyConfig(max_steps=4)
        return Start(options, points, np.array([10.0, 5.0, 100.0, 80.0]))

    return make


def mutate_numbers(rng: random.Random, values: np.ndarray) -> np.ndarray:
    """A few numbers, a column, or all of them, scaled, moved or replaced."""
    result = np.array(values, np.float64)
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind = rng.random()
        column = (..., rng.randrange(result.shape[-1]))
        if kind < 0.4:
            places = rng.sample(range(result.size), rng.choice([1, 2, result.size // 2]))
            result.flat[places] = rng.choice(NUMBERS)
        elif kind < 0.6:
            result[column] = rng.choice(NUMBERS)
        elif kind < 0.8:
            with np.errstate(all="ignore"):
                result[column] = result[column] * rng.choice(NUMBERS)
        elif kind < 0.9:
            with np.errstate(all="ignore"):
                result = result + rng.choice(NUMBERS)
        else:
            result[rng.randrange(len(result))] = rng.choice(NUMBERS)
    return result


def is_same(one: FitResult, other: FitResult, row: int) -> bool:
    """Whether row 0 of one is bitwise a row of another."""
    pairs = (
        (one.params.betas, other.params.betas),
        (one.params.body_pose, other.params.body_pose),
        (one.pred_cam, other.pred_cam),
        (one.loss, other.loss),
        (one.kp_error_px, other.kp_error_px),
    )
    return all(torch.equal(a[0].nan_to_num(), b[row].nan_to_num()) for a, b in pairs) and (
        one.message[0] == other.message[row] and one.stop_reason[0] == other.stop_reason[row]
    )


def check(result: FitResult) -> None:
    """Finite, or a reason and a sentence; never finite in one field and not in another."""
    for row, (reason, message) in enumerate(zip(result.stop_reason, result.message, strict=True)):
        numbers = (
            result.params.betas, result.params.body_pose, result.params.global_orient,
            result.pred_cam, result.bbox_center, result.bbox_scale,
        )  # fmt: skip
        finite = [bool(value[row].isfinite().all()) for value in numbers]
        if reason == "bad_image":
            assert not any(finite[:4]), row
        else:
            assert all(finite), (row, reason, finite)
        if reason in ("bad_image", "no_keypoints", "nan"):
            assert message, (row, reason)


def fit(start: Start, keypoints: Any, boxes: Any, camera: Any = None) -> FitResult:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, on a terminal, without a name
        return eft_fast.fit_batch(
            [PHOTO] * len(keypoints),
            keypoints,
            bboxes=boxes,
            intrinsics=camera,
            progress=False,
            **start.options,
        )


@pytest.mark.parametrize("method", METHODS)
def test_odd_numbers(start: Callable[[str], Start], rounds: Rounds, method: str) -> None:
    given = start(method)
    alone = {
        camera: fit(given, given.keypoints[None], [given.box], camera)
        for camera in dict.fromkeys(CAMERAS)
    }
    for number, rng in enumerate(rounds()):
        keypoints = [mutate_numbers(rng, given.keypoints) for _ in range(2)]
        boxes = [mutate_numbers(rng, given.box[None])[0] if rng.random() < 0.5 else given.box] * 2
        place, camera = rng.randrange(3), rng.choice(CAMERAS)
        keypoints.insert(place, given.keypoints)
        boxes.insert(place, given.box)
        began = time.process_time()
        try:
            result = fit(given, np.stack(keypoints), np.stack(boxes), camera)
            check(result)
            assert is_same(alone[camera], result, place)
        except Exception as error:
            raise AssertionError(f"round {number}, seed {rng.getstate()[1][0]}") from error
        assert time.process_time() - began < 20, f"round {number}"


@pytest.mark.parametrize("box", [[-np.inf, 0, np.inf, 5], [1e308, 0, 1e308, 5]])
def test_boxes_beyond_numbers_warn_in_words_alone(
    start: Callable[[str], Start], box: list[float]
) -> None:
    given = start("none")
    result = fit(given, given.keypoints[None], [box])
    check(result)
    assert "that of the keypoints was taken" in result.message[0]


#: What people hand over in place of an array of numbers.
ODD_ARRAYS: list[Any] = [
    None, [], [[]], 5, 10**400, "x", b"x", True, {}, [None], object(), [[[10**400, 1, 1]] * COUNT],
    [[["1", "2", "x"]] * COUNT], np.zeros((1, COUNT, 3), object), np.zeros((0, COUNT, 3)),
    np.zeros((1, COUNT, 3), complex), np.zeros((1, COUNT, 3), bool), np.zeros((COUNT, 3)),
    np.zeros((1, COUNT, 2)), np.zeros((1, 3, COUNT)), np.full((1, COUNT, 3), "1"),
    np.zeros((1, COUNT, 3), "datetime64[s]"), np.zeros((1, 1, COUNT, 3)), [[[1, 2, 3]], [[1]]],
    np.zeros((1, COUNT, 3), [("x", "f4")]), torch.zeros(1, COUNT, 3, dtype=torch.bfloat16),
    torch.zeros(1, COUNT, 3, requires_grad=True), torch.zeros(1, COUNT, 3, device="meta"),
    torch.zeros(1, COUNT, 3).to_sparse(), np.ma.masked_all((1, COUNT, 3)),
    memoryview(b"\\0" * 12), [["\\ud800"] * 3] * COUNT, np.float64(3), float("nan"),
]  # fmt: skip
ODD_BOXES: list[Any] = [
    *ODD_ARRAYS, [[1, 2, 3]], [[1, 2, 3, 4, 5]], [1, 2, 3, 4], [[[1, 2, 3, 4]]], [["a"] * 4],
    [[10**400] * 4], [[1, 2, 30, 40]], [[0, 0, 0, 0]], np.zeros((2, 4)), [[True] * 4],
]  # fmt: skip


def test_odd_arrays(start: Callable[[str], Start], rounds: Rounds) -> None:
    """One sentence at the door, of the call's name, or a fit."""
    given = start("none")
    for number, rng in enumerate(rounds()):
        keypoints = rng.choice([rng.choice(ODD_ARRAYS), given.keypoints[None]])
        boxes = rng.choice([rng.choice(ODD_BOXES), [given.box], None])
        camera = rng.choice([rng.choice(ODD_BOXES), *CAMERAS])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = eft_fast.fit_batch(
                    [PHOTO],
                    keypoints,
                    bboxes=boxes,
                    intrinsics=camera,
                    progress=False,
                    **given.options,
                )
                check(result)
        except Exception as error:
            if not isinstance(error, (TypeError, ValueError)) or "fit_batch: " not in str(error):
                raise AssertionError(f"round {number}") from error


def test_odd_people_of_a_stream(start: Callable[[str], Start], rounds: Rounds) -> None:
    """Nobody in a stream stops it, whatever he is."""
    given = start("none")
    good = (PHOTO, given.keypoints, given.box)
    for number, rng in enumerate(rounds()):
        strange = rng.choice(
            [
                rng.choice(ODD_ARRAYS),
                (PHOTO, rng.choice(ODD_ARRAYS)),
                (PHOTO, given.keypoints, rng.choice(ODD_BOXES)),
                (rng.choice(ODD_ARRAYS), given.keypoints),
                (PHOTO,) * rng.randrange(5),
            ]
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                people = [good, strange, good]
                fits = list(eft_fast.fit_stream(people, progress=False, **given.options))
            assert len(fits) == 3
            assert is_same(fits[0], fits[2], 0)
            check(fits[1])
        except Exception as error:
            raise AssertionError(f"round {number}: {strange!r:.200}") from error
