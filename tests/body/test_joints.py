from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl, load_body
from eft_fast.body.arrays import BodyArrays
from eft_fast.body.joints import (
    JointDefinitions,
    points_from_regressor,
    points_from_surface,
    points_from_triangles,
    points_from_vertices,
    read_regressor,
)
from eft_fast.body.model_io import load_arrays
from eft_fast.keypoints import JOINT_SETS, LANDMARKS, SMPL45_VERTICES, SPIN49_SOURCES
from tests.helpers import make_pose_inputs, make_tiny_arrays

DEFINED = sorted(n for n, s in JOINT_SETS.items() if n != "mpiinf28" and not s.body_set)


@pytest.fixture(scope="module")
def open_arrays() -> BodyArrays:
    return load_arrays("open")


@pytest.fixture(scope="module")
def smpl_arrays(open_arrays) -> BodyArrays:
    """A stand-in for a licensed SMPL: no landmarks of its own."""
    return replace(open_arrays, model_id="smpl-neutral", keypoint_rows={})


def rest_points(arrays: BodyArrays, points) -> np.ndarray:
    joints = arrays.J_regressor @ arrays.v_template
    return np.array(
        [
            sum((f * joints[j] for j, f in points.rows.joints[k].items()), np.zeros(3))
            + sum((f * arrays.v_template[v] for v, f in points.rows.vertices[k].items()), 0)
            for k in range(len(points))
        ]
    )


@pytest.mark.parametrize("family", ["open", "smpl"])
@pytest.mark.parametrize("name", DEFINED)
def test_every_set_is_a_mirrored_person(open_arrays, smpl_arrays, family, name):
    """Rows sum to 1, left is at +x, and mirrored joints lie at mirrored places, within 1 mm.

    Smaller is not to be had: features stored in half precision, and side-specific vertex ids.
    """
    arrays = open_arrays if family == "open" else smpl_arrays
    order = JOINT_SETS[name]
    points = JointDefinitions(arrays)(name)
    assert points.names == order.names
    assert points.body_id == ("open-1" if family == "open" else "smpl")
    sums = [
        sum(points.rows.joints[k].values()) + sum(points.rows.vertices[k].values())
        for k in range(len(order))
    ]
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    places = rest_points(arrays, points)
    mirrored = places[list(order.flip)] * [-1, 1, 1]
    np.testing.assert_allclose(places, mirrored, atol=1e-3)
    for index, label in enumerate(order.names):
        if order.flip[index] != index:
            side = label.removeprefix("op_")[0]
            assert (places[index, 0] > 0) == (side == "l"), label


@pytest.mark.parametrize("family", ["open", "smpl"])
def test_people_stand_upright(open_arrays, smpl_arrays, family):
    """Heights are in the order of a body: crown, ears, neck, shoulders, spine, hips, knees."""
    arrays = open_arrays if family == "open" else smpl_arrays
    points = JointDefinitions(arrays)("j24")
    height = dict(zip(points.names, rest_points(arrays, points)[:, 1], strict=True))
    order = "headtop head lear neck thorax spine lhip lkne lank".split()
    heights = [height[name] for name in order]
    assert heights == sorted(heights, reverse=True)
    assert arrays.v_template[:, 1].max() - height["headtop"] < 0.02


def test_stand_in_landmarks_lie_near_those_of_the_open_body(open_arrays, smpl_arrays):
    own = JointDefinitions(open_arrays)("j24")
    stand_in = JointDefinitions(smpl_arrays)("j24")
    distance = np.linalg.norm(
        rest_points(open_arrays, own) - rest_points(smpl_arrays, stand_in), axis=1
    )
    assert distance.max() < 0.03


@pytest.mark.parametrize("name", sorted(JOINT_SETS))
def test_tiny_body_defines_the_same_sets(name):
    definitions = JointDefinitions(make_tiny_arrays())
    if name in DEFINED:
        assert definitions(name).names == JOINT_SETS[name].names
    else:
        use = JOINT_SETS[name].body_set or "smpl24"
        with pytest.raises(ValueError, match=f"{name} needs .* and more, which body .*; use {use}"):
            definitions(name)


