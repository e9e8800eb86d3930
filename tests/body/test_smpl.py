from __future__ import annotations

import copy
import pickle

import pytest
import torch

from eft_fast.body import Smpl, load_body
from eft_fast.body.joints import points_from_vertices
from eft_fast.geometry import axis_angle_to_matrix
from tests.helpers import make_pose_inputs, make_tiny_arrays, plain_body, skip_unless_built

NAMES = ("betas", "body_pose", "global_orient", "transl")


@pytest.fixture(scope="module", params=["native", "torch"])
def body(request) -> Smpl:
    skip_unless_built(request.param)
    return Smpl(make_tiny_arrays(), dtype=torch.float64, backend=request.param)


def oracle(body: Smpl, betas, body_pose, global_orient, transl):
    """Vertices, and joints with the picked vertices behind them."""
    pose = torch.cat([global_orient, body_pose], 1).reshape(-1, 24, 3)
    vertices, joints = plain_body(body.arrays, betas, axis_angle_to_matrix(pose), transl)
    return vertices, torch.cat([joints, vertices[:, body.arrays.vertex_picks]], 1)


def test_call_equals_the_plain_body(body):
    inputs = make_pose_inputs(5)
    vertices, joints = oracle(body, *inputs)
    output = body(*inputs)
    torch.testing.assert_close(output.vertices, vertices, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.joints, joints, rtol=0, atol=1e-12)
    assert output.joints.shape == (5, 45, 3)
    assert output.full_pose.shape == (5, 24, 3)


def test_single_precision():
    body = Smpl(make_tiny_arrays())
    inputs = make_pose_inputs(3)
    vertices, joints = oracle(body, *inputs)
    output = body(*(value.float() for value in inputs))
    torch.testing.assert_close(output.vertices.double(), vertices, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.joints.double(), joints, rtol=1e-5, atol=1e-5)


def test_joints_without_the_mesh(body):
    inputs = make_pose_inputs(3)
    without = body(*inputs, return_verts=False)
    assert without.vertices is None
    torch.testing.assert_close(without.joints, body(*inputs).joints, rtol=0, atol=1e-12)


def test_forms_of_the_same_pose(body):
    """[B, 69] or [B, 23, 3], [B, 3] or [B, 1, 3], and matrices."""
    betas, body_pose, global_orient, transl = make_pose_inputs(2)
    expected = body(betas, body_pose, global_orient, transl).vertices
    shaped = body_pose.reshape(2, 23, 3), global_orient.reshape(2, 1, 3)
    assert torch.equal(body(betas, *shaped, transl).vertices, expected)
    matrices = [axis_angle_to_matrix(value) for value in shaped]
    for root in (matrices[1], matrices[1][:, 0]):
        output = body(betas, matrices[0], root, transl, pose2rot=False)
        torch.testing.assert_close(output.vertices, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pose2rot", [True, False])
def test_what_is_left_out_is_zero(body, pose2rot):
    template = torch.from_numpy(body.arrays.v_template)[None]
    output = body(pose2rot=pose2rot)
    torch.testing.assert_close(output.vertices, template, rtol=0, atol=1e-12)
    assert output.transl is None
    betas = make_pose_inputs(4)[0]
    expected = oracle(body, betas, *(torch.zeros(4, n).double() for n in (69, 3, 3)))[0]
    torch.testing.assert_close(body(betas=betas, pose2rot=pose2rot).vertices, expected)


@pytest.mark.parametrize("single", range(4))
def test_single_people_are_repeated(body, single):
    inputs = list(make_pose_inputs(3))
    inputs[single] = inputs[single][:1]
    repeated = [value.expand(3, -1) for value in inputs]
    torch.testing.assert_close(body(*inputs).vertices, body(*repeated).vertices, rtol=0, atol=0)
    points = body.keypoints(*inputs, joint_set="spin49")
    assert points.shape == (3, 49, 3)


def test_gradient_of_a_repeated_person_is_the_sum(body):
    betas, *others = make_pose_inputs(3)
    one = betas[:1].clone().requires_grad_()
    body(one, *others).vertices.square().sum().backward()
    many = betas[:1].repeat(3, 1).requires_grad_()
    body(many, *others).vertices.square().sum().backward()
    torch.testing.assert_close(one.grad, many.grad.sum(0, keepdim=True))


def test_empty_batch(body):
    inputs = make_pose_inputs(0)
    assert body(*inputs).vertices.shape == (0, 37, 3)
    assert body.keypoints(*inputs, joint_set="coco17").shape == (0, 17, 3)


@pytest.mark.parametrize("joint_set", ["smpl24", "smpl45", "spin49", "coco17", "op25", "mp33"])
def test_keypoints_equal_those_of_the_mesh(body, joint_set):
    """Without the mesh or with it: the same sums of joints and vertices."""
    inputs = make_pose_inputs(4)
    vertices, joints = oracle(body, *inputs)
    rows = body.joint_points(joint_set).rows
    expected = torch.zeros(4, len(rows), 3, dtype=torch.float64)
    for k in range(len(rows)):
        for joint, factor in rows.joints[k].items():
            expected[:, k] += factor * joints[:, joint]
        for vertex, factor in rows.vertices[k].items():
            expected[:, k] += factor * vertices[:, vertex]
    points = body.keypoints(*inputs, joint_set=joint_set)
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-12)


