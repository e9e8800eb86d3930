"""What the direct fit finds wrong with keypoints: said in the result, and handed on to EFT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fitter import ARMS_NOTE, LEGS_NOTE, MapFitter, MapStart
from eft_fast.map_fit.weighing import WeighedFitter
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import estimate_covariance
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.fitter import GIVEN, KEYPOINT_WEIGHT, Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared
from tests.map_fit.people import COCO, People

NAMES = JOINT_SETS[COCO].names
WRIST = NAMES.index("lwri")


@pytest.fixture(scope="module")
def network() -> OpenRegressor:
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def covariance(network: OpenRegressor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = 0.3 * torch.randn(400, 85, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("covariance") / "tiny.npz"
    estimate_covariance(states, regressor=network, source="made up").save(path)
    return path


@pytest.fixture
def config(covariance: Path) -> MapConfig:
    return MapConfig(covariance=covariance, distance=None)


@pytest.fixture
def made_up(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network answers as ``people.init`` does, and its errors are theirs."""

    def start(self: MapFitter, person: Prepared) -> MapStart:
        self._precision = people.precision
        row = slice(person.index, person.index + 1)
        return MapStart(RegressorOutput(*(part[row] for part in people.init)), None, {})

    monkeypatch.setattr(MapFitter, "start", start)


def exchange(keypoints: torch.Tensor, *joints: str) -> torch.Tensor:
    order = list(range(17))
    for joint in joints:
        left, right = NAMES.index(f"l{joint}"), NAMES.index(f"r{joint}")
        order[left], order[right] = right, left
    return keypoints[order]


def prepare(people: People) -> list[Prepared]:
    """Clean; a wrist far off; arms exchanged; legs exchanged; nothing labelled."""
    given = [people.keypoints[row].clone() for row in range(5)]
    given[0][3] = 0
    given[1][WRIST, :2] += 1.0
    given[2] = exchange(given[2], "elb", "wri")
    given[3] = exchange(given[3], "kne", "ank")
    blank = torch.ones(49, 3)
    return [
        Prepared(
            row,
            torch.zeros(3, 256, 256),
            blank if row < 4 else torch.zeros(49, 3),
            given=points if row < 4 else torch.zeros(17, 3),
            joint_set=COCO,
        )
        for row, points in enumerate(given)
    ]


@pytest.mark.usefixtures("made_up")
def test_the_direct_fit_says_what_is_wrong(network, body, people, config) -> None:
    config = replace(config, leg_margin=20.0)
    fitter = MapFitter(network, body, config=config)
    assert fitter.outputs[KEYPOINT_WEIGHT] == (GIVEN,)
    fits = dict(fitter.fit(prepare(people)))
    clean = fits[0].outputs[KEYPOINT_WEIGHT][0]
    assert bool(clean[3].isnan())
    assert clean[[k for k in range(17) if k != 3]].tolist() == [1.0] * 16
    assert (fits[0].notes, fits[0].hypothesis) == ((), "")
    spoilt = fits[1].outputs[KEYPOINT_WEIGHT][0]
    assert float(spoilt[WRIST]) < 0.01
    assert float(spoilt.median()) > 0.8
    assert fits[1].notes == (
        "1 of 17 keypoints lie far from any body that fits the others and count little: lwri",
    )
    assert fits[2].notes == (ARMS_NOTE,)
    assert fits[2].hypothesis.split("+")[-1] == "arms"
    assert fits[3].notes == (LEGS_NOTE,)
    assert "legs" not in fits[3].hypothesis
    assert (fits[4].notes, fits[4].hypothesis) == ((), "")
    assert KEYPOINT_WEIGHT not in fits[4].outputs


