"""A small made-up body, and a plain body function that shares no code with the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from eft_fast.body.arrays import BodyArrays, VertexRow
from eft_fast.conventions import PARENTS
from eft_fast.keypoints import LANDMARKS
from eft_fast.models.base import Regressor
from eft_fast.models.error_covariance import (
    OPEN_COVARIANCE_PATH,
    ErrorCovariance,
    read_error_covariance,
)
from eft_fast.ops import _load


def skip_unless_built(backend: str) -> None:
    """Skip the native cases where the package runs without its native library."""
    if backend == "native" and not _load.is_built():
        pytest.skip("the native library is not built")


def make_covariance(regressor: Regressor) -> ErrorCovariance:
    """That of the package's regressor under the name of another."""
    found = read_error_covariance(OPEN_COVARIANCE_PATH)
    return replace(found, weights_hash=regressor.weights_hash)


def check_forward_is_features_then_head(network: Regressor, img: Tensor) -> None:
    """Of three crops: the answer has its shapes and is that of the two halves, bit for bit."""
    with torch.no_grad():
        whole = network(img)
        split = network.head_forward(network.features(img))
    assert whole.pred_rotmat.shape == (3, 24, 3, 3)
    assert whole.pred_betas.shape == (3, 10)
    assert whole.pred_cam.shape == (3, 3)
    for a, b in zip(whole, split, strict=True):
        assert torch.equal(a, b)
    identity = whole.pred_rotmat @ whole.pred_rotmat.mT
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), rtol=0, atol=1e-5)
    # Another picture gives another body.
    assert (whole.pred_rotmat[0] - whole.pred_rotmat[1]).abs().max() > 1e-4


def make_tiny_arrays(vertices: int = 37, seed: int = 0, landmarks: bool = True) -> BodyArrays:
    """A body of 24 joints and few vertices, of random but reasonable numbers."""
    rng = np.random.default_rng(seed)
    joint_idx = np.argsort(rng.random((vertices, 24)), axis=1)[:, :4].astype(np.int32)
    joint_weight = rng.random((vertices, 4)) + 0.05
    joint_weight[::3, 2:] = 0  # Most vertices of a real body move with two joints.
    joint_idx[::3, 2:] = 0
    joint_weight /= joint_weight.sum(1, keepdims=True)
    order = np.argsort(-joint_weight, axis=1, kind="stable")
    regressor = rng.random((24, vertices)) * (rng.random((24, vertices)) < 0.2)
    regressor[:, 0] += 0.01
    regressor /= regressor.sum(1, keepdims=True)
    rows = {}
    for name in LANDMARKS if landmarks else ():
        indices = np.sort(rng.choice(vertices, 3, replace=False))
        rows[name] = VertexRow(indices, rng.dirichlet(np.ones(3)))
    return BodyArrays(
        model_id="custom-tiny",
        v_template=rng.normal(size=(vertices, 3)) * 0.5,
        faces=rng.integers(0, vertices, (20, 3)),
        shapedirs=rng.normal(size=(vertices, 3, 10)) * 0.03,
        posedirs=rng.normal(size=(vertices, 3, 207)) * 0.01,
        joint_idx=np.take_along_axis(joint_idx, order, 1),
        joint_weight=np.take_along_axis(joint_weight, order, 1),
        J_regressor=regressor,
        parents=np.array(PARENTS, np.int64),
        vertex_picks=rng.choice(vertices, 21, replace=False),
        keypoint_rows=rows,
    )


def make_pose_inputs(
    people: int, dtype: torch.dtype = torch.float64, spread: float = 0.4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random betas [B, 10], body_pose [B, 69], global_orient [B, 3] and transl [B, 3]."""
    sizes = ((10, 1.0), (69, spread), (3, 1.0), (3, 0.5))
    return tuple(torch.randn(people, size, dtype=dtype) * scale for size, scale in sizes)  # type: ignore[return-value]


def plain_body(
    arrays: BodyArrays, betas: Tensor, rotmat: Tensor, transl: Tensor
) -> tuple[Tensor, Tensor]:
    """Vertices and 24 joints in float64, one person and one joint at a time: the oracle."""
    data = {
        name: torch.from_numpy(np.array(getattr(arrays, name)))
        for name in ("v_template", "shapedirs", "posedirs", "J_regressor")
    }
    weights = torch.from_numpy(arrays.weights_dense())
    meshes, joints = [], []
    for beta, rotations, shift in zip(betas, rotmat, transl, strict=True):
        shaped = data["v_template"] + data["shapedirs"] @ beta
        rest = data["J_regressor"] @ shaped
        features = (rotations[1:] - torch.eye(3, dtype=torch.float64)).reshape(-1)
        posed = shaped + data["posedirs"] @ features
        world: list[Tensor] = []
        for joint, parent in enumerate(PARENTS):
            local = torch.eye(4, dtype=torch.float64)
            local[:3, :3] = rotations[joint]
            local[:3, 3] = rest[joint] - (rest[parent] if parent >= 0 else 0)
            world.append(local if parent < 0 else world[parent] @ local)
        placed = torch.stack(world)
        moved = torch.einsum("jab,jvb->jva", placed[:, :3, :3], posed - rest[:, None])
        moved = moved + placed[:, None, :3, 3]
        meshes.append(torch.einsum("vj,jva->va", weights, moved) + shift)
        joints.append(placed[:, :3, 3] + shift)
    return torch.stack(meshes), torch.stack(joints)
