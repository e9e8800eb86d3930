"""The operators in plain torch: oracle of the tests, any floating type, any number of derivatives.

They read the same plans as the native operators, so an exported graph holds no custom operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.conventions import MIN_DEPTH
from eft_fast.ops.plans import MeshPlan, PointsPlan


def _sinc(squared: Tensor) -> Tensor:
    """sin(t)/t of t squared, smooth through zero."""
    is_small = squared < 1e-4
    angle = torch.where(is_small, 1.0, squared).sqrt()
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42))
    value: Tensor = torch.where(is_small, series, angle.sin() / angle)
    return value


def _from_axis_angle(vector: Tensor) -> Tensor:
    """R = I + sin(t)/t K + 2 (sin(t/2)/t)^2 K^2."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    K: Tensor = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    squared = (vector * vector).sum(-1)[..., None, None]
    half = _sinc(squared / 4)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    matrix: Tensor = identity + _sinc(squared) * K + half * half / 2 * (K @ K)
    return matrix


def _from_rot6d(values: Tensor) -> Tensor:
    """Gram-Schmidt of the columns of a flattened [3, 2]; without a direction, the identity."""
    a1, a2 = values.unflatten(-1, (3, 2)).unbind(-1)
    limits = torch.finfo(values.dtype)
    tiny = limits.tiny / limits.eps
    n1 = (a1 * a1).sum(-1, keepdim=True)
    b1 = a1 / torch.where(n1 <= tiny, 1.0, n1).sqrt()
    rest = a2 - (b1 * a2).sum(-1, keepdim=True) * b1
    n2 = (rest * rest).sum(-1, keepdim=True)
    parallel = n2 <= (4 * limits.eps) ** 2 * (a2 * a2).sum(-1, keepdim=True) + tiny
    is_degenerate = (n1 <= tiny) | parallel
    b2 = rest / torch.where(is_degenerate, 1.0, n2).sqrt()
    matrix = torch.stack([b1, b2, torch.linalg.cross(b1, b2)], -1)
    identity = torch.eye(3, dtype=values.dtype, device=values.device)
    return torch.where(is_degenerate[..., None], identity, matrix)


def pose_to_matrices(pose: Tensor) -> Float[Tensor, "B 24 3 3"]:
    """Rotation matrices of a pose in any of its three forms, told apart by shape."""
    if pose.ndim == 4:
        return pose
    return _from_axis_angle(pose) if pose.shape[-1] == 3 else _from_rot6d(pose)


