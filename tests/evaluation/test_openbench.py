"""The bench: zero errors for the truth, the same people for every method, honest summaries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.evaluation import bench_scores, openbench
from eft_fast.evaluation.bench_people import make_people
from eft_fast.evaluation.bench_table import to_markdown
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.map_fit.config import MapConfig
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import estimate_covariance
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.prepare import Prepared
from eft_fast.smplify.config import SmplifyConfig

CAMERA = [0.8, 0.05, -0.1]


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


def make_set(body, size: int, count: int = 3, **options):
    """People under a weak camera, so that their truth has no error at all."""
    generator = torch.Generator().manual_seed(4)
    pose = 0.2 * torch.randn(count, 24, 3, generator=generator)
    pose[:, 0, 0] += torch.pi
    rotmat = axis_angle_to_matrix(pose)
    betas = torch.randn(count, 10, generator=generator)
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="mp33", pose2rot=False)
    coco = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="coco17", pose2rot=False)
    flat = torch.cat([coco, points[:, :10]], 1)[..., :2]
    landmarks = np.full((count, 27, 3), 2.0, np.float32)
    landmarks[..., :2] = CAMERA[0] * flat.numpy() + np.array(CAMERA[1:])
    landmarks[1, :5, 2], landmarks[2, 7:9, 2] = 0, 1
    image = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return make_people(image, landmarks, rotmat.numpy(), betas.numpy(), **options)


def truth_of(people):
    camera = torch.tensor([CAMERA]).expand(len(people), 3)
    return RegressorOutput(torch.from_numpy(people.rotmat), torch.from_numpy(people.betas), camera)


def measured(body, people):
    output = truth_of(people)
    return bench_scores.measure_body(body, output.pred_rotmat, output.pred_betas)


def test_the_truth_has_no_error(body):
    people = make_set(body, 64)
    values = bench_scores.score(body, truth_of(people), people, measured(body, people))
    for name in ("pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "kp_error_px"):
        assert values[name].shape == (3,)
        assert values[name].max() < 0.05
    assert values["rotation_deg"].max() < 0.1
    assert not values["flipped"].any()


def test_errors_are_in_their_units(body):
    people = make_set(body, 64)
    truth = measured(body, people)
    moved = truth_of(people)
    moved = moved._replace(pred_cam=moved.pred_cam + torch.tensor([0.0, 0.25, 0.0]))
    values = bench_scores.score(body, moved, people, truth)
    np.testing.assert_allclose(values["kp_error_px"], 0.25 * 32, rtol=1e-3)
    turn = axis_angle_to_matrix(torch.tensor([[0.0, torch.pi, 0.0]]))
    turned = truth_of(people)
    rotmat = turned.pred_rotmat.clone()
    rotmat[:, 0] = rotmat[:, 0] @ turn
    values = bench_scores.score(body, turned._replace(pred_rotmat=rotmat), people, truth)
    assert values["flipped"].all()
    assert values["mpjpe_mm"].min() > 100
    assert values["pa_mpjpe_mm"].max() < 0.05


def test_hidden_joints_are_scored_alone(body):
    """Both elbows of the last person are hidden; an arm that is turned moves one of them."""
    people = make_set(body, 64)
    hidden = bench_scores.hidden_joints(people)
    assert np.flatnonzero(hidden[2]).tolist() == [7, 10]  # elbows of the 14, right first
    assert not hidden[:2].any()  # the face of person 1 is outside, but is none of the 14
    truth, output = measured(body, people), truth_of(people)
    rotmat = output.pred_rotmat.clone()
    rotmat[:, 16] = rotmat[:, 16] @ axis_angle_to_matrix(torch.tensor([[0.0, 0.0, 0.5]]))[0]
    turned = output._replace(pred_rotmat=rotmat)
    values = bench_scores.quick_score(body, turned, people, truth)
    found = bench_scores.measure_body(body, rotmat, output.pred_betas)
    moved = 1000 * (found.joints - truth.joints)[:, 25:39].norm(dim=-1)
    assert moved[2, 10] > 50
    assert values["hidden_mpjpe_mm"][2] == pytest.approx(float(moved[2, 10]) / 2, rel=1e-4)
    assert values["mpjpe_mm"][2] == pytest.approx(float(moved[2].mean()), rel=1e-4)
    assert 0 < values["hidden_pa_mpjpe_mm"][2] < values["hidden_mpjpe_mm"][2]
    for name in ("hidden_mpjpe_mm", "hidden_pa_mpjpe_mm"):
        assert np.isnan(values[name][:2]).all()
    # In 2D the hidden face of person 1 counts, and it did not move; person 0 has nothing hidden.
    assert np.isnan(values["hidden_kp_error_px"][0])
    assert values["hidden_kp_error_px"][1] < 0.05
    shift = 32 * CAMERA[0] * (found.coco - truth.coco)[2, 7:9, :2].norm(dim=-1).mean()
    assert values["hidden_kp_error_px"][2] == pytest.approx(float(shift), rel=1e-4)
    table = bench_scores.summarise([bench_scores.MethodScore("arm", values, 1.0)])["arm"]
    assert table["hidden_mpjpe_mm"] == pytest.approx(values["hidden_mpjpe_mm"][2])


def test_what_is_not_given_is_hidden(body):
    exact, noisy = (make_set(body, 64, count=12, noise=noise) for noise in (0.0, 0.02))
    missing = noisy.keypoints_2d[..., 2] == 0
    assert (missing & ~exact.is_hidden).any()
    assert not exact.is_hidden[0].any()
    np.testing.assert_array_equal(noisy.is_hidden, exact.is_hidden | missing)


def test_noise_is_that_of_a_detector(body):
    exact = make_set(body, 64)
    np.testing.assert_array_equal(exact.keypoints_2d, exact.true_2d)
    assert not exact.true_2d[1, :5, 2].any()
    noisy = make_set(body, 64, noise=0.02)
    assert (noisy.keypoints_2d[..., :2] != noisy.true_2d[..., :2]).any()
    assert not noisy.keypoints_2d[1, :5, 2].any()
    np.testing.assert_array_equal(noisy.true_2d, exact.true_2d)
    again = make_set(body, 64, noise=0.02)
    np.testing.assert_array_equal(noisy.keypoints_2d, again.keypoints_2d)


def test_methods_run_on_the_same_people(body, regressor):
    people = make_set(body, regressor.input_size)
    spin = SmplifyConfig(max_steps=5)
    methods = (
        *openbench.default_methods()[:1],
        openbench.Method("smplify_spin_gmm", "smplify_spin", "gmm", spin),
    )
    named: list[str] = []
    scores = list(openbench.run_bench(regressor, body, people, methods, on_method=named.append))
    assert named == ["regressor", "smplify_spin_gmm"]
    table = bench_scores.summarise(scores)
    start, fitted = table["regressor"], table["smplify_spin_gmm"]
    assert fitted["kp_error_px"] < start["kp_error_px"]
    assert fitted["kp_error_px_low"] <= fitted["kp_error_px"] <= fitted["kp_error_px_high"]
    assert start["fits_per_second"] > 0
    assert "worse_than_start" not in start
    worse = scores[1].values["pa_mpjpe_mm"] > scores[0].values["pa_mpjpe_mm"]
    assert fitted["worse_than_start"] == pytest.approx(worse.mean())


def test_the_direct_fit_is_a_row(body, regressor, tmp_path):
    """Of a regressor whose usual error is known; nobody else has it by default."""
    states = 0.3 * torch.randn(200, 85)
    estimate_covariance(states, regressor=regressor, source="made up").save(tmp_path / "c.npz")
    config = MapConfig(covariance=tmp_path / "c.npz", distance=None, posterior=False)
    people = make_set(body, regressor.input_size)
    methods = (
        *openbench.default_methods()[:1],
        openbench.Method("map", "map", "full", config),
    )
    table = bench_scores.summarise(list(openbench.run_bench(regressor, body, people, methods)))
    assert table["map"]["kp_error_px"] < table["regressor"]["kp_error_px"]
    assert "map" not in {method.name for method in openbench.default_methods(regressor)}


def test_the_long_fit_holds_the_short_one(body, regressor):
    """EFT cut from the run that is followed is EFT, person by person, and its curve is its own."""
    people = make_set(body, regressor.input_size, count=4)
    config = EftConfig(lr=1e-3, max_steps=6, threshold=0.02)
    long = EftConfig(lr=1e-3, max_steps=9, threshold=0.0)
    methods = (
        openbench.Method("eft", "eft", "full", config),
        openbench.Method("eft_long", "eft", "full", long, is_followed=True),
    )
    together = list(openbench.run_bench(regressor, body, people, methods))
    alone = list(openbench.run_bench(regressor, body, people, methods[:1]))
    for name, column in alone[0].values.items():
        np.testing.assert_allclose(together[0].values[name], column, rtol=1e-5, err_msg=name)
    assert not np.allclose(together[0].values["pa_mpjpe_mm"], together[1].values["pa_mpjpe_mm"])
    assert 0 < together[0].seconds < together[1].seconds
    curve = together[1].curve
    assert len(curve) == 9
    np.testing.assert_allclose(curve[-1]["pa_mpjpe_mm"], together[1].values["pa_mpjpe_mm"])
    np.testing.assert_allclose(curve[-1]["kp_error_px"], together[1].values["kp_error_px"])
    assert curve[-1]["kp_error_px"].mean() < curve[0]["kp_error_px"].mean()


def columns(error: float, aligned: list[float]) -> bench_scores.Columns:
    """Hidden errors are twice the aligned one, and the first person has none."""
    hidden = 2 * np.array([np.nan, *aligned[1:]])
    return {
        "kp_error_px": np.full(3, error),
        "pa_mpjpe_mm": np.array(aligned),
        "mpjpe_mm": np.array(aligned) + 100,
        "hidden_mpjpe_mm": hidden,
        "hidden_pa_mpjpe_mm": hidden / 2,
    }


def made_up(name: str, error: float, aligned: list[float], **options) -> bench_scores.MethodScore:
    return bench_scores.MethodScore(name, columns(error, aligned), 1.0, **options)


def test_methods_are_compared_at_equal_2d_error():
    """EFT passes 6 px at its third pass; the fit that it never reaches meets its last pass."""
    curve = tuple(
        columns(error, [aligned] * 3)
        for error, aligned in ((9.0, 90.0), (7.0, 80.0), (5.0, 70.0), (4.0, 72.0))
    )
    scores = [
        made_up("regressor", 9.0, [90.0] * 3),
        made_up("eft_long", 4.0, [72.0] * 3, curve=curve),
        made_up("fit", 6.0, [75.0, 76.0, 80.0], starts_from="regressor"),
        made_up("closer", 1.0, [60.0] * 3, starts_from="regressor"),
        made_up("elsewhere", 6.0, [60.0] * 3, starts_from="mean"),
    ]
    tables = bench_scores.at_equal_error(scores)
    assert list(tables) == ["eft_long"]
    table = tables["eft_long"]
    assert list(table) == ["fit", "closer"]
    assert table["fit"]["eft_passes"] == 3
    assert table["fit"]["difference_mm"] == pytest.approx(-7.0)
    assert table["fit"]["difference_mm_high"] < 0
    assert table["fit"]["mpjpe_difference_mm"] == pytest.approx(-7.0)
    # Of the two people who have hidden joints: 140 against 152 and 160.
    assert table["fit"]["hidden_mpjpe_mm"] == pytest.approx(156.0)
    assert table["fit"]["eft_hidden_mpjpe_mm"] == pytest.approx(140.0)
    assert table["fit"]["hidden_mpjpe_difference_mm"] == pytest.approx(-16.0)
    assert table["fit"]["hidden_mpjpe_difference_mm_low"] == pytest.approx(-20.0)
    assert table["fit"]["hidden_pa_mpjpe_difference_mm"] == pytest.approx(-8.0)
    assert (table["closer"]["eft_passes"], table["closer"]["difference_mm"]) == (4, 12.0)
    assert bench_scores.at_equal_error(scores[:1] + scores[2:]) == {}


def test_the_page_says_what_the_numbers_say(body, regressor):
    people = make_set(body, regressor.input_size)
    spin = SmplifyConfig(max_steps=5)
    config = EftConfig(lr=1e-3, max_steps=4)
    methods = (
        openbench.Method("regressor", "none", "full", config),
        openbench.Method("eft", "eft", "full", config),
        openbench.Method("eft_long", "eft", "full", EftConfig(lr=1e-3, max_steps=5, threshold=0),
                         is_followed=True),
        openbench.Method("spin_refit", "spin", "full", spin),
        openbench.Method("smplify_spin_gmm", "smplify_spin", "gmm", spin),
    )  # fmt: skip
    scores = list(openbench.run_bench(regressor, body, people, methods))
    rows = bench_scores.summarise(scores)
    level = {"noise": 0.0, "methods": rows, "equal_error": bench_scores.at_equal_error(scores)}
    level["hidden"] = {"people": 2, "joints": 5}
    summary = {
        "people": 3, "poses": "motion", "seed": 1, "set_sha256": "abc", "regressor": "r",
        "regressor_sha256": "d", "body": "b", "threads": 1, "device": "cpu",
        "levels": [level, {**level, "noise": 0.02}],
    }  # fmt: skip
    page = to_markdown(summary, "the command")
    assert "the command" in page
    assert "`abc`" in page
    assert page.count("| smplify_spin_gmm |") == 4
    assert page.count("2 people have hidden joints, 2.5 each on average.") == 2
    fitted = level["equal_error"]["eft_long"]["smplify_spin_gmm"]
    both = f"{fitted['hidden_mpjpe_mm']:.1f}, {fitted['eft_hidden_mpjpe_mm']:.1f}: "
    assert f"{both}{fitted['hidden_mpjpe_difference_mm']:+.1f} [" in page
    assert "nan" not in page
    first, last = rows["regressor"]["kp_error_px"], rows["eft"]["kp_error_px"]
    assert f"from {first:.1f} to {last:.1f}" in page
    assert rows["spin_refit"]["kp_error_px"] < rows["regressor"]["kp_error_px"]


def test_every_pass_is_told(body, regressor):
    size = regressor.input_size
    job = Prepared(7, torch.zeros(3, size, size), torch.ones(49, 3))
    told: list[tuple[int, int]] = []
    config = EftConfig(max_steps=3, threshold=0.0)
    fitter = LoopFitter(
        regressor, body, config=config, on_step=lambda who, step, _: told.append((who, step))
    )
    fitter.fit_person(job)
    assert told == [(7, 0), (7, 1), (7, 2)]


def test_names_are_those_of_the_contract():
    names = [method.name for method in openbench.default_methods()]
    assert names[:3] == ["regressor", "eft", "eft_long"]
    assert {"eft_head", "smplify_spin_gmm", "smplify_eft_baseline_angle_off"} <= set(names)
    assert {"spin_refit", "smplify2016_gmm_mean", "smplifyx_none"} <= set(names)
    assert len(set(names)) == len(names)
    assert {"eft_layer4", "eft_head_long"} <= set(names)
    without = openbench.default_methods(SimpleNamespace(stages=("head", "feature")))
    assert {"map", "map_solver_only"} <= set(names)
    missing = {"eft_layer3", "eft_layer4", "eft_layer4_long"}
    assert set(names) - {method.name for method in without} == missing


def test_wrong_size_is_refused(body, regressor):
    people = make_set(body, regressor.input_size + 2)
    with pytest.raises(ValueError, match="takes crops of"):
        list(openbench.run_bench(regressor, body, people, openbench.default_methods()))
