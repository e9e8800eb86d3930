"""Truth of datasets against fits: orders, bodies, protocols, and nothing of it reaches a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.evaluation import truth as module
from eft_fast.evaluation.protocols import PROTOCOLS
from eft_fast.evaluation.truth import (
    TruthBodies,
    choose_protocol,
    load_joint_regressor,
    mesh_joints,
    run_truth,
    score_truth,
    truth_joints,
)
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import JOINT_SETS
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.sample import Sample

COUNT = 4


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def posed(body):
    """Poses, shapes and a FitResult that holds just them."""
    generator = torch.Generator().manual_seed(0)
    pose = 0.3 * torch.randn(COUNT, 24, 3, generator=generator)
    betas = torch.randn(COUNT, 10, generator=generator)
    params = SmplParams.from_rotmat(axis_angle_to_matrix(pose), betas)
    cam, nan = torch.ones(COUNT, 3), torch.full((COUNT,), float("nan"))
    result = FitResult(
        params=params, pred_cam=cam, init=Prediction(params, cam),
        bbox_center=torch.zeros(COUNT, 2), bbox_scale=torch.ones(COUNT), loss=nan, init_loss=nan,
        kp_error_px=nan, init_kp_error_px=nan, steps=torch.zeros(COUNT).long(),
        stop_reason=("converged",) * COUNT, message=("",) * COUNT,
        keypoints=torch.zeros(COUNT, 17, 3), joint_set="coco17", body_id=body.id,
        regressor_id="x", method="none", mode="full", _body=body,
    )  # fmt: skip
    return pose.double().numpy(), betas.double().numpy(), result


def make_sample(row, order, points, **more) -> Sample:
    flat = np.ones((len(JOINT_SETS[order]), 3))
    space = None if points is None else np.column_stack([points, np.ones(len(points))])
    values = {"id": str(row), "dataset": "x", "image": "x.jpg", "keypoints_2d_px": flat,
              "keypoint_set": order, "keypoints_3d": space}  # fmt: skip
    return Sample(**{**values, **more})


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("smpl24", "smpl24"), ("smpl24", "smpl45"), ("h36m_p1", "h36m17_Jreg"),
        ("h36m_p1", "h36m17_rightfirst"), ("3dhp17", "mpiinf17test"), ("limbs12", "panoptic19"),
    ],
)  # fmt: skip
def test_the_truth_itself_has_no_error(posed, name, order):
    """Joints of the very bodies, in the orders in which datasets have them, are 0 mm away.

    The left and the right leg of Human3.6M's two orders are told apart by name: exchanged they
    would be far away.
    """
    result, protocol = posed[2], PROTOCOLS[name]
    points = result.joints3d(order).double().numpy() + [0.3, 0.2, 4.0]
    samples = [make_sample(row, order, points[row]) for row in range(COUNT)]
    if order == "panoptic19":
        # Its pelvis and hips are other points of the body than J24's.
        j24 = result.joints3d("j24").double().numpy() + [0.3, 0.2, 4.0]
        for place, joint in enumerate(JOINT_SETS[order].to_j24):
            if joint >= 0:
                points[:, place] = j24[:, joint]
        samples = [make_sample(row, order, points[row]) for row in range(COUNT)]
    truth = truth_joints(samples, protocol, None)
    columns = score_truth(result, truth, protocol, None)
    assert columns["pa_mpjpe_mm"].max() < 1e-2
    assert columns["mpjpe_mm"].max() < 1e-2


def test_errors_are_those_of_moved_joints(posed):
    """One of 14 joints 70 mm off is 5 mm on average; other joints are not looked at."""
    result, protocol = posed[2], PROTOCOLS["h36m_p1"]
    points = result.joints3d("h36m17_Jreg").double().numpy().copy()
    points[0, 3, 1] += 0.07  # an ankle
    points[1, 9] += 0.5  # the jaw is none of the 14
    samples = [make_sample(row, "h36m17_Jreg", points[row]) for row in range(COUNT)]
    samples[2] = replace(samples[2], keypoints_3d=np.zeros((17, 4)))
    columns = score_truth(result, truth_joints(samples, protocol, None), protocol, None)
    assert columns["mpjpe_mm"][0] == pytest.approx(5.0, abs=1e-3)
    assert columns["mpjpe_mm"][1] < 1e-2
    assert np.isnan(columns["mpjpe_mm"][2])
    assert columns["mpjpe_mm"][3] < 1e-2


def test_3dpw_is_measured_through_the_bodies_of_its_people(posed, body):
    """Female people with a regressor of the user's; who has no body has no number."""
    pose, betas, result = posed
    genders = ("female", "female", "male", "female")
    samples = [
        make_sample(row, "op18", None, full_pose=pose[row], betas=betas[row], gender=genders[row])
        for row in range(COUNT)
    ]
    weights = torch.rand(17, len(body.v_template), generator=torch.Generator().manual_seed(1))
    bodies = TruthBodies({"female": body}, weights / weights.sum(1, keepdim=True))
    protocol = choose_protocol(samples, bodies)
    assert protocol.name == "3dpw14"
    truth = truth_joints(samples, protocol, bodies)
    assert np.isnan(truth[2]).all()
    columns = score_truth(result, truth, protocol, bodies)
    assert np.isnan(columns["mpjpe_mm"]).tolist() == [False, False, True, False]
    assert np.nanmax(columns["mpjpe_mm"]) < 1e-2
    rotmat = axis_angle_to_matrix(torch.from_numpy(pose))
    plain = mesh_joints(body, rotmat, torch.from_numpy(betas), bodies.regressor)
    np.testing.assert_allclose(truth[0], plain[0].numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="the regressor is for 5 vertices"):
        mesh_joints(body, rotmat, torch.from_numpy(betas), torch.ones(17, 5))