def kinematic_chain(
    betas: Tensor, rotations: Tensor, skeleton: Tensor, parents: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """World rotations G [B,24,3,3], joints g [B,24,3], skinning translations a [B,24,3]."""
    rest = skeleton[..., 0] + torch.einsum("jck,bk->bjc", skeleton[..., 1:], betas)
    # Level by level of the tree: nine products for SMPL in place of 23.
    sizes, *numbers = _levels(tuple(parents))
    # Made at each call: kept ones would be of the first call's device and mode.
    joints, above, places_above, order = torch.tensor(numbers, device=rest.device)
    offsets = rest.index_select(1, joints) - rest.index_select(1, above)
    turns = rotations.index_select(1, joints)
    world, place = turns[:, :1], rest[:, :1]
    worlds, places = [world], [place]
    levels = zip(
        places_above.split(sizes), offsets.split(sizes, 1), turns.split(sizes, 1), strict=True
    )
    next(levels)  # the root
    for at, offset, turn in levels:
        parent = world.index_select(1, at)
        place = place.index_select(1, at) + (parent @ offset[..., None])[..., 0]
        world = parent @ turn
        worlds.append(world)
        places.append(place)
    G, g = (torch.cat(parts, 1).index_select(1, order) for parts in (worlds, places))
    return G, g, g - (G @ rest[..., None])[..., 0]


def tree_levels(parents: Sequence[int]) -> list[list[int]]:
    """Joints of a tree by their depth; the root, number 0, first."""
    levels = [[0]]
    while below := [j for j, parent in enumerate(parents) if j and parent in levels[-1]]:
        levels.append(below)
    return levels


@lru_cache(maxsize=8)
def _levels(
    parents: tuple[int, ...],
) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Joints by their depth in the tree, all levels laid end to end.

    Returns:
        Sizes of the levels. Of each joint in this order: its number, its parent (the root: itself),
        and the place of the parent in the level before. And where each joint stands.
    """
    levels = tree_levels(parents)
    flat = [joint for level in levels for joint in level]
    above = [max(parents[joint], 0) for joint in flat]
    places = [0] + [
        before.index(parents[joint]) for before, level in pairwise(levels) for joint in level
    ]
    order = [flat.index(joint) for joint in range(len(parents))]
    return [len(level) for level in levels], flat, above, places, order


def _coefficients(betas: Tensor, rotations: Tensor) -> Float[Tensor, "B 218"]:
    identity = torch.eye(3, dtype=betas.dtype, device=betas.device)
    features = (rotations[:, 1:] - identity).flatten(1)
    return torch.cat([torch.ones_like(betas[:, :1]), betas, features], 1)


def smpl_mesh(
    plan: MeshPlan, betas: Tensor, pose: Tensor, transl: Tensor | None = None
) -> tuple[Float[Tensor, "B V 3"], Float[Tensor, "B 24 3"]]:
    """Vertices and kinematic joints; see ``ops.smpl_mesh``."""
    rotations = pose_to_matrices(pose)
    G, g, a = kinematic_chain(betas, rotations, plan.skeleton, plan.parents.tolist())
    count = plan.num_vertices
    basis = plan.basis.permute(1, 0, 3, 2).reshape(218, -1, 3)
    posed = torch.einsum("bk,kvc->bvc", _coefficients(betas, rotations), basis)[:, :count]
    transforms = torch.cat([G, a[..., None]], -1).flatten(2)
    slots = plan.slot_weight.shape[1]
    idx = plan.slot_idx.permute(0, 2, 1).reshape(-1, slots)[:count].long()
    weight = plan.slot_weight.permute(0, 2, 1).reshape(-1, slots)[:count]
    dense = weight.new_zeros(count, 24).scatter_add(1, idx, weight)
    blended = (dense @ transforms).unflatten(-1, (3, 4))
    vertices = (blended[..., :3] @ posed[..., None])[..., 0] + blended[..., 3]
    if transl is not None:
        vertices, g = vertices + transl[:, None], g + transl[:, None]
    return vertices, g


def smpl_points(
    plan: PointsPlan, betas: Tensor, pose: Tensor, transl: Tensor | None = None
) -> Float[Tensor, "B K 3"]:
    """Points without the mesh; see ``ops.smpl_points``."""
    rotations = pose_to_matrices(pose)
    G, g, a = kinematic_chain(betas, rotations, plan.skeleton, plan.parents.tolist())
    people, sources = len(betas), plan.transl_weight.shape[0]
    coefficients = _coefficients(betas, rotations)
    rows = torch.einsum("bk,kcr->bcr", coefficients, plan.basis)
    row, joint, source = plan.term_index.long().unbind(1)
    alpha, omega = plan.term_weight.unbind(1)
    turned = (G[:, joint] @ rows[:, :, row].transpose(1, 2)[..., None])[..., 0]
    terms = alpha[:, None] * turned + omega[:, None] * a[:, joint]
    points = terms.new_zeros(people, sources, 3).index_add(1, source, terms)
    chain_joint, chain_source = plan.joint_index.long().unbind(1)
    points = points.index_add(1, chain_source, plan.joint_weight[:, None] * g[:, chain_joint])
    if transl is not None:
        points = points + plan.transl_weight[:, None] * transl[:, None]
    return points[:, plan.output_index.long()]


def project(points: Float[Tensor, "B K 3"], camera: Tensor) -> Float[Tensor, "B K 2"]:
    """Weak perspective s X + t of camera [B,3], or K, R, t of camera [B,21]."""
    if camera.shape[1] == 3:
        return camera[:, None, :1] * points[..., :2] + camera[:, None, 1:]
    intrinsics, rotation = camera[:, :9].reshape(-1, 3, 3), camera[:, 9:18].reshape(-1, 3, 3)
    seen = points @ rotation.transpose(1, 2) + camera[:, None, 18:]
    is_held = seen[..., 2:] < MIN_DEPTH
    flat = seen[..., :2] / torch.where(is_held, MIN_DEPTH, seen[..., 2:])
    return flat @ intrinsics[:, :2, :2].transpose(1, 2) + intrinsics[:, None, :2, 2]


def _limb_term(image: Tensor, index: Tensor, target: Tensor) -> Float[Tensor, " B"]:
    """Sum over limbs of weight (1 - cos); a limb without length counts as cos = 0."""
    start, end = index.long().unbind(1)
    limb = image[:, end] - image[:, start]
    squared = (limb * limb).sum(-1, keepdim=True)
    has_none = squared <= torch.finfo(limb.dtype).tiny / torch.finfo(limb.dtype).eps
    unit = torch.where(has_none, 0.0, limb / torch.where(has_none, 1.0, squared).sqrt())
    cosine = (unit * target[..., :2]).sum(-1)
    return (target[..., 2] * (1 - cosine)).sum(-1)


def keypoint_loss(
    plan: PointsPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    camera: Tensor,
    keypoints: Float[Tensor, "B K 3"],
    limb_index: Int[Tensor, "L 2"] | None,
    limb_target: Float[Tensor, "B L 3"] | None,
    weights: tuple[float, float, float, float],
    unit: float,
    sigma: float,
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 4"]]:
    """Loss of each person and its four unweighted parts; see ``ops.keypoint_loss``."""
    image = project(smpl_points(plan, betas, pose, transl), camera)
    confidence = keypoints[..., 2:]
    error = torch.where(confidence == 0, 0.0, unit * (image - keypoints[..., :2]))
    squared = error * error
    penalty = sigma**2 * squared / (sigma**2 + squared) if sigma > 0 else squared
    total = (confidence * penalty).sum((1, 2)) / (2 * max(plan.num_points, 1))
    zero = torch.zeros_like(total)
    guard = torch.exp(-20 * camera[:, 0]) if camera.shape[1] == 3 else zero
    limbs = zero
    if limb_index is not None and limb_target is not None:
        limbs = _limb_term(image, limb_index, limb_target)
    parts = torch.stack([total, (betas * betas).mean(1), guard, limbs], 1)
    loss = sum((w * parts[:, i] for i, w in enumerate(weights)), zero)
    return loss, parts.detach()
