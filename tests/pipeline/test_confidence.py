"""Confidence of the untuned network: the same from every fitter, in the result and its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import eft_fast
from eft_fast import imaging
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.confidence import ConfidenceFitter
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.predict import RegressorFitter, evaluating
from eft_fast.pipeline.prepare import prepare_person
from eft_fast.result import FitResult
from eft_fast.sample import Sample
from eft_fast.smplify.config import SmplifyConfig

CONFIG = eft_fast.EftConfig(max_steps=3, threshold=0.0, lr=1e-2)


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


def make_regressor(**options) -> OpenRegressor:
    """A tiny network that is not equally sure of everything."""
    network = OpenRegressor.make_tiny()
    torch.manual_seed(1)
    if options:
        network = OpenRegressor(network.trunk, width=16, blocks=1, **options).eval()
    if network.head.certainty is not None:
        nn.init.normal_(network.head.certainty.weight, std=0.5)
    return network


@pytest.fixture(scope="module")
def regressor():
    return make_regressor()


@pytest.fixture(scope="module")
def people():
    """Three people; nothing is labelled of the second one, whom it does not concern."""
    generator = np.random.default_rng(7)
    photos = list(generator.integers(0, 256, (3, 120, 160, 3), dtype=np.uint8))
    keypoints = np.ones((3, 17, 3))
    keypoints[..., :2] = generator.uniform([30, 20], [110, 100], (3, 17, 2))
    keypoints[1, :, 2] = 0
    return photos, keypoints, np.array([[30.0, 20, 80, 80]] * 3)


def fit(people, regressor, body, **options) -> FitResult:
    photos, keypoints, boxes = people
    options = {"config": CONFIG, "progress": False, "bboxes": boxes} | options
    return eft_fast.fit_batch(photos, keypoints, regressor=regressor, body=body, **options)


@pytest.fixture(scope="module")
def expected(people, regressor):
    photos, keypoints, boxes = people
    rows = []
    samples = Sample.from_arrays(photos, keypoints, bboxes=boxes)
    for photo, sample in zip(photos, samples, strict=True):
        person = prepare_person(sample, photo, regressor)
        with torch.no_grad():
            features = regressor.features(person.crop[None])
            rows.append(regressor.joint_confidence(features))
    rows = torch.cat(rows)
    assert rows.shape == (3, 24)
    assert rows.std(0).mean() > 1e-3
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"method": "none"},
        {"method": "smplify_spin", "config": SmplifyConfig(max_steps=2, batch=2)},
        {"slots": 2},
        {"config": eft_fast.EftConfig(max_steps=2, state="bf16")},
        *({"mode": mode} for mode in ("full", "layer4", "feature", "head", "lora")),
    ],
    ids=str,
)
def test_every_fitter_says_what_the_network_said_first(options, people, regressor, body, expected):
    result = fit(people, regressor, body, **options)
    # Wrapped layers (lora) run torch's convolutions where the network runs its own.
    torch.testing.assert_close(result.joint_confidence, expected, rtol=0, atol=1e-5)


def test_fits_keep_every_bit(people, body):
    """Asking how sure the network is does not change what it answers."""
    asked, silent = make_regressor(), make_regressor()
    silent.has_confidence = False
    for mode in ("full", "feature"):
        first, second = (fit(people, network, body, mode=mode) for network in (asked, silent))
        assert torch.equal(first.params.full_pose, second.params.full_pose)
        assert torch.equal(first.loss, second.loss)
        assert second.joint_confidence is None


def test_the_loop_and_its_workers_need_no_second_pass(regressor, body):
    def says(**options) -> bool:
        options = {"method": "eft", "mode": "full", "config": CONFIG, "workers": 1} | options
        return not isinstance(make_fitter(regressor, body, **options), ConfidenceFitter)

    bf16 = eft_fast.EftConfig(state="bf16")
    assert says()
    assert says(method="none")
    assert says(workers=2)
    assert not says(config=bf16)
    assert not says(slots=2)


def test_networks_that_do_not_say_it_give_none(people, body):
    network = make_regressor(confidence=False)
    for options in ({}, {"slots": 2}, {"method": "none"}):
        assert fit(people, network, body, **options).joint_confidence is None


def test_files_and_rows_hold_it(people, regressor, body, tmp_path):
    photos, keypoints, boxes = people
    result = fit(([photos[0], "absent.jpg", photos[2]], keypoints, boxes), regressor, body)
    assert result.joint_confidence.isnan().all(1).tolist() == [False, True, False]
    torch.testing.assert_close(result[2:].joint_confidence, result.joint_confidence[2:])
    result.save(tmp_path / "fits.npz")
    loaded = FitResult.load(tmp_path / "fits.npz")
    torch.testing.assert_close(loaded.joint_confidence, result.joint_confidence, equal_nan=True)
    without = fit(people, make_regressor(confidence=False), body)
    without.save(tmp_path / "without.npz")
    assert FitResult.load(tmp_path / "without.npz").joint_confidence is None
    assert "joint_confidence" not in np.load(tmp_path / "without.npz").files


def test_a_stream_agrees_also_about_who_has_no_crop(people, regressor, body, expected):
    photos, keypoints, boxes = people
    given = [(photos[0], keypoints[0], boxes[0]), ("absent.jpg", keypoints[1], boxes[1])]
    options = {"config": CONFIG, "progress": False, "regressor": regressor, "body": body}
    first, second = eft_fast.fit_stream(given, slots=2, **options)
    torch.testing.assert_close(first.joint_confidence, expected[:1], rtol=0, atol=1e-6)
    assert second.joint_confidence.shape == (1, 24)
    assert second.joint_confidence.isnan().all()


def test_calls_are_filled_up(regressor, body, people, monkeypatch):
    """On a GPU a call has one width, whoever waits, and everybody gets their own row."""
    reader = ConfidenceFitter(RegressorFitter(regressor, body), regressor)
    reader._width = 2
    widths = []
    features = regressor.features
    monkeypatch.setattr(regressor, "features", lambda img: widths.append(len(img)) or features(img))
    pixels = np.stack([np.resize(photo, (256, 256, 3)) for photo in people[0]])
    crops = torch.from_numpy(imaging.to_input(pixels, regressor.img_mean, regressor.img_std))
    for index, crop in enumerate(crops):
        reader.add(index, crop)
    assert widths == [2]
    found = torch.cat([reader.take(index) for index in (2, 0, 1)])
    assert widths == [2, 2]
    assert reader.take(0) is None
    alone = [regressor.joint_confidence(features(crops[index][None])) for index in (2, 0, 1)]
    torch.testing.assert_close(found, torch.cat(alone).detach(), rtol=0, atol=1e-6)


def test_evaluation_mode_is_held_and_given_back():
    """Also where a part alone was training, and where what runs inside raises."""
    network = make_regressor()

    def run() -> None:
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            raise KeyError

    for train, part in ((True, True), (False, True), (False, False)):
        network.train(train)
        network.head.train(part)
        with pytest.raises(KeyError):
            run()
        assert network.training is train