def test_3dhp_is_measured_on_its_universal_skeleton(posed):
    points = posed[2].joints3d("mpiinf17test").double().numpy()
    sample = make_sample(0, "mpiinf17test", points[0], extra={"univ_annot3_m": points[0] * 0.8})
    truth = truth_joints([sample], PROTOCOLS["3dhp17"], None)
    assert np.array_equal(truth[0], points[0] * 0.8)


def test_the_protocol_is_that_of_the_dataset(body):
    def points(order):
        return np.ones((len(JOINT_SETS[order]), 3))

    def chosen(order, **more):
        sample = make_sample(0, order, points(order), **more)
        return choose_protocol([sample], TruthBodies({})).name

    assert chosen("h36m17_Jreg", dataset="human36m") == "h36m_p1"
    assert chosen("mpiinf17test") == "3dhp17"
    assert chosen("mpiinf28") == chosen("panoptic19") == chosen("j24") == "limbs12"
    assert chosen("smpl45") == "smpl24"
    with pytest.raises(ValueError, match="nobody has points in space"):
        choose_protocol([make_sample(0, "coco17", None)], None)
    pose = make_sample(0, "smpl24", None, full_pose=np.zeros((24, 3)), betas=np.zeros(10))
    with pytest.raises(ValueError, match="give the bodies"):
        choose_protocol([pose], None)


def test_no_method_sees_the_truth(posed, body, monkeypatch):
    """What reaches the run has no points in space, no pose and no gender."""
    pose, betas, result = posed
    points = result.joints3d("smpl24").double().numpy()
    samples = [
        make_sample(row, "coco17", points[row], keypoint_set_3d="smpl24", full_pose=pose[row],
                    betas=betas[row], gender="male", cam_transl=np.ones(3))
        for row in range(COUNT)
    ]  # fmt: skip
    seen = []

    class Stub:
        def fit_all(self, people, *, progress, joint_set):
            seen.extend(people)
            assert joint_set == "coco17"
            return result

    monkeypatch.setattr(module, "make_run", lambda *_, **__: Stub())

    class Method:
        name, method, mode, config = "map", "map", "full", None

    score = run_truth(samples, Method(), PROTOCOLS["smpl24"], regressor=object(), body=body)
    assert score.row()["mpjpe_mm"] < 1e-2
    for sample in seen:
        assert (sample.keypoints_3d, sample.full_pose, sample.betas) == (None, None, None)
        assert (sample.gender, sample.cam_transl) == (None, None)
        assert sample.keypoint_set == "coco17"


def test_regressor_files(tmp_path):
    np.save(tmp_path / "j.npy", np.ones((17, 6890)))
    assert load_joint_regressor(tmp_path / "j.npy").shape == (17, 6890)
    np.save(tmp_path / "j.npy", np.ones((14, 6890)))
    with pytest.raises(ValueError, match=r"must be \[17, V\] floats, got \[14, 6890\]"):
        load_joint_regressor(tmp_path / "j.npy")
    with pytest.raises(FileNotFoundError):
        load_joint_regressor(tmp_path / "absent.npy")