def test_gradients(body):
    inputs = tuple(value.requires_grad_() for value in make_pose_inputs(2))

    def mesh(*values):
        output = body(*values)
        return output.vertices, output.joints

    def points(*values):
        return body.keypoints(*values, joint_set="spin49")

    assert torch.autograd.gradcheck(mesh, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(points, inputs, fast_mode=True)


def test_attributes_have_the_shapes_of_smplx(body):
    assert body.id == "custom-tiny"
    assert body.v_template.shape == (37, 3)
    assert body.shapedirs.shape == (37, 3, 10)
    assert body.posedirs.shape == (207, 111)
    assert body.J_regressor.shape == (24, 37)
    assert body.lbs_weights.shape == (37, 24)
    assert body.parents.tolist()[:4] == [-1, 0, 0, 0]
    assert body.faces.shape == (20, 3)
    assert torch.equal(body.faces_tensor, torch.from_numpy(body.faces))
    direction = body.posedirs[5].reshape(37, 3)
    torch.testing.assert_close(direction, torch.from_numpy(body.arrays.posedirs[:, :, 5]))
    assert "custom-tiny, 37 vertices" in repr(body)


def test_unknown_backends_are_named():
    with pytest.raises(ValueError, match="backend must be 'auto', 'native' or 'torch', got 'cpp'"):
        Smpl(make_tiny_arrays(), backend="cpp")()


def test_model_data_stays_out_of_checkpoints(body):
    assert not body.state_dict()
    assert not list(body.parameters())


def test_moving_to_another_type_rounds_once():
    body = Smpl(make_tiny_arrays())
    inputs = make_pose_inputs(2)
    body.keypoints(*(value.float() for value in inputs), joint_set="spin49")
    double = body.to(torch.float64)
    exact = Smpl(make_tiny_arrays(), dtype=torch.float64)
    points = double.keypoints(*inputs, joint_set="spin49")
    assert torch.equal(points, exact.keypoints(*inputs, joint_set="spin49"))


def test_plans_are_built_once(body):
    first = body.points_plan("coco17")
    assert body.points_plan("coco17") is first
    assert copy.deepcopy(body).points_plan("coco17") is not first


def test_points_defined_anew_in_a_loop_do_not_fill_the_memory(body):
    first = body.points_plan("coco17")
    own = points_from_vertices(body.arrays, [1, 2], body_id=body.id)
    plan = body.points_plan(own)
    assert body.points_plan(own) is plan
    for vertex in range(37):
        body.points_plan(points_from_vertices(body.arrays, [vertex], body_id=body.id))
    assert len(body._plans) < 50
    assert body.points_plan("coco17") is first
    again = body.points_plan(own)
    assert again is not plan
    assert torch.equal(again.basis, plan.basis)


@pytest.mark.parametrize("source", ["tiny", "open"])
def test_body_moves_between_processes(source):
    body = Smpl(make_tiny_arrays()) if source == "tiny" else load_body()
    inputs = [value.float() for value in make_pose_inputs(2)]
    again = pickle.loads(pickle.dumps(body))
    assert torch.equal(again(*inputs).vertices, body(*inputs).vertices)
    coco = copy.deepcopy(body).keypoints(*inputs, joint_set="coco17")
    assert torch.equal(coco, body.keypoints(*inputs, joint_set="coco17"))


def test_devices(device):
    inputs = make_pose_inputs(3)
    body = Smpl(make_tiny_arrays(), dtype=torch.float64)
    vertices, joints = oracle(body, *inputs)
    there = body.to(device)
    output = there(*(value.to(device) for value in inputs))
    torch.testing.assert_close(output.vertices.cpu(), vertices, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.joints.cpu(), joints, rtol=0, atol=1e-12)
    points = there.keypoints(*(value.to(device) for value in inputs), joint_set="smpl45")
    torch.testing.assert_close(points.cpu(), joints, rtol=0, atol=1e-12)


def test_a_body_without_known_vertices():
    arrays = make_tiny_arrays(landmarks=False)
    object.__setattr__(arrays, "vertex_picks", None)
    body = Smpl(arrays, dtype=torch.float64)
    assert body(return_verts=False).joints.shape == (1, 24, 3)
    assert body().joints.shape == (1, 24, 3)
    assert body.keypoints(None, None, None, joint_set="smpl24").shape == (1, 24, 3)
    with pytest.raises(
        ValueError, match="coco17 needs nose, leye, reye, lear and more, which body"
    ):
        body.keypoints(None, None, None, joint_set="coco17")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("betas", (2, 11), r"Smpl: betas must be \[B, 10\], got \[2, 11\]"),
        ("betas", (10,), r"betas must be \[B, 10\], got \[10\]"),
        ("body_pose", (2, 72), r"body_pose must be \[B, 23, 3\], got \[2, 72\]"),
        ("body_pose", (2, 24, 3), r"body_pose must be \[B, 23, 3\], got \[2, 24, 3\]"),
        ("body_pose", (2, 23, 3, 3), "rotation matrices need pose2rot=False"),
        ("global_orient", (2, 2, 3), r"global_orient must be \[B, 1, 3\], got \[2, 2, 3\]"),
        ("transl", (2, 1, 3), r"transl must be \[B, 3\], got \[2, 1, 3\]"),
    ],
)
def test_wrong_shapes_are_named(body, name, shape, message):
    inputs = dict(zip(NAMES, make_pose_inputs(2), strict=True))
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        body(**inputs)