def test_spin49_takes_its_sources(open_arrays):
    """Joint or vertex of the 45, or one of the nine landmarks, as EFT's list has it."""
    rows = JointDefinitions(open_arrays)("spin49").rows
    for k, source in enumerate(SPIN49_SOURCES):
        if source < 24:
            assert rows.joints[k] == {source: 1.0}
            assert not rows.vertices[k]
        elif source < 45:
            assert rows.vertices[k] == {SMPL45_VERTICES[source - 24]: 1.0}
        else:
            row = open_arrays.keypoint_rows[LANDMARKS[source - 45]]
            assert rows.vertices[k] == dict(zip(row.indices, row.values, strict=True))


def test_what_the_sets_are_made_of(open_arrays, smpl_arrays):
    """OpenPose's neck and hip are midpoints; COCO's limbs are the body's landmarks, or joints."""
    definitions = JointDefinitions(open_arrays)
    for name in ("op25", "op18", "panoptic19"):
        points = definitions(name)
        assert points.rows.joints[points.names.index("neck")] == {16: 0.5, 17: 0.5}
        assert points.rows.joints[points.names.index("relb")] == {19: 1.0}
    assert definitions("op25").rows.joints[8] == {1: 0.5, 2: 0.5}
    coco = definitions("coco17")
    row = open_arrays.keypoint_rows["coco_lkne"]
    place = coco.names.index("lkne")
    assert coco.rows.vertices[place] == dict(zip(row.indices, row.values, strict=True))
    assert JointDefinitions(smpl_arrays)("coco17").rows.joints[place] == {4: 1.0}
    h36m = definitions("h36m17_Jreg")
    assert h36m.rows.joints[0] == {1: 0.5, 2: 0.5}
    assert h36m.rows.joints[8] == {12: 1.0}
    row = open_arrays.keypoint_rows["head_h36m"]
    assert h36m.rows.vertices[10] == dict(zip(row.indices, row.values, strict=True))
    assert definitions("mpii16").rows.vertices[9] == definitions("j24").rows.vertices[13]


def test_approximations_are_named(open_arrays, smpl_arrays):
    for arrays, word in ((open_arrays, "own"), (smpl_arrays, "eft_fast")):
        points = JointDefinitions(arrays)("spin49")
        landmarks = {n for n, s in zip(points.names, SPIN49_SOURCES, strict=True) if s >= 45}
        assert set(points.approx) == landmarks
        assert all(word in note for note in points.approx.values())
    assert "lsho" in JointDefinitions(smpl_arrays)("coco17").approx
    assert "mouth" in " ".join(JointDefinitions(open_arrays)("mp33").approx)
    assert not JointDefinitions(open_arrays)("smpl45").approx


def make_regressor(vertices: int = 37, rows: int = 9) -> np.ndarray:
    regressor = np.zeros((rows, vertices))
    regressor[np.arange(rows), np.arange(rows) * 2] = 0.25
    regressor[np.arange(rows), np.arange(rows) * 2 + 1] = 0.75
    return regressor


def test_given_landmarks_replace_the_stand_ins(smpl_arrays):
    regressor = make_regressor(6890)
    points = JointDefinitions(smpl_arrays, regressor)("spin49")
    assert points.rows.vertices[25 + 2] == {0: 0.25, 1: 0.75}
    assert points.rows.vertices[25 + 18] == {16: 0.25, 17: 0.75}
    assert not points.approx


def test_foreign_landmarks_are_refused_by_id(tmp_path):
    """The open body has SMPL's vertex count; only the id tells them apart."""
    path = tmp_path / "J_regressor_extra.npy"
    np.save(path, make_regressor(6890))
    with pytest.raises(ValueError, match=r"J_regressor_extra belongs to smpl, the body is open-1"):
        load_body("open", extra_regressor=path)
    with pytest.raises(ValueError, match="belongs to smpl-male, the body is open-1"):
        load_body("open", extra_regressor=path, extra_regressor_id="smpl-male")
    body = load_body("open", extra_regressor=path, extra_regressor_id="open-1")
    assert body.joint_points("spin49").rows.vertices[27] == {0: 0.25, 1: 0.75}


