from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eft_fast.geometry import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rot6d,
    rot6d_to_matrix,
)

ANGLES = [0.0, 1e-30, 1e-8, 1e-4, 9.9e-3, 1.01e-2, 1.0, 3.0, math.pi - 1e-4, math.pi - 1e-9]


def rotation_vectors(angle: float, count: int = 40) -> torch.Tensor:
    axis = torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=1)
    return angle * axis


def exponential(vector: torch.Tensor) -> torch.Tensor:
    """Matrix exponential of the cross matrix: an oracle that shares no formula with ours."""
    generators = torch.zeros(3, 3, 3, dtype=vector.dtype)
    for axis, (row, column) in enumerate([(2, 1), (0, 2), (1, 0)]):
        generators[axis, row, column] = 1
        generators[axis, column, row] = -1
    return torch.linalg.matrix_exp(torch.einsum("bi,ijk->bjk", vector, generators))


@pytest.mark.parametrize("angle", [*ANGLES, math.pi, 5.0])
def test_axis_angle_equals_the_exponential(angle):
    vector = rotation_vectors(angle)
    torch.testing.assert_close(
        axis_angle_to_matrix(vector), exponential(vector), rtol=0, atol=2e-14
    )
    single = axis_angle_to_matrix(vector.float())
    torch.testing.assert_close(single.double(), exponential(vector), rtol=0, atol=1e-6)


def test_gradient_at_zero_is_the_generator():
    jacobian = torch.autograd.functional.jacobian(axis_angle_to_matrix, torch.zeros(3))
    expected = torch.zeros(3, 3, 3)
    expected[2, 1, 0] = expected[0, 2, 1] = expected[1, 0, 2] = 1
    assert torch.equal(jacobian, expected - expected.transpose(0, 1))


@pytest.mark.parametrize("angle", ANGLES)
def test_gradients(angle):
    vector = rotation_vectors(angle, 3).requires_grad_()
    assert torch.autograd.gradcheck(axis_angle_to_matrix, vector)
    assert torch.autograd.gradgradcheck(axis_angle_to_matrix, vector)


@pytest.mark.parametrize("angle", ANGLES)
def test_axis_angle_round_trip(angle):
    """At pi the logarithm is sensitive to rounding: d(angle) is about the error of the matrix."""
    vector = rotation_vectors(angle)
    back = matrix_to_axis_angle(axis_angle_to_matrix(vector))
    torch.testing.assert_close(back, vector, rtol=0, atol=1e-13 if angle < 3 else 1e-12)


def test_axis_angle_at_exactly_pi_is_one_of_the_two():
    vector = rotation_vectors(math.pi)
    matrix = axis_angle_to_matrix(vector)
    back = matrix_to_axis_angle(matrix)
    torch.testing.assert_close(axis_angle_to_matrix(back), matrix, rtol=0, atol=1e-13)
    assert (back.norm(dim=1) <= math.pi + 1e-12).all()


@pytest.mark.parametrize("angle", [0.0, 1e-8, 9.9e-3, 1.0, 3.0, math.pi - 1e-3])
def test_gradient_of_the_round_trip_is_the_identity(angle):
    """Below pi, vector to matrix to vector is the identity, and so is its derivative."""

    def round_trip(vector):
        return matrix_to_axis_angle(axis_angle_to_matrix(vector))

    for vector in rotation_vectors(angle, 5):
        jacobian = torch.autograd.functional.jacobian(round_trip, vector)
        torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_turns_have_finite_gradients(dtype):
    half_turns = torch.stack(
        [torch.diag(torch.tensor(d, dtype=dtype)) for d in ((1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    ).requires_grad_()
    vector = matrix_to_axis_angle(half_turns)
    vector.sum().backward()
    torch.testing.assert_close(vector.abs(), math.pi * torch.eye(3, dtype=dtype))
    assert half_turns.grad is not None
    assert half_turns.grad.isfinite().all()


def test_rotations_agree_with_scipy():
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    vector = rotation_vectors(1.0) * torch.rand(40, 1, dtype=torch.float64) * 3
    matrix = axis_angle_to_matrix(vector)
    np.testing.assert_allclose(matrix, rotation.from_rotvec(vector.numpy()).as_matrix(), atol=1e-14)
    np.testing.assert_allclose(
        matrix_to_axis_angle(matrix), rotation.from_matrix(matrix.numpy()).as_rotvec(), atol=1e-13
    )


def test_rot6d_uses_the_layout_of_spin():
    """Elements 0, 2, 4 are the first column; written out independently of the code."""
    numbers = torch.randn(7, 6, dtype=torch.float64)
    matrix = rot6d_to_matrix(numbers)
    first, second = numbers[:, 0::2], numbers[:, 1::2]
    column = first / first.norm(dim=1, keepdim=True)
    torch.testing.assert_close(matrix[:, :, 0], column)
    assert (torch.einsum("bi,bi->b", matrix[:, :, 1], second) > 0).all()
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(7, dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64).expand(7, 3, 3)
    torch.testing.assert_close(matrix.transpose(1, 2) @ matrix, eye)
    torch.testing.assert_close(rot6d_to_matrix(matrix_to_rot6d(matrix)), matrix)


def test_rot6d_gradients():
    numbers = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rot6d_to_matrix, numbers)
    assert torch.autograd.gradgradcheck(rot6d_to_matrix, numbers)


@pytest.mark.parametrize(
    "numbers",
    [[0.0] * 6, [0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0], [1, -2, 2, -4, 3, -6], [0.1] * 6],
    ids=["zero", "first zero", "second zero", "opposite", "parallel"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_rot6d_is_the_identity_with_zero_gradient(numbers, dtype):
    value = torch.tensor([numbers, [1, 0, 0, 1, 0, 0]], dtype=dtype, requires_grad=True)
    matrix = rot6d_to_matrix(value)
    assert torch.equal(matrix, torch.eye(3, dtype=dtype).expand(2, 3, 3))
    (matrix * torch.randn(2, 3, 3, dtype=dtype)).sum().backward()
    assert value.grad is not None
    assert not value.grad[0].any()
    assert value.grad[1].any()


def test_nan_stays_in_its_own_row():
    vector = torch.randn(3, 3)
    vector[1] = torch.nan
    matrix = axis_angle_to_matrix(vector)
    assert matrix[1].isnan().any()
    assert torch.equal(matrix[::2], axis_angle_to_matrix(vector[::2]))


def test_empty_batches_and_wrong_inputs():
    assert axis_angle_to_matrix(torch.zeros(0, 24, 3)).shape == (0, 24, 3, 3)
    assert matrix_to_axis_angle(torch.zeros(0, 3, 3)).shape == (0, 3)
    assert rot6d_to_matrix(torch.zeros(0, 6)).shape == (0, 3, 3)
    with pytest.raises(ValueError, match=r"axis_angle must be \[\.\.\., 3\], got \[2, 4\]"):
        axis_angle_to_matrix(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"matrix must be \[\.\.\., 3, 3\]"):
        matrix_to_axis_angle(torch.zeros(3))
    with pytest.raises(TypeError, match="rot6d must be floating point"):
        rot6d_to_matrix(torch.zeros(6, dtype=torch.int64))