class Recorder(Fitter):
    """Keeps the people whom it gets, and answers zeros."""

    def __init__(self) -> None:
        self.seen: dict[int, Prepared] = {}

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        return {"other": (1,)}

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        for person in people:
            self.seen[person.index] = person
            nothing = RegressorOutput(*(torch.zeros(1) for _ in range(3)))
            yield (
                person.index,
                PersonFit(
                    nothing, nothing, torch.zeros(1), torch.zeros(1), 1, "max_steps",
                    {"other": torch.ones(1, 1)},
                ),
            )  # fmt: skip


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("width", [1, 3])
def test_weights_and_exchanged_arms_go_on(network, body, people, config, width) -> None:
    given, inner = prepare(people), Recorder()
    fitter = WeighedFitter(inner, network, body, config=config)
    fitter._width = width
    assert dict(fitter.outputs) == {"other": (1,), KEYPOINT_WEIGHT: (GIVEN,)}
    fits = dict(fitter.fit(given))
    assert list(fits) == list(range(5))
    # Who has no gross errors, or no keypoints, is passed on as they are.
    assert inner.seen[0] is given[0]
    assert inner.seen[4] is given[4]
    factor = inner.seen[1].weight_factor
    assert float(factor[WRIST]) < 0.01
    assert torch.equal(fits[1].outputs[KEYPOINT_WEIGHT][0], factor)
    assert "lwri" in fits[1].notes[0]
    assert torch.equal(inner.seen[1].given, given[1].given)
    assert torch.equal(inner.seen[2].given, people.keypoints[2])
    assert (fits[2].notes, fits[2].hypothesis) == ((ARMS_NOTE,), "arms")
    assert fits[0].outputs[KEYPOINT_WEIGHT][0][3].isnan()
    assert set(fits[4].outputs) == {"other"}


def test_one_answer_that_is_not_finite_changes_nobody(
    network, body, people, config, monkeypatch
) -> None:
    def start(self: MapFitter, person: Prepared) -> MapStart:
        self._precision = people.precision
        answer = RegressorOutput(*(part[person.index][None].clone() for part in people.init))
        if person.index == 0:
            answer.pred_rotmat.fill_(torch.nan)
        return MapStart(answer, None, {})

    monkeypatch.setattr(MapFitter, "start", start)
    inner = Recorder()
    fitter = WeighedFitter(inner, network, body, config=config)
    fitter._width = 3
    fits = dict(fitter.fit(prepare(people)[:2]))
    assert set(fits[0].outputs) == {"other"}
    assert float(inner.seen[1].weight_factor[WRIST]) < 0.01


@pytest.mark.parametrize(
    ("options", "is_robust"),
    [
        ({}, True),
        ({"tie": "residual"}, True),
        ({"robust": False}, False),
        ({"tie": None}, False),
        ({"strict_reference": True}, False),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_eft_with_the_tie_takes_them(network, body, covariance, options, is_robust, workers):
    config = eft_fast.EftConfig(covariance=covariance, **options)
    fitter = make_fitter(network, body, method="eft", mode="head", config=config, workers=workers)
    assert (KEYPOINT_WEIGHT in fitter.outputs) is is_robust
    plain = make_fitter(network, body, method="none", mode="full", config=config, workers=workers)
    assert KEYPOINT_WEIGHT not in plain.outputs


def test_results_of_eft_and_map_carry_the_weights(network, body, covariance, tmp_path) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (200, 160, 3), dtype=np.uint8) for _ in range(3)]
    keypoints = np.ones((3, 17, 3), np.float32)
    keypoints[..., :2] = rng.uniform(30, 130, (3, 17, 2))
    keypoints[0, 5] = 0
    photos[2] = "no_such_photo.jpg"
    results = []
    for config in (
        eft_fast.MapConfig(covariance=covariance),
        eft_fast.EftConfig(covariance=covariance, max_steps=2),
    ):
        results.append(
            eft_fast.fit_batch(
                photos, keypoints, regressor=network, body=body, config=config, progress=False
            )
        )
    for result in results:
        assert result.keypoint_weight.shape == (3, 17)
        is_known = result.keypoint_weight.isfinite()
        assert torch.equal(is_known[:2], result.keypoints[:2, :, 2] > 0)
        assert not bool(is_known[2].any())
        assert len(result.hypothesis) == 3
        assert result.hypothesis[2] == ""
        result.save(tmp_path / "fits.npz")
        again = eft_fast.FitResult.load(tmp_path / "fits.npz")
        torch.testing.assert_close(again.keypoint_weight, result.keypoint_weight, equal_nan=True)
        assert again.hypothesis == result.hypothesis
        assert again[1:].hypothesis == result.hypothesis[1:]
        assert torch.equal(again[:1].keypoint_weight[0].isnan(), ~is_known[0])
    # Random points: hypotheses and weights differ from nothing somewhere, or this tests nothing.
    assert any(results[0].hypothesis) or bool((results[0].keypoint_weight < 1).any())
    # The weights of EFT are those of map on the same start.
    torch.testing.assert_close(
        results[1].keypoint_weight, results[0].keypoint_weight, equal_nan=True
    )
    plain = eft_fast.fit_batch(
        photos, keypoints, method="none", regressor=network, body=body, progress=False
    )
    assert plain.keypoint_weight is None
    assert plain.hypothesis == ("", "", "")