def test_points_of_other_bodies_are_refused(open_arrays, smpl_arrays):
    smpl = points_from_vertices(smpl_arrays, [411])
    body = Smpl(open_arrays)
    with pytest.raises(ValueError, match="set of points belongs to smpl, the body is open-1"):
        body.keypoints(None, None, None, joint_set=smpl)
    with pytest.raises(ValueError, match="the vertex list belongs to smpl, the body is open-1"):
        points_from_vertices(open_arrays, [411])
    with pytest.raises(ValueError, match="the regressor belongs to smpl, the body is open-1"):
        points_from_regressor(open_arrays, make_regressor(6890))


def test_points_of_the_user():
    """A regressor and a vertex list, computed without the mesh."""
    arrays = make_tiny_arrays()
    body = Smpl(arrays, dtype=torch.float64)
    inputs = make_pose_inputs(3)
    vertices = body(*inputs).vertices
    regressor = make_regressor()
    points = points_from_regressor(arrays, regressor, body_id="custom-tiny")
    expected = torch.einsum("kv,bva->bka", torch.from_numpy(regressor), vertices)
    torch.testing.assert_close(body.keypoints(*inputs, joint_set=points), expected)
    picked = points_from_vertices(arrays, [4, 36, 4], body_id="custom-tiny", names=["a", "b", "c"])
    assert picked.names == ("a", "b", "c")
    torch.testing.assert_close(
        body.keypoints(*inputs, joint_set=picked), vertices[:, [4, 36, 4]], rtol=0, atol=1e-12
    )


def test_points_on_the_surface():
    arrays = make_tiny_arrays()
    body = Smpl(arrays, dtype=torch.float64)
    inputs = make_pose_inputs(2)
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    faces = [0, 7, 19, 7, 3]
    points = points_from_surface(arrays, faces, weights, body_id="custom-tiny")
    corners = body(*inputs).vertices[:, arrays.faces[faces]]
    expected = torch.einsum("bkca,kc->bka", corners, torch.from_numpy(weights))
    torch.testing.assert_close(body.keypoints(*inputs, joint_set=points), expected)
    same = points_from_triangles(arrays, arrays.faces[faces], weights, body_id="custom-tiny")
    assert same.rows.vertices == points.rows.vertices
    with pytest.raises(ValueError, match="vertices from 0 to 36, got -1 to -1"):
        points_from_triangles(arrays, [[-1, -1, -1]], weights[:1], body_id="custom-tiny")
    with pytest.raises(ValueError, match=r"barycentric weights \[5, 3\], got \[2, 3\]"):
        points_from_triangles(arrays, arrays.faces[faces], weights[:2], body_id="custom-tiny")
    with pytest.raises(ValueError, match="faces from 0 to 19, got 20"):
        points_from_surface(arrays, [20], weights[:1], body_id="custom-tiny")
    with pytest.raises(ValueError, match=r"barycentric weights \[2, 3\], got \[5, 3\]"):
        points_from_surface(arrays, [1, 2], weights, body_id="custom-tiny")
    with pytest.raises(ValueError, match="surface points belongs to smpl"):
        points_from_surface(arrays, faces, weights)


def test_wrong_regressors_are_named(tmp_path):
    arrays = make_tiny_arrays()
    with pytest.raises(FileNotFoundError, match=r"no regressor file .*extra.npy"):
        read_regressor(arrays, tmp_path / "extra.npy")
    (tmp_path / "extra.npy").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"expected a .npy array of numbers, got another file"):
        read_regressor(arrays, tmp_path / "extra.npy")
    with pytest.raises(ValueError, match=r"regressor \[9, 37\] of numbers, got float64 \[8, 37\]"):
        read_regressor(arrays, make_regressor(rows=8), rows=9)
    with pytest.raises(ValueError, match=r"regressor \[K, 37\] of numbers, got float64 \[9, 36\]"):
        read_regressor(arrays, make_regressor()[:, 1:])
    with pytest.raises(ValueError, match="finite numbers in the regressor"):
        read_regressor(arrays, make_regressor() * np.nan)
    with pytest.raises(ValueError, match="expected 9 names, got 1"):
        points_from_regressor(arrays, make_regressor(), body_id="custom-tiny", names=["a"])