def test_other_wrong_inputs_are_named(body):
    betas, body_pose, global_orient, transl = make_pose_inputs(2)
    with pytest.raises(ValueError, match="as many people, got betas 2, body_pose 3"):
        body(betas, torch.zeros(3, 69, dtype=torch.float64))
    with pytest.raises(
        TypeError, match=r"betas must be torch.float64 like the body, got .*float32"
    ):
        body(betas.float(), body_pose)
    with pytest.raises(TypeError, match="transl must be a tensor, got list"):
        body(betas, body_pose, global_orient, transl.tolist())
    with pytest.raises(ValueError, match=r"body_pose must be \[B, 23, 3, 3\], got \[2, 69\]"):
        body(betas, body_pose, pose2rot=False)
    with pytest.raises(ValueError, match="got 'cocoo'; did you mean"):
        body.keypoints(betas, body_pose, global_orient, joint_set="cocoo")
    with pytest.raises(ValueError, match="betas must be on cpu like the body, got meta"):
        body(betas.to("meta"))


def test_nan_stays_in_its_own_person(body):
    inputs = make_pose_inputs(3)
    clean = body.keypoints(*inputs, joint_set="spin49")
    inputs[1][1] = torch.nan
    dirty = body.keypoints(*inputs, joint_set="spin49")
    assert dirty[1].isnan().any()
    assert torch.equal(dirty[::2], clean[::2])
