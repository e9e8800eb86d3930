"""Against smplx, with the shipped body: the same numbers, both ways, in both precisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eft_fast.body import Smpl, load_body
from eft_fast.body.model_io import to_smplx_arrays
from tests.helpers import make_pose_inputs, skip_unless_built

smplx = pytest.importorskip("smplx")
NAMES = ("betas", "body_pose", "global_orient", "transl")
PEOPLE = 4


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("smplx") / "OPEN_NEUTRAL.pkl"
    load_body().export_smplx(path)
    return path


@pytest.fixture(scope="module")
def peer(exported) -> torch.nn.Module:
    return smplx.SMPL(str(exported), batch_size=PEOPLE)


@pytest.fixture(scope="module", params=["native", "torch"])
def body(request) -> Smpl:
    skip_unless_built(request.param)
    body = load_body()
    body.backend = request.param
    return body


def make_double(body: Smpl) -> torch.nn.Module:
    import numpy as np

    struct = smplx.utils.Struct(**to_smplx_arrays(body.arrays, np.float64))
    return smplx.SMPL("", data_struct=struct, batch_size=PEOPLE, dtype=torch.float64)


def test_exported_body_agrees_in_single_precision(body, peer):
    inputs = [value.float() for value in make_pose_inputs(PEOPLE, spread=0.6)]
    theirs = peer(**dict(zip(NAMES, inputs, strict=True)))
    ours = body(*inputs)
    assert float((ours.vertices - theirs.vertices).abs().max()) < 2e-5
    assert float((ours.joints - theirs.joints).abs().max()) < 2e-5
    assert ours.joints.shape == theirs.joints.shape == (PEOPLE, 45, 3)
    without = body(*inputs, return_verts=False)
    assert float((without.joints - theirs.joints).abs().max()) < 2e-5


def test_rotation_matrices_agree(body, peer):
    betas, body_pose, global_orient, transl = (v.float() for v in make_pose_inputs(PEOPLE))
    from eft_fast.geometry import axis_angle_to_matrix

    matrices = {
        "betas": betas,
        "body_pose": axis_angle_to_matrix(body_pose.reshape(PEOPLE, 23, 3)),
        "global_orient": axis_angle_to_matrix(global_orient.reshape(PEOPLE, 1, 3)),
        "transl": transl,
    }
    theirs = peer(**matrices, pose2rot=False)
    ours = body(**matrices, pose2rot=False)
    assert float((ours.vertices - theirs.vertices).abs().max()) < 2e-5


def gradients(model, inputs, weights) -> list[torch.Tensor]:
    leaves = [value.clone().requires_grad_() for value in inputs]
    output = model(**dict(zip(NAMES, leaves, strict=True)))
    loss = (output.vertices * weights[0]).sum() + (output.joints * weights[1]).sum()
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_agree(body, peer, dtype):
    """Relative to the largest entry: 1e-5 in float32, where both round, and 1e-7 in float64.

    The float64 floor is smplx's own: it adds 1e-8 to every rotation vector before its norm.
    """
    ours, theirs, limit = body, peer, 1e-5
    if dtype == torch.float64:
        ours, theirs, limit = load_body(dtype=dtype), make_double(body), 1e-7
        ours.backend = body.backend
    inputs = [value.to(dtype) for value in make_pose_inputs(PEOPLE)]
    weights = torch.randn(PEOPLE, 6890, 3, dtype=dtype), torch.randn(PEOPLE, 45, 3, dtype=dtype)
    pairs = zip(gradients(ours, inputs, weights), gradients(theirs, inputs, weights), strict=True)
    for name, (mine, their) in zip(NAMES, pairs, strict=True):
        relative = float((mine - their).abs().max() / their.abs().max())
        assert relative < limit, f"{name}: {relative:.2e}"


def test_gradients_at_zero_pose_are_finite(body):
    """smplx turns by angle |r + 1e-8| there; ours is the exact generator."""
    pose = torch.zeros(1, 69, requires_grad=True)
    body(body_pose=pose).vertices[:, ::50].square().sum().backward()
    assert pose.grad is not None
    assert pose.grad.isfinite().all()
    assert pose.grad.abs().max() > 0


def test_smplx_object_round_trip(body, peer):
    """smplx -> ours -> smplx keeps the id and the numbers."""
    again = load_body(peer)
    assert again.id == "open-1"
    inputs = [value.float() for value in make_pose_inputs(PEOPLE)]
    torch.testing.assert_close(again(*inputs).vertices, body(*inputs).vertices, rtol=0, atol=2e-6)


def test_exported_file_round_trip(exported, body):
    again = load_body(exported)
    assert again.id == "open-1"
    for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "lbs_weights"):
        torch.testing.assert_close(
            getattr(again, name), getattr(body, name), rtol=0, atol=1e-7, msg=name
        )


def test_other_models_of_smplx_are_refused(peer):
    """An object with other joints than SMPL's 24 is named, not half read."""
    import copy

    other = copy.deepcopy(peer)
    other.lbs_weights = torch.zeros(6890, 55)
    with pytest.raises(ValueError, match=r"expected SMPL's 24 joints, got SMPL-X .*55 joints"):
        load_body(other)


def test_export_names_a_missing_folder(body, tmp_path):
    with pytest.raises(FileNotFoundError, match="export_smplx: no folder"):
        body.export_smplx(tmp_path / "no" / "body.pkl")


def test_load_body_refuses_half_precision():
    with pytest.raises(
        TypeError, match=r"dtype must be torch.float32 or torch.float64, got torch.float16"
    ):
        load_body(dtype=torch.float16)
