"""The shipped open body: keys, hash, geometry, and that its card describes this very file."""

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ASSETS = Path(__file__).resolve().parents[2] / "eft_fast" / "assets"
V, F = 6890, 13768
KEYS = {
    "v_template": ("float32", (V, 3)),
    "f": ("uint16", (F, 3)),
    "shapedirs": ("float16", (V, 3, 10)),
    "posedirs": ("float16", (V, 3, 207)),
    "weight_idx": ("uint8", (V, 4)),
    "weight_val": ("float16", (V, 4)),
    "J_data": ("float32", None),
    "J_indices": ("uint16", None),
    "J_indptr": ("uint16", (25,)),
    "parents": ("int8", (24,)),
    "uv": ("float16", None),
    "fuv": ("uint16", (F, 3)),
    "sym_idx": ("uint16", (V,)),
    "kp_data": ("float32", None),
    "kp_indices": ("uint16", None),
    "kp_indptr": ("uint16", None),
}
TEXTS = {
    "format": "eft-body/1",
    "model_id": "open-body/1",
    "licence": "CC0-1.0",
    "units": "m, y up",
    "source_sha256": "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
}
EXTRA_ROWS = (
    "rhip_lsp lhip_lsp neck_lsp headtop_lsp pelvis_mpii thorax_mpii spine_h36m jaw_h36m head_h36m"
)
LIMBS = "sho elb wri hip kne ank"
# smplx's id and where it belongs on the template, left side, metres.
PICKS = {
    332: (0, 0.418, 0.155),
    2800: (0.029, 0.461, 0.129),
    583: (0.074, 0.433, 0.046),
    3216: (0.139, -1.107, 0.172),
    3226: (0.205, -1.110, 0.121),
    3387: (0.122, -1.099, -0.086),
    2746: (0.764, 0.187, 0.083),
    2319: (0.840, 0.214, 0.049),
    2445: (0.854, 0.216, 0.006),
    2556: (0.842, 0.218, -0.025),
    2673: (0.806, 0.219, -0.051),
}
RIGHT_PICKS = {
    2800: 6260, 583: 4071, 3216: 6617, 3226: 6624, 3387: 6787,
    2746: 6191, 2319: 5782, 2445: 5905, 2556: 6016, 2673: 6133,
}  # fmt: skip
# pelvis, hip, spine1, knee, spine2, ankle, spine3, foot, neck, collar, head, arm: left or central.
JOINTS = {
    0: (0, -0.220, 0),
    1: (0.087, -0.268, -0.001),
    3: (0, -0.071, -0.024),
    4: (0.136, -0.615, -0.006),
    6: (0, 0.029, -0.028),
    7: (0.131, -1.046, -0.032),
    9: (0, 0.073, -0.032),
    10: (0.150, -1.094, 0.112),
    12: (0, 0.320, 0),
    13: (0.088, 0.239, -0.005),
    15: (0, 0.405, 0.024),
    16: (0.176, 0.250, 0.009),
    18: (0.434, 0.243, 0.004),
    20: (0.665, 0.242, 0.003),
    22: (0.770, 0.247, 0.010),
}
MIRROR_JOINTS = [
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22,
]  # fmt: skip
FLIP_X = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def body():
    """The stored arrays, read without pickle."""
    with np.load(ASSETS / "open_body.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def weights(body):
    """Dense skinning weights [V, 24], normalised."""
    dense = np.zeros((V, 24))
    index = body["weight_idx"].astype(int)
    np.add.at(dense, (np.arange(V)[:, None], index), body["weight_val"].astype(float))
    return dense / dense.sum(1, keepdims=True)


def dense_rows(body, name):
    """Expand compressed rows over vertices."""
    start = body[f"{name}_indptr"].astype(int)
    rows = np.zeros((len(start) - 1, V))
    for row, (a, b) in enumerate(pairwise(start)):
        rows[row, body[f"{name}_indices"][a:b].astype(int)] = body[f"{name}_data"][a:b]
    return rows


def test_keys_types_and_shapes(body):
    assert set(body) == set(KEYS) | set(TEXTS) | {"source", "kp_names"}
    for key, (dtype, shape) in KEYS.items():
        assert body[key].dtype == dtype, key
        assert shape is None or body[key].shape == shape, key
    for key, text in TEXTS.items():
        assert body[key].shape == ()
        assert str(body[key]) == text
    assert body["kp_names"].dtype.kind == "U"
    assert all(np.isfinite(a).all() for a in body.values() if a.dtype.kind == "f")


def test_file_is_small():
    assert (ASSETS / "open_body.npz").stat().st_size <= 2_000_000


def test_card_names_this_file(body):
    digest = hashlib.sha256()
    for key in sorted(body):
        array = np.ascontiguousarray(body[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    card = (ASSETS / "open_body.md").read_text()
    assert f"`{digest.hexdigest()}`" in card
    assert TEXTS["source_sha256"] in card
    assert "What is wrong with it" in card


def test_card_figures_lie_in_their_ranges():
    card = (ASSETS / "open_body.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\S+) \| (\S+) to (\S+) \|$", card, re.MULTILINE)
    assert len(rows) >= 50
    for name, value, low, high in rows:
        # The card rounds both: a figure may sit on the edge of its range.
        slack = 1e-3 * max(abs(float(low)), abs(float(high)))
        assert float(low) - slack <= float(value) <= float(high) + slack, name


def test_mesh_is_closed_and_uses_every_vertex(body):
    faces = body["f"].astype(int)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = np.unique(edges, axis=0)
    assert len(directed) == len(edges)
    # Every edge is run once in each direction, so the surface is closed and turned one way.
    assert np.array_equal(directed, np.unique(edges[:, ::-1], axis=0))
    assert np.array_equal(np.unique(faces), np.arange(V))
    assert body["fuv"].max() == len(body["uv"]) - 1


def test_stature_and_volume(body):
    vertices = body["v_template"].astype(float)
    corners = vertices[body["f"].astype(int)]
    volume = (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert np.ptp(vertices[:, 1]) == pytest.approx(1.691, abs=0.005)
    assert np.ptp(vertices[:, 0]) == pytest.approx(1.707, abs=0.005)
    assert volume == pytest.approx(0.0653, abs=0.0007)


def test_symmetry(body, weights):
    mirror = body["sym_idx"].astype(int)
    assert np.array_equal(mirror[mirror], np.arange(V))
    np.testing.assert_allclose(
        body["v_template"][mirror] * FLIP_X, body["v_template"], rtol=0, atol=1e-7
    )
    shapes = body["shapedirs"].astype(float)
    np.testing.assert_allclose(shapes[mirror] * FLIP_X[:, None], shapes, rtol=0, atol=1e-6)
    # A mirrored rotation changes sign where one of its two indices is x.
    poses = body["posedirs"].astype(float).reshape(V, 3, 23, 3, 3)
    sign = FLIP_X[:, None, None, None] * FLIP_X[:, None] * FLIP_X
    order = np.array(MIRROR_JOINTS[1:]) - 1
    np.testing.assert_allclose(poses[mirror][:, :, order] * sign, poses, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights[mirror][:, MIRROR_JOINTS], weights, rtol=0, atol=1e-6)
    faces = body["f"].astype(int)
    assert {frozenset(t) for t in faces.tolist()} == {frozenset(t) for t in mirror[faces].tolist()}


def test_rows_are_convex(body):
    for name in ("J", "kp"):
        rows = dense_rows(body, name)
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(1), 1, rtol=0, atol=1e-6)
    assert (body["weight_val"] >= 0).all()
    np.testing.assert_allclose(body["weight_val"].astype(float).sum(1), 1, rtol=0, atol=2e-3)
    assert body["weight_idx"].max() <= 23


def test_picked_vertices_are_where_smplx_looks(body):
    vertices = body["v_template"].astype(float)
    for vertex, place in PICKS.items():
        assert np.linalg.norm(vertices[vertex] - place) < 0.005, vertex
        if vertex in RIGHT_PICKS:
            assert body["sym_idx"][vertex] == RIGHT_PICKS[vertex]


def test_rest_joints(body):
    joints = dense_rows(body, "J") @ body["v_template"].astype(float)
    for joint, place in JOINTS.items():
        assert np.linalg.norm(joints[joint] - place) < 0.003, joint
    np.testing.assert_allclose(joints[MIRROR_JOINTS] * FLIP_X, joints, rtol=0, atol=1e-6)
    parents = body["parents"].astype(int)
    assert parents[0] == -1
    assert (parents[1:] < np.arange(1, 24)).all()


def test_betas_change_size_and_bulk(body):
    vertices, shapes = body["v_template"].astype(float), body["shapedirs"].astype(float)
    statures = [np.ptp((vertices + s * shapes[:, :, 0])[:, 1]) for s in (-3, 3)]
    assert statures == pytest.approx([1.40, 1.99], abs=0.02)
    spread = np.sqrt((shapes**2).sum((0, 1)))
    assert (np.diff(spread) < 0).all()


def test_keypoint_rows(body):
    names = body["kp_names"].tolist()
    wanted = EXTRA_ROWS.split() + [f"coco_{s}{n}" for n in LIMBS.split() for s in "lr"]
    assert sorted(names) == sorted(wanted)
    vertices = body["v_template"].astype(float)
    point = dict(zip(names, dense_rows(body, "kp") @ vertices, strict=True))
    joints = dense_rows(body, "J") @ vertices
    np.testing.assert_allclose(point["coco_lhip"] - joints[1], (0.008, 0.02, 0), atol=0.003)
    limbs = {"sho": 16, "elb": 18, "wri": 20, "kne": 4, "ank": 7}
    for name, joint in limbs.items():
        assert np.linalg.norm(point[f"coco_l{name}"] - joints[joint]) < 0.015, name
    for name in names:
        mirrored = name.replace("coco_l", "coco_r").replace("lhip_", "rhip_")
        if mirrored != name or name[0] not in "lrc":
            np.testing.assert_allclose(point[mirrored] * FLIP_X, point[name], rtol=0, atol=1e-5)
    assert point["headtop_lsp"][1] == pytest.approx(vertices[:, 1].max(), abs=0.005)
    assert joints[12][1] - 0.04 < point["neck_lsp"][1] < joints[12][1]


def bend(body, weights, joint, axis, degrees, share_of_directions=1.0):
    """Turn one joint about one axis; return posed vertices and the joint's place."""
    vertices = body["v_template"].astype(float)
    place = (dense_rows(body, "J") @ vertices)[joint]
    angle = np.deg2rad(degrees)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    features = np.zeros(207)
    features[(joint - 1) * 9 : joint * 9] = (turn - np.eye(3)).ravel()
    rest = vertices + share_of_directions * body["posedirs"].astype(float) @ features
    parents = body["parents"].astype(int)
    moves = np.zeros(24)
    for j in range(1, 24):
        moves[j] = j == joint or moves[parents[j]]
    share = (weights @ moves)[:, None]
    return (1 - share) * rest + share * ((rest - place) @ turn.T + place), place


@pytest.mark.parametrize(
    ("name", "joint", "axis", "degrees"),
    [("elb", 18, 1, -120), ("kne", 4, 0, 120), ("hip", 1, 0, -100), ("sho", 16, 2, -75)],
)
def test_keypoints_stay_with_a_bent_joint(body, weights, name, joint, axis, degrees):
    """A row that is right at rest only would leave the joint by up to 50 mm."""
    row = dense_rows(body, "kp")[body["kp_names"].tolist().index(f"coco_l{name}")]
    posed, place = bend(body, weights, joint, axis, degrees)
    # At rest the hip keypoint lies 22 mm from the joint, the others up to 9.
    assert np.linalg.norm(row @ posed - place) < (0.030 if name == "hip" else 0.015)


@pytest.mark.parametrize(("joint", "axis", "degrees"), [(1, 0, -100), (4, 0, 120), (16, 2, -75)])
def test_pose_directions_keep_volume(body, weights, joint, axis, degrees):
    """Linear skinning alone loses volume at a bend; the directions give part of it back."""
    corners = [
        bend(body, weights, joint, axis, degrees, share)[0][body["f"].astype(int)]
        for share in (0.0, 1.0)
    ]
    alone, corrected = [(c[:, 0] * np.cross(c[:, 1], c[:, 2])).sum() / 6 for c in corners]
    assert alone < corrected < 0.0653
